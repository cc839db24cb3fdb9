"""An image's configuration put together from what an engine tells of it. Pure.

An engine gives the exact bytes of a configuration away only with the whole image. What a container sees of it (command,
environment, user, labels, …) is in an inspection word for word, and so are the layers. So an image brought with a
configuration made here runs the same and has the same layers; only its id is another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

# OCI image specification 1.1, "Image Configuration" ← Docker Engine API, "Inspect an image".
_SAME: Final = {
    "architecture": "Architecture",
    "author": "Author",
    "config": "Config",
    "created": "Created",
    "os": "Os",
    "os.version": "OsVersion",
    "variant": "Variant",
}


def compose_config(inspected: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a configuration with the same effect, the same bytes for the same image.

    Args:
        inspected: the engine's answer to ``/images/{name}/json``.
        history: its answer to ``/images/{name}/history``, the newest step first.
    """
    layers = list((inspected.get("RootFS") or {}).get("Layers") or ())
    document = {key: inspected[name] for key, name in _SAME.items() if inspected.get(name)}
    document["rootfs"] = {"type": "layers", "diff_ids": layers}
    if steps := _steps(history, len(layers)):
        document["history"] = steps
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _steps(history: Sequence[Mapping[str, Any]], layers: int) -> list[dict[str, Any]]:
    """Return the build steps, the oldest first; none where it cannot be told which of them made a layer."""
    oldest_first = list(reversed(history))
    filled = sum(bool(step.get("Size")) for step in oldest_first)
    if layers not in (filled, len(oldest_first)):
        return []
    every_step_is_a_layer = layers == len(oldest_first)
    return [_step(step, empty=not every_step_is_a_layer and not step.get("Size")) for step in oldest_first]


def _step(step: Mapping[str, Any], *, empty: bool) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(step.get("Created") or 0), UTC).isoformat().replace("+00:00", "Z")
    found: dict[str, Any] = {"created": created}
    for key, name in (("created_by", "CreatedBy"), ("comment", "Comment")):
        if text := step.get(name):
            found[key] = text
    return found | ({"empty_layer": True} if empty else {})

"""What an engine tells of an image. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image on a host."""

    ref: str
    id: str
    layers_digest: str
    """SHA-256 over the digests of the unpacked layers, in order: equal exactly when the file systems are equal."""
    layers: tuple[str, ...]
    architecture: str
    """As Go calls it: ``amd64``, ``arm64``."""
    operating_system: str
    size: int
    """Bytes on the host's disk."""
    env: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


def image_info(ref: str, found: Mapping[str, Any]) -> ImageInfo:
    """Return what the answer to an image inspection says."""
    layers = tuple((found.get("RootFS") or {}).get("Layers") or ())
    config = found.get("Config") or {}
    return ImageInfo(
        ref=ref,
        id=str(found.get("Id", "")),
        layers_digest="sha256:" + hashlib.sha256("\n".join(layers).encode(errors="backslashreplace")).hexdigest(),
        layers=layers,
        architecture=str(found.get("Architecture", "")),
        operating_system=str(found.get("Os", "")),
        size=int(found.get("Size") or 0),
        env=tuple(config.get("Env") or ()),
        labels=tuple(sorted((config.get("Labels") or {}).items())),
    )

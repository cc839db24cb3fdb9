"""What the command about the data set prints, and how far a transfer is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hetero_tui.image_report import size_text
from hetero_tui.report import SCHEMA
from hetero_tui.sanitize import clean

if TYPE_CHECKING:
    from remote.dataset_sync import DatasetState


def standing(host: str, state: DatasetState) -> str:
    """Return how one host's data set stands, in one line."""
    parts = [clean(str(state.differences[host]), 300)]
    if host in state.unfinished:
        parts.append("a transfer did not end, and goes on where it was")
    if state.differences[host].lacking:
        parts.append(f"{size_text(state.free_bytes[host])} free")
    if host in state.problems:
        parts.append(f"nothing can be brought: {clean(state.problems[host], 300)}")
    return "; ".join(parts)


def data_text(master: str, path: str, state: DatasetState) -> str:
    """Return how all hosts stand, for people."""
    size = size_text(sum(state.sizes.values()))
    lines = [f"{master}: {len(state.sizes)} files, {size} in {path}; the measure for the others"]
    return "\n".join([*lines, *(f"{host}: {standing(host, state)}" for host in state.differences)])


def data_document(
    master: str, path: str, state: DatasetState, failures: Mapping[str, str], *, brought: bool
) -> dict[str, Any]:
    """Return how all hosts stand, and how bringing went, for programs."""
    hosts = [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(difference).items()}
        | {"host": host, "free_bytes": state.free_bytes[host], "unfinished": host in state.unfinished}
        | {"problem": state.problems.get(host, ""), "failure": failures.get(host, "")}
        for host, difference in state.differences.items()
    ]
    return {
        "schema": SCHEMA,
        "ok": state.is_same and not failures,
        "brought": brought,
        "master": master,
        "folder": path,
        "files": len(state.sizes),
        "bytes": sum(state.sizes.values()),
        "hosts": hosts,
    }

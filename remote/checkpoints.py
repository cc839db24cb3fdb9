"""Checkpoints as files: their names, their digests, and which one is good. Pure Python, no torch.

The trainer writes ``step-00000120.pt`` and after it ``step-00000120.pt.sha256`` in the format of ``sha256sum``; without
its digest, or with another one, a checkpoint is worth nothing (``trainer/checkpoint.py``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from remote.runtime import StoredCheckpoint

FOLDER: Final = "checkpoints"
"""Below a run's output folder on a host, and below the run's folder on the master."""
DIGEST_SUFFIX: Final = ".sha256"
_NAME: Final = re.compile(r"step-([0-9]{8,18})\.pt")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST_FILE_BYTES: Final = 4096


def step_of(name: str) -> int | None:
    """Return the step a checkpoint's file name tells, or None when it is no checkpoint."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def newest_complete(names: Iterable[str]) -> str:
    """Return the name of the newest checkpoint that has a digest beside it, or an empty string."""
    there = set(names)
    complete = [name for name in there if step_of(name) is not None and name + DIGEST_SUFFIX in there]
    return max(complete, key=lambda name: step_of(name) or 0, default="")


def read_digest(path: Path) -> str:
    """Return the SHA-256 in a digest file, or an empty string when there is none."""
    try:
        with path.open("rb") as file:
            words = file.read(_DIGEST_FILE_BYTES).decode("ascii", "replace").split(maxsplit=1)
    except OSError:
        return ""
    return words[0] if words and _DIGEST.fullmatch(words[0]) else ""


def checkpoints_in(folder: Path) -> tuple[Path, ...]:
    """Return the checkpoints of a folder, good or not, oldest first; none where there is no folder."""
    found = [path for path in folder.iterdir() if step_of(path.name) is not None] if folder.is_dir() else []
    return tuple(sorted((path for path in found if path.is_file()), key=lambda path: step_of(path.name) or 0))


def newest_good(folder: Path) -> tuple[StoredCheckpoint | None, tuple[str, ...]]:
    """Return the newest checkpoint of a folder whose content matches its digest, and why newer ones do not count.

    Raises:
        OSError: a file cannot be read.
    """
    refused: list[str] = []
    for path in reversed(checkpoints_in(folder)):
        step = step_of(path.name) or 0
        told = read_digest(path.with_name(path.name + DIGEST_SUFFIX))
        if not told:
            refused.append(f"{path}: its digest is missing")
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == told:
            return StoredCheckpoint(path, step, digest, path.stat().st_size), tuple(refused)
        refused.append(f"{path}: its content does not match its digest")
    return None, tuple(refused)

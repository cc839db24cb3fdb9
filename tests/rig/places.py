"""Where the rig keeps its files: one cache folder, with the running rigs below it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_NEEDED_BYTES = 8 * 1024**3


class RigError(Exception):
    """The rig cannot do what it was asked; the message says what was run and what came back."""


def _usable(folder: Path) -> str:
    """Return why ``folder`` cannot hold Docker's layers, or an empty string."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        return str(problem)
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
    if "overlay" in kind:
        return "an overlay file system cannot hold Docker's overlay layers"
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < _NEEDED_BYTES:
        return f"less than {_NEEDED_BYTES >> 30} GiB free"
    return ""


def cache_folder() -> Path:
    """Return a folder on a real disk that survives between test runs.

    ``HETERO_RIG_CACHE`` names it; left out, the first of the usual places that can hold Docker's layers.

    Raises:
        RigError: no place will do.
    """
    named = os.environ.get("HETERO_RIG_CACHE", "")
    places = (
        [Path(named)]
        if named
        else [Path.home() / ".cache/hetero-tui-rig", Path("/var/tmp/hetero-tui-rig"), Path("/dev/shm/hetero-tui-rig")]
    )
    refused = []
    for place in places:
        if not (reason := _usable(place)):
            return place
        refused.append(f"{place}: {reason}")
    raise RigError("no folder for the rig; set HETERO_RIG_CACHE. " + "; ".join(refused))


class Busy(Exception):
    """Somebody else holds the lock."""


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on a file; it ends with the process whatever happens.

    Args:
        path: The file, made where there is none.
        shared: Others may hold it too, when they ask for the same.
        wait: Wait until it is free.

    Raises:
        Busy: it is not free, and waiting was not wanted.
    """
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as problem:
            raise Busy(str(path)) from problem
        yield

"""What anybody on the machine can see of its processes, looked at again and again while something runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.1


def holding(what: str, marks: Sequence[bytes], is_wanted: Callable[[bytes], bool] = lambda _: True) -> set[str]:
    """Return the command lines of processes whose ``cmdline`` or ``environ`` holds one of the marks.

    Args:
        what: name of the file below ``/proc/PID``.
        marks: what must not be there.
        is_wanted: told the content; passes over processes that have a right to it.
    """
    found = set()
    for path in Path("/proc").glob(f"[0-9]*/{what}"):
        try:
            content = path.read_bytes()
            if any(mark in content for mark in marks) and is_wanted(content):
                found.add((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return found


@contextmanager
def watched(look: Callable[[], set[str]]) -> Iterator[set[str]]:
    """Look until the block ends, and once more; the set holds all that was ever seen."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PAUSE):
            seen.update(look())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()
        seen.update(look())


def files_holding(folder: Path, marks: Sequence[bytes]) -> list[str]:
    """Return the files below a folder that hold one of the marks in clear."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in paths if any(mark in path.read_bytes() for mark in marks)]

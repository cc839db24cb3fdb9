"""Your code on its way to the hosts: what the folder holds, as a value that is the same whenever the files are."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from remote.errors import UserError
from remote.images.build_context import IgnoreRule, is_ignored, parse_dockerignore

IGNORE_FILES: Final = (".heteroignore", ".dockerignore")
"""The first one that is there decides, in the syntax of ``.dockerignore``."""
NEVER_SENT: Final = (
    "**/.git\n**/__pycache__\n**/*.pyc\n**/.venv\n**/venv\n**/node_modules\n**/.ipynb_checkpoints\nexperiments\n"
)
MOST_BYTES: Final = 256 << 20
MOST_FILES: Final = 20_000


class WorkdirError(UserError):
    """The folder with the code cannot be sent."""


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One file of the folder."""

    path: str
    """With slashes, below the folder."""
    digest: str
    """SHA-256 of the content, hexadecimal."""
    size: int
    """Bytes."""
    executable: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of the folder at one time."""

    folder: Path
    files: tuple[CodeFile, ...]
    digest: str = field(init=False)
    """SHA-256 of :attr:`manifest`, hexadecimal: names the tree on every host."""

    def __post_init__(self) -> None:
        """Name it by what it holds."""
        object.__setattr__(self, "digest", hashlib.sha256(self.manifest).hexdigest())

    @property
    def manifest(self) -> bytes:
        """A line a file, sorted by path: digest, mode, path."""
        lines = (f"{file.digest} {'755' if file.executable else '644'} {file.path}\n" for file in self.files)
        return "".join(lines).encode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def by_digest(self) -> Mapping[str, CodeFile]:
        """Return one file for each content."""
        return {file.digest: file for file in self.files}


def take_snapshot(folder: Path, script: str) -> Snapshot:
    """Read the folder with the code.

    Args:
        folder: the folder.
        script: path of the training script below it; it must be among the files.

    Raises:
        WorkdirError: there is no such folder or script, the folder is too big to be code, or a file cannot be sent.
    """
    if not folder.is_dir():
        raise WorkdirError(f"there is no folder {folder}", next_step="correct workdir under [training]")
    files = tuple(sorted(_files(folder), key=lambda file: file.path))
    wanted = os.path.normpath(script).replace(os.sep, "/")
    if all(file.path != wanted for file in files):
        raise WorkdirError(
            f"{folder} has no {wanted}, the script to run",
            next_step=f"correct script under [training], or see whether {' or '.join(IGNORE_FILES)} leaves it out",
        )
    return Snapshot(folder, files)


def _files(folder: Path) -> Iterator[CodeFile]:
    rules = _rules(folder)
    root = folder.resolve()
    total = count = 0
    for base, folders, names in os.walk(folder):
        inside = Path(base).relative_to(folder)
        folders[:] = [name for name in folders if not is_ignored((inside / name).as_posix(), rules)]
        for name in names:
            path = (inside / name).as_posix()
            if is_ignored(path, rules):
                continue
            found = _file(folder / path, path, root)
            total, count = total + found.size, count + 1
            if total > MOST_BYTES or count > MOST_FILES:
                raise WorkdirError(
                    f"{folder} holds more than {MOST_BYTES >> 20} MiB or {MOST_FILES} files (reached at {path})",
                    next_step=f"data belongs into data_dir; leave other things out with {folder / IGNORE_FILES[0]}",
                )
            yield found


def _rules(folder: Path) -> tuple[IgnoreRule, ...]:
    own = next((folder / name for name in IGNORE_FILES if (folder / name).is_file()), None)
    try:
        text = own.read_text("utf-8", "replace") if own else ""
    except OSError as error:
        raise WorkdirError(f"cannot read {own}: {error.strerror}", next_step="make it readable") from error
    return parse_dockerignore(NEVER_SENT + text)


def _file(where: Path, path: str, root: Path) -> CodeFile:
    if not path.isprintable() or path != path.strip():
        raise WorkdirError(
            f"the name {path!r} cannot be sent", next_step="rename the file: no control characters, no outer blanks"
        )
    try:
        status = where.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WorkdirError(f"{where} is no file", next_step="leave it out with .heteroignore")
        if not where.resolve().is_relative_to(root):
            raise WorkdirError(
                f"{where} leads out of the folder, to {where.resolve()}",
                next_step="copy what it points to into the folder, or leave it out with .heteroignore",
            )
        with where.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WorkdirError(
            f"cannot read {where}: {error.strerror}", next_step="make it readable, or leave it out with .heteroignore"
        ) from error
    return CodeFile(path, digest, status.st_size, bool(status.st_mode & 0o111))

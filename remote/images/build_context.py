"""The build context as one archive that is the same whenever the files are: what a build is identified by.

``.dockerignore`` follows https://docs.docker.com/build/concepts/context/#dockerignore-files: Go's ``filepath.Match``
with ``**``, exceptions with ``!``, the last matching line decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remote.errors import ImageError


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """One line of a ``.dockerignore``."""

    pattern: re.Pattern[str]
    includes: bool


def parse_dockerignore(text: str) -> tuple[IgnoreRule, ...]:
    """Return the rules of a ``.dockerignore``.

    Raises:
        ImageError: a line is no pattern.
    """
    rules = []
    for line in text.splitlines():
        stripped = line.strip().lstrip("\ufeff")
        if not stripped or stripped.startswith("#"):
            continue
        includes = stripped.startswith("!")
        cleaned = os.path.normpath(stripped.removeprefix("!").strip()).lstrip("/")
        if cleaned not in ("", "."):
            rules.append(IgnoreRule(_compiled(cleaned), includes))
    return tuple(rules)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(_expression(pattern))
    except re.error as error:
        raise ImageError(
            f"the pattern {pattern[:100]!r} of the ignore file is none: {error}", next_step="correct that line"
        ) from error


def _expression(pattern: str) -> str:
    """Translate a pattern; a match of a folder is a match of everything below it."""
    out, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith(("**/**/", "***")):
            # Says no more without its first part, and would be tried in every way to match.
            position += 3 if rest.startswith("**/") else 1
        elif rest.startswith("**/"):
            out, position = out + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            out, position = out + ".*", position + 2
        elif rest[0] == "*":
            out, position = out + "[^/]*", position + 1
        elif rest[0] == "?":
            out, position = out + "[^/]", position + 1
        elif rest[0] == "[" and (end := rest.find("]", 1)) > 0:
            inner = rest[1:end].replace("\\", "\\\\")
            out, position = out + f"[{inner}]", position + end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            out, position = out + re.escape(rest[1]), position + 2
        else:
            out, position = out + re.escape(rest[0]), position + 1
    return f"{out}(?:/.*)?"


def is_ignored(path: str, rules: Sequence[IgnoreRule]) -> bool:
    """Whether a path in the context, with slashes, stays behind."""
    ignored = False
    for rule in rules:
        if rule.pattern.fullmatch(path):
            ignored = not rule.includes
    return ignored


def context_files(folder: Path, dockerfile: str) -> Iterator[tuple[str, Path]]:
    """Yield (path in the context, file) of everything that goes into the context, folders too, sorted.

    The Dockerfile always goes along, as with the docker client.

    Raises:
        ImageError: there is no such folder or Dockerfile.
    """
    if not (folder / dockerfile).is_file():
        raise ImageError(
            f"there is no Dockerfile {folder / dockerfile}", next_step="correct context and dockerfile under [image]"
        )
    own = folder / f"{dockerfile}.dockerignore"
    ignore = own if own.is_file() else folder / ".dockerignore"
    rules = parse_dockerignore(ignore.read_text("utf-8", "replace")) if ignore.is_file() else ()
    wanted = os.path.normpath(dockerfile)
    found: list[tuple[str, Path]] = []
    for base, folders, files in os.walk(folder):
        inside = Path(base).relative_to(folder)
        for name in [*folders, *files]:
            path = (inside / name).as_posix()
            if path == wanted or not is_ignored(path, rules):
                found.append((path, folder / inside / name))
        if not any(rule.includes for rule in rules):
            folders[:] = [name for name in folders if not is_ignored((inside / name).as_posix(), rules)]
    yield from sorted(found)


@dataclass(frozen=True, slots=True)
class Context:
    """A packed context."""

    digest: str
    """SHA-256 of the archive, which holds no times, owners or umask."""
    path: Path
    dockerfile: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive."""
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece


@contextmanager
def packed_context(folder: Path, dockerfile: str = "Dockerfile") -> Iterator[Context]:
    """Pack a context into a temporary file that goes away on leaving.

    Raises:
        ImageError: there is no such folder or Dockerfile, or a file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="hetero-context-") as temporary:
        path = Path(temporary) / "context.tar"
        try:
            _pack(folder, dockerfile, path)
        except OSError as error:
            raise ImageError(
                f"cannot pack the build context: {error}", next_step="leave it out with .dockerignore"
            ) from error
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield Context(f"sha256:{digest}", path, dockerfile, path.stat().st_size)


def _pack(folder: Path, dockerfile: str, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in context_files(folder, dockerfile):
            status = path.lstat()
            entry = tarfile.TarInfo(name)
            executable = bool(status.st_mode & 0o111)
            entry.mode = 0o755 if executable or stat.S_ISDIR(status.st_mode) else 0o644
            if stat.S_ISLNK(status.st_mode):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777  # noqa: PTH115
                tar.addfile(entry)
            elif stat.S_ISDIR(status.st_mode):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif stat.S_ISREG(status.st_mode):
                entry.size = status.st_size
                with path.open("rb") as file:
                    tar.addfile(entry, file)

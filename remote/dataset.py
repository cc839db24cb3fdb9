"""What a data set's folder holds, and what a host lacks of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from remote.errors import UserError

MOST_PACKED: Final = 8 << 20
"""Bytes of small files that travel together."""
MOST_TOGETHER: Final = 200
MOST_NAMES: Final = 30_000
"""Bytes of their names: Linux takes no argument of a command beyond 128 KiB, and quoting makes them longer."""
SMALL: Final = 1 << 20
"""Bytes up to which a file is small."""


NUMBER: Final = re.compile(r"[0-9]{1,18}")


class DatasetError(UserError):
    """A data set cannot be compared or brought."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A host's folder."""

    files: Mapping[str, int] = field(default_factory=dict)
    """Path below the folder → bytes."""
    free_bytes: int = 0
    problem: str = ""
    """``missing`` or ``denied`` where there is no folder to look into."""
    unfinished: bool = False
    """Somebody began to fill it and did not end."""
    incoming_bytes: int = 0
    """What has arrived and is not in place yet."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A host's folder in few words: two are the same when names and sizes of all files are."""

    count: int = 0
    """Files."""
    size: int = 0
    """Bytes of all of them."""
    digest: str = ""
    """POSIX ``cksum`` over the sorted names and sizes."""
    problem: str = ""
    """``missing`` or ``denied`` where there is no folder to look into."""
    unfinished: bool = False
    """Somebody began to fill it and did not end."""


def read_summary(answer: str) -> Summary | None:
    """Read what ``dataset.sh summary`` said; None when it is no such answer."""
    words = answer.split()
    unfinished = words[:1] == ["unfinished"]
    match words[2 * unfinished :]:
        case ["problem", ("missing" | "denied") as problem]:
            return Summary(problem=problem)
        case ["files", count, size, digest] if NUMBER.fullmatch(count) and NUMBER.fullmatch(size):
            return Summary(int(count), int(size), digest, unfinished=unfinished)
    return None


def read_listing(host: str, answer: str) -> Listing:
    """Read what ``dataset.sh list`` said.

    Raises:
        DatasetError: it is no such answer, or a name cannot be sent.
    """
    files: dict[str, int] = {}
    free, incoming, problem, complete, unfinished = 0, 0, "", False, False
    for line in answer.splitlines():
        word, _, rest = line.partition(" ")
        if word == "problem":
            problem = rest
        elif word == "unfinished" and NUMBER.fullmatch(rest.strip()):
            incoming, unfinished = int(rest) * 1024, True
        elif word == "free" and NUMBER.fullmatch(rest.strip()):
            free, complete = int(rest) * 1024, True
        elif NUMBER.fullmatch(word) and rest.startswith("./"):
            # An empty part would make it a path from the root; the replacement character is a name that is no UTF-8.
            if not rest.isprintable() or "\ufffd" in rest or {"", ".."} & set(rest.split("/")):
                raise DatasetError(f"{host}: the name {rest!r} cannot be sent", next_step="rename the file")
            files[rest[2:]] = int(word)
        else:
            raise DatasetError(f"{host}: what it holds cannot be read: {line[:100]!r}", next_step="look at the folder")
    if not complete:
        raise DatasetError(f"{host} gave no answer about its data", next_step="try again")
    return Listing(files, free, problem, unfinished, incoming)


@dataclass(frozen=True, slots=True)
class Difference:
    """How a host's data set differs from the one that is the measure."""

    lacking: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    """There under the same name with other content: never overwritten."""
    extra: tuple[str, ...] = ()
    """Only there: never removed."""
    bytes_lacking: int = 0

    def __str__(self) -> str:
        """Say it in a few words."""
        parts = (
            ("lacks", self.lacking, f", {self.bytes_lacking / 1e6:.1f} MB"),
            ("has with other content", self.differing, ""),
            ("alone has", self.extra, ""),
        )
        said = [f"{word} {_named(paths)}{more}" for word, paths, more in parts if paths]
        return "; ".join(said) or "has the same"


def _named(paths: Sequence[str]) -> str:
    files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
    return f"{files} ({', '.join(paths[:3])}{', …' if len(paths) > 3 else ''})"


def compare(measure: Mapping[str, int], listing: Listing, differing: Sequence[str] = ()) -> Difference:
    """Compare names and sizes; ``differing`` are files of the same size that are known to have other content."""
    lacking = tuple(sorted(path for path in measure if path not in listing.files))
    other = {path for path, size in measure.items() if listing.files.get(path, size) != size}
    return Difference(
        lacking,
        tuple(sorted(other | set(differing))),
        tuple(sorted(path for path in listing.files if path not in measure)),
        sum(measure[path] for path in lacking),
    )


def groups(paths: Sequence[str], sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield what travels together: small files as many as fit, larger ones alone."""
    together: list[str] = []
    weight = names = 0
    for path in paths:
        if sizes[path] > SMALL:
            yield (path,)
            continue
        length = len(path.encode())
        if together and (
            len(together) == MOST_TOGETHER or weight + sizes[path] > MOST_PACKED or names + length > MOST_NAMES
        ):
            yield tuple(together)
            together, weight, names = [], 0, 0
        together.append(path)
        weight += sizes[path]
        names += length
    if together:
        yield tuple(together)

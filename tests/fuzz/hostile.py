"""What hostile or broken machines send: text, JSON and bytes, from plausible to absurd."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("HETERO_FUZZ_EXAMPLES", "60"))
"""Inputs for each target; `HETERO_FUZZ_EXAMPLES=20000 python -m pytest tests/fuzz` goes on for longer."""
few = settings(
    max_examples=EXAMPLES,
    deadline=5000,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)
"""A hang is a failure, too: each input has five seconds."""

numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([-(2**63), 2**63, 2**64, 10**400, -1, 0, float("nan"), float("inf")])
)
texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["", "\0", "\x1b]0;x\x07", "\u202e", "[red]", "../../etc/passwd", "/etc/passwd", "\ud800", "9" * 5000]
    ),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
DEEP = "[" * 100_000


def as_json(value: object) -> str:
    """Return JSON as Python writes it: with NaN and Infinity, which a strict reader must refuse."""
    return json.dumps(value)


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes that were right until something was cut out, changed, repeated or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 12, 512, 700]))
        match draw(st.sampled_from(["cut", "change", "insert", "end", "number"])):
            case "cut":
                del data[at : at + length]
            case "change":
                data[at : at + length] = draw(st.binary(max_size=16))
            case "insert":
                data[at:at] = draw(st.binary(max_size=600))
            case "number":
                data[at:at] = draw(st.sampled_from([b"-1", b"99999999999", b"7" * 4400, b"\x80\0\0\0\xff"]))
            case _:
                del data[at:]
    return bytes(data)


def tar_of(members: Sequence[tuple[str, bytes]], *, links: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a pax archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5  # a fraction makes a pax header
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


async def in_chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield the bytes in pieces."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Make a folder for one input: what an earlier one left must not help or hinder the next."""
    with tempfile.TemporaryDirectory(prefix="hetero-fuzz-") as folder:
        yield Path(folder)


@contextmanager
def untouched(folder: Path, kept: Mapping[str, bytes]) -> Iterator[None]:
    """Put files there and make sure that they are as they were at the end: not lost, not overwritten."""
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    yield
    assert {name: (folder / name).read_bytes() for name in kept} == dict(kept)


class Stream:
    """A connection on which these bytes come, in pieces, whatever is asked; it remembers what was answered."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self.written = bytearray()

    async def read(self, limit: int) -> bytes:
        return self._pieces.pop(0)[:limit] if self._pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def close(self) -> None: ...

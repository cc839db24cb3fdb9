"""What hostile or broken machines send: text, JSON and bytes, from plausible to absurd."""

from __future__ import annotations

import io
import json
import os
import re
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


HOSTILE_NUMBERS = (b"-1", b"99999999999", b"7" * 4400, b"\x80\0\0\0\xff", b"0", b"1e999", b"0x10", "²".encode())
HOSTILE_WORDS = (
    b"", b"..", b"/", b"\0", b"\r", b"\n", b"\t", b" ", b"\x1b]52;c;eA==\x07", b"\xff\xfe", b"[" * 3000, b"a" * 3000,
    "\u202e".encode(), b"null", b"[]", b"{}", b'"',
)  # fmt: skip
_SPANS = re.compile(rb"[0-9]+|[A-Za-z_]+|[^\r\n]*\r?\n")


def mangled(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return bytes that were right until something was cut out, changed, repeated or put in.

    Half of the changes meet a word, a number or a line as a whole: what a reader checks first stays right more often,
    so that what comes behind it is reached.
    """
    words = re.findall(rb"[0-9]+|[A-Za-z_]+", whole)[:200]
    spans = [found.span() for found in _SPANS.finditer(whole)]
    spans += [found.span() for found in re.finditer(rb"[0-9]+|[A-Za-z_]+", whole)]
    return _mangled(whole, tuple(words) or (b"x",), tuple(spans) or ((0, len(whole)),))


@st.composite
def _mangled(draw: st.DrawFn, whole: bytes, words: tuple[bytes, ...], spans: tuple[tuple[int, int], ...]) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            start, end = spans[draw(st.integers(0, len(spans) - 1))]
            _change_span(draw, data, start, end, words)
        else:
            _change_bytes(draw, data)
    return bytes(data)


def _change_span(draw: st.DrawFn, data: bytearray, start: int, end: int, words: tuple[bytes, ...]) -> None:
    match draw(st.sampled_from(["number", "word", "own word", "again", "away", "same length"])):
        case "number":
            data[start:end] = draw(st.sampled_from(HOSTILE_NUMBERS))
        case "word":
            data[start:end] = draw(st.sampled_from(HOSTILE_WORDS))
        case "own word":
            data[start:end] = draw(st.sampled_from(words))
        case "again":
            data[start:start] = data[start:end] * draw(st.sampled_from([1, 2, 300]))
        case "away":
            del data[start:end]
        case _:
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start)) if end - start < 99 else b""


def _change_bytes(draw: st.DrawFn, data: bytearray) -> None:
    at = draw(st.integers(0, max(0, len(data) - 1)))
    length = draw(st.sampled_from([1, 2, 12, 512, 700]))
    match draw(st.sampled_from(["cut", "change", "insert", "end", "number", "flip"])):
        case "cut":
            del data[at : at + length]
        case "change":
            data[at : at + length] = draw(st.binary(max_size=16))
        case "insert":
            data[at:at] = draw(st.binary(max_size=600))
        case "number":
            data[at:at] = draw(st.sampled_from(HOSTILE_NUMBERS))
        case "flip" if data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        case _:
            del data[at:]


def sealed(archive: bytes) -> bytes:
    """Return an archive with a right checksum in each header: whoever means harm computes it, too."""
    data = bytearray(archive)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def mangled_tar(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return archives that were right until something changed; most have right checksums all the same."""
    return st.one_of(mangled(whole).map(sealed), _changed_headers(whole).map(sealed), mangled(whole))


_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 6), (263, 2), (345, 155))
"""Offset and length of a header's name, mode, owner, size, time, type, link, magic, version and prefix (ustar)."""


@st.composite
def _changed_headers(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(draw(st.integers(1, 3))):
        offset, length = draw(st.sampled_from(_FIELDS))
        content = draw(
            st.one_of(
                st.sampled_from(
                    [b"00000000000\0", b"77777777777\0", b"\x80" + b"\0" * 9 + b"\1\0", b"\xff" * 12, b"-1", b"../x",
                     b"/etc/passwd", b"./checkpoints/step-00000010.pt", b"a" * 155, b""]
                ),
                st.sampled_from(list("0123456789xgXLKSNVMDA\0")).map(str.encode),
                st.binary(max_size=12),
            )
        )  # fmt: skip
        start = draw(st.sampled_from(headers)) + offset
        data[start : start + length] = content[:length].ljust(length, b"\0")
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

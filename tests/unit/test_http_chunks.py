from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.http_chunks import MAX_HEAD, ChunkError, Chunks


def coded(pieces: list[bytes], *, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


def read(data: bytes, size: int) -> tuple[bytes, Chunks]:
    chunks = Chunks()
    return b"".join(chunks.feed(data[at : at + size]) for at in range(0, len(data), size)), chunks


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 50), st.booleans())
def test_a_body_is_the_same_wherever_the_network_splits_it(pieces: list[bytes], size: int, has_trailer: bool) -> None:
    content, chunks = read(coded(pieces, trailer=b"Digest: x\r\n" if has_trailer else b""), size)
    assert content == b"".join(pieces)
    assert chunks.ended


@pytest.mark.parametrize("size", [1, 100])
def test_extensions_of_a_chunk_are_passed_over_and_what_follows_the_end(size: int) -> None:
    content, chunks = read(b'5 ;name="value"\r\nhello\r\n0\r\n\r\nmore', size)
    assert content == b"hello"
    assert chunks.ended


@pytest.mark.parametrize("cut", range(len(coded([b"hello"]))))
def test_what_broke_off_has_not_ended(cut: int) -> None:
    _, chunks = read(coded([b"hello"])[:cut], 4096)
    assert not chunks.ended


@pytest.mark.parametrize(
    "data",
    [b"zz\r\n", b"-1\r\nx", b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n", b"\r\n", b"5\r\nhello!\r\n", b"9" * 16 + b"\r\n",
     b"1" * (MAX_HEAD + 2), b"0\r\n" + b"a: b\r\n" * MAX_HEAD],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_another_coding_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(ChunkError):
        read(data, size)


def test_a_host_that_gives_every_chunk_another_name_does_not_fill_the_memory() -> None:
    chunks = Chunks()
    for number in range(10_000):
        chunks.feed(b"1;%d\r\nx\r\n" % number)
    assert len(chunks._sizes) <= 4096

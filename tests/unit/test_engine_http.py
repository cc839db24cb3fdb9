"""HTTP and the engine's framing on byte streams that are split anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.engine_http import Demultiplexer, FramingError, get
from remote.errors import ConnectionDropped
from remote.local import LocalRunner

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def server(folder: Path, answer: bytes, *, piece: int = 7) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve one fixed answer on a unix socket, in small pieces; yield its path and the requests that came."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        for start in range(0, len(answer), piece):
            writer.write(answer[start : start + piece])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    path = folder / "socket"
    listener = await asyncio.start_unix_server(serve, path)
    yield str(path), requests
    listener.close()
    await listener.wait_closed()


async def fetch(path: str, read: Callable[[bytes], None]) -> int:
    stream = await LocalRunner("box").open_unix(path)
    try:
        answer = await get(stream, "/v1.41/x?a=b", "box")
        async for chunk in answer.body:
            read(chunk)
        return answer.status
    finally:
        await stream.close()


async def test_a_chunked_answer(tmp_path: Path) -> None:
    async with server(tmp_path, CHUNKED + b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n") as (path, requests):
        body = bytearray()
        assert await fetch(path, body.extend) == 200
    assert body == b"abcdefgh"
    assert requests[0].startswith(b"GET /v1.41/x?a=b HTTP/1.1\r\n")
    assert b"host: docker" in requests[0].lower()


async def test_chunks_that_come_together_are_handed_on_together(tmp_path: Path) -> None:
    many = b"".join(b"1\r\n%d\r\n" % (number % 10) for number in range(1000))
    async with server(tmp_path, CHUNKED + many + b"0\r\n\r\n", piece=1 << 16) as (path, _):
        pieces: list[bytes] = []
        await fetch(path, pieces.append)
    assert b"".join(pieces) == b"0123456789" * 100
    assert len(pieces) < 10


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-En",
        CHUNKED + b"5\r\nab",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"zz\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_a_lost_connection_never_an_end(tmp_path: Path, broken: bytes) -> None:
    async with server(tmp_path, broken) as (path, _):
        with pytest.raises(ConnectionDropped) as raised:
            await fetch(path, lambda chunk: None)
    assert raised.value.host == "box"
    assert "/v1.41/x" in raised.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"No such container: x"}', "No such container: x"),
        (b"plain words\n", "plain words"),
        (b"[1]", "[1]"),
        (b"", "HTTP status 404"),
    ],
)
async def test_the_message_of_an_error(tmp_path: Path, body: bytes, message: str) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with server(tmp_path, head + body) as (path, _):
        stream = await LocalRunner("box").open_unix(path)
        answer = await get(stream, "/x", "box")
        assert answer.status == 404
        assert await answer.error_message() == message
        await stream.close()


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(
    frames=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40)), max_size=12),
    cuts=st.lists(st.integers(1, 30), max_size=60),
)
def test_frames_split_anywhere_come_out_whole(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*each) for each in frames)
    demultiplexer = Demultiplexer()
    found = []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        found += demultiplexer.feed(piece)
    found += demultiplexer.feed(data)
    assert found == frames
    assert not demultiplexer.unfinished


def test_a_frame_that_is_not_complete_is_noticed() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(frame(1, b"whole") + frame(2, b"half")[:-1]) == [(1, b"whole")]
    assert demultiplexer.unfinished


@pytest.mark.parametrize(
    "header", [b"\x04\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"\1\0\0\0\xff\xff\xff\xff", b"2026-11-"]
)
def test_what_is_not_a_frame_is_refused(header: bytes) -> None:
    with pytest.raises(FramingError):
        Demultiplexer().feed(header)

"""HTTP/1.1 on a byte stream, for what the engine answers or takes without end: logs, events, images.

The Docker SDK blocks one thread for each open stream. Here a stream costs a coroutine and one channel of the host's
SSH connection. One request a connection: an endless answer never gives its connection back anyway.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import h11

from remote.errors import ConnectionDropped
from remote.http_chunks import ChunkError, Chunks
from remote.runner import ByteStream

READ_SIZE: Final = 1 << 16
MAX_ERROR_BODY: Final = 1 << 16
FRAME_HEADER: Final = 8
MAX_FRAME: Final = 1 << 26
"""The engine's frames hold one log message (16 KiB and a timestamp) or one write to a terminal."""
_WITHOUT_BODY: Final = frozenset({204, 304})
_STREAMS: Final = {bytes((number, 0, 0, 0)): number for number in range(4)}
_SIZE: Final = struct.Struct(">I").unpack_from


class FramingError(ValueError):
    """The bytes are not the engine's multiplexed stream."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of one answer."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]

    async def error_message(self) -> str:
        """Return the ``message`` of the engine's JSON error, or the text itself."""
        text = b""
        async for chunk in self.body:
            text += chunk
            if len(text) > MAX_ERROR_BODY:
                break
        try:
            message = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return text[:400].decode(errors="replace").strip() or f"HTTP status {self.status}"
        return str(message)


async def get(stream: ByteStream, target: str, host: str) -> Answer:
    """Send one GET and return the answer as soon as its head is there.

    Args:
        stream: a connection nobody else uses; it is not closed here.
        target: path and query, already encoded.
        host: inventory name for messages.

    Raises:
        ConnectionDropped: the other side closed before the whole head had come, or does not speak HTTP.
    """
    return await request(stream, "GET", target, host)


async def request(
    stream: ByteStream,
    method: str,
    target: str,
    host: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    body: AsyncIterator[bytes] | None = None,
) -> Answer:
    """Send one request and return the answer as soon as its head is there; the body goes on being sent meanwhile.

    Args:
        stream: a connection nobody else uses; it is not closed here.
        method: ``GET``, ``POST``, …
        target: path and query, already encoded.
        host: inventory name for messages.
        headers: besides those every request has.
        body: sent in chunks of whatever size it yields.

    Raises:
        ConnectionDropped: the other side closed before the whole head had come, or does not speak HTTP.
    """
    connection = h11.Connection(h11.CLIENT)
    framing = [("Transfer-Encoding", "chunked")] if body is not None else []
    if body is None and method != "GET":
        framing = [("Content-Length", "0")]
    common = [("Host", "docker"), ("Connection", "close"), ("Accept", "*/*")]
    head = connection.send(h11.Request(method=method, target=target, headers=[*common, *framing, *headers]))
    asked = f"{method} {target}"
    if body is None:
        await stream.write(head + connection.send(h11.EndOfMessage()))
        sending = None
    else:
        await stream.write(head)
        sending = asyncio.create_task(_upload(connection, stream, body))
    try:
        while True:
            event = await _next_event(connection, stream, asked, host)
            if isinstance(event, h11.Response):
                said = {name: value.decode("latin-1") for name, value in event.headers}
                # h11 refuses every other coding than the chunked one.
                if b"transfer-encoding" in said and event.status_code not in _WITHOUT_BODY:
                    content = _chunked_body(connection.trailing_data[0], stream, asked, host, sending)
                else:
                    content = _body(connection, stream, asked, host, sending)
                return Answer(event.status_code, said.get(b"content-type", ""), content)
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionDropped(f"the engine hung up on {asked}", host=host)
    except BaseException:
        await _end_upload(sending)
        raise


async def _upload(connection: h11.Connection, stream: ByteStream, body: AsyncIterator[bytes]) -> None:
    """Send a body. When its source fails the connection is closed, or the engine would wait for the rest for ever."""
    try:
        async for piece in body:
            await stream.write(connection.send(h11.Data(data=piece)))
        await stream.write(connection.send(h11.EndOfMessage()))
    except BaseException:
        await stream.close()
        raise


async def _end_upload(sending: asyncio.Task[None] | None) -> None:
    """Stop sending. What made it fail is the cause of what the engine did next, so that is what is raised."""
    if sending is None:
        return
    if not sending.done():
        sending.cancel()
    await asyncio.wait([sending])
    if not sending.cancelled() and (error := sending.exception()) is not None:
        if isinstance(error, (ConnectionDropped, OSError)):
            return  # the engine's side of the connection tells more
        raise error


async def _body(
    connection: h11.Connection, stream: ByteStream, asked: str, host: str, sending: asyncio.Task[None] | None
) -> AsyncIterator[bytes]:
    """Yield what one read brought as one piece."""
    try:
        while isinstance(event := await _next_event(connection, stream, asked, host), h11.Data):
            yield bytes(event.data)
    finally:
        await _end_upload(sending)


async def _chunked_body(
    begun: bytes, stream: ByteStream, asked: str, host: str, sending: asyncio.Task[None] | None
) -> AsyncIterator[bytes]:
    """Yield what one read brought as one piece: the engine sends each log message as an HTTP chunk of its own.

    Args:
        begun: what came of the body with the head.
        stream: brings the rest.
        asked: method and path, for messages.
        host: inventory name for messages.
        sending: the request's body on its way.

    Raises:
        ConnectionDropped: the stream ended in the middle, or is not in the chunked coding.
    """
    chunks = Chunks()
    data = begun
    try:
        while True:
            if data and (content := chunks.feed(data)):
                yield content
            if chunks.ended:
                return
            data = await stream.read(READ_SIZE)
            if not data:
                raise ConnectionDropped(f"the engine's answer to {asked} broke off in the middle", host=host)
    except ChunkError as error:
        raise ConnectionDropped(f"the engine's answer to {asked} broke off: {error}", host=host) from error
    except OSError as error:
        raise ConnectionDropped(f"the connection to the engine broke: {error}", host=host) from error
    finally:
        await _end_upload(sending)


async def _next_event(connection: h11.Connection, stream: ByteStream, asked: str, host: str) -> Any:
    """Return h11's next event.

    Raises:
        ConnectionDropped: the stream ended in the middle of a message.
    """
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await stream.read(READ_SIZE))
    except h11.RemoteProtocolError as error:
        raise ConnectionDropped(f"the engine's answer to {asked} broke off: {error}", host=host) from error
    except OSError as error:
        raise ConnectionDropped(f"the connection to the engine broke: {error}", host=host) from error
    return event


@dataclass(slots=True)
class Demultiplexer:
    """Cuts the engine's multiplexed stream into frames, wherever the network has split it.

    A frame is one byte for the stream (0 or 1 standard output, 2 standard error, 3 the engine's own error), three zero
    bytes, the length as a big-endian 32-bit number and that many bytes (Docker Engine API, "Attach to a container").
    """

    _pending: bytearray = field(default_factory=bytearray)
    _needed: int = 0
    """Length at which the first frame that is pending is complete."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take what came and return every frame that is complete now, as (stream, payload).

        Raises:
            FramingError: a header no engine writes.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        frames: list[tuple[int, bytes]] = []
        start, end = 0, len(data)
        self._needed = FRAME_HEADER
        while (begin := start + FRAME_HEADER) <= end:
            stream = _STREAMS.get(data[start : start + 4])
            (size,) = _SIZE(data, start + 4)
            if stream is None or size > MAX_FRAME:
                raise FramingError(f"not a frame header: {data[start:begin].hex(' ')}")
            if begin + size > end:
                self._needed = FRAME_HEADER + size
                break
            start = begin + size
            frames.append((stream, data[begin:start]))
        self._pending += data[start:]
        return frames

    @property
    def unfinished(self) -> bool:
        """True when the stream ended in the middle of a frame."""
        return bool(self._pending)

"""A registry inside this program that an engine pushes into: the way to the top layers of an image alone.

An engine pushes its layers from the top down, as many at a time as it is set to, and stops when the request that asked
for the push goes away. So whoever wants only the layers above those it has takes them as they come and hangs up. Speaks
the part of the registry protocol that a push of layers uses (OCI distribution specification 1.1, "Push": POST, PATCH in
one stream, PUT). The repository's name is a secret of this program.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

import h11

from remote.errors import ImageError
from remote.images.store import BlobWriter, LayerStore
from remote.runner import ByteStream

CHUNK: Final = 256 * 1024
MOST_UNPACKED: Final = 4 << 20
"""Bytes that one piece of a stream is unpacked to at a time: a hostile one may pack gigabytes into kilobytes."""
_UPLOAD: Final = re.compile(r"/v2/(?P<name>[a-z0-9/._-]+)/blobs/uploads/(?P<upload>[0-9a-f]{32})?")
_BLOB: Final = re.compile(r"/v2/(?P<name>[a-z0-9/._-]+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION: Final = ("Docker-Distribution-Api-Version", "registry/2.0")


@dataclass(slots=True)
class Inbox:
    """Takes the layers that are wanted; everything else an engine offers is dropped as it comes."""

    store: LayerStore
    wanted: Collection[str]
    """Diff ids."""
    received: Callable[[int], None] = lambda _count: None
    """Told how many bytes of a wanted or unwanted layer came, packed."""
    repository: str = field(default_factory=lambda: f"hetero-tui-{secrets.token_hex(16)}")
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once every wanted layer is in the store."""
    connections: int = 0
    _taken: dict[str, int] = field(default_factory=dict)
    """Digest as pushed → packed bytes, of what came whole."""

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        if all(map(self.store.has, self.wanted)):
            self.complete.set()

    async def serve(self, stream: ByteStream) -> None:
        """Answer the requests of one connection until the other end closes it.

        Raises:
            ConnectionDropped: the way to the host was lost.
            ImageError: this machine's disk is full.
        """
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        try:
            while isinstance(event := await _next(connection, stream), h11.Request):
                await self._answer(connection, stream, event)
                while connection.their_state is h11.SEND_BODY:
                    await _next(connection, stream)
                if (connection.our_state, connection.their_state) != (h11.DONE, h11.DONE):
                    return
                connection.start_next_cycle()
        except h11.RemoteProtocolError:
            return  # broken off in a request: nobody is there to be told

    async def _answer(self, connection: h11.Connection, stream: ByteStream, asked: h11.Request) -> None:
        target = asked.target.decode("latin-1").partition("?")[0]
        method = asked.method.decode("latin-1")
        if target.rstrip("/") == "/v2":
            return await _reply(connection, stream, 200)
        upload, blob = _UPLOAD.fullmatch(target), _BLOB.fullmatch(target)
        known = upload or blob
        if known is None or not secrets.compare_digest(known["name"], self.repository):
            return await _reply(connection, stream, 404)
        if blob is not None:
            size = self._taken.get(blob["digest"])
            if method != "HEAD" or size is None:
                return await _reply(connection, stream, 404)
            return await _reply(connection, stream, 200, ("Docker-Content-Digest", blob["digest"]), length=size)
        number = upload["upload"] if upload is not None else None
        if number is None:
            if method != "POST":
                return await _reply(connection, stream, 405)
            return await self._go_on(connection, stream, secrets.token_hex(16), 0)
        if method == "PATCH":
            count = await self._take(connection, stream, number)
            return await self._go_on(connection, stream, number, count)
        if method != "PUT":
            return await _reply(connection, stream, 405)
        digest = next(iter(parse_qs(urlsplit(asked.target.decode("latin-1")).query).get("digest", ())), "")
        if number not in self._taken or not _DIGEST.fullmatch(digest):
            return await _reply(connection, stream, 400)
        self._taken[digest] = self._taken.pop(number)
        where = f"/v2/{self.repository}/blobs/{digest}"
        return await _reply(connection, stream, 201, ("Docker-Content-Digest", digest), ("Location", where))

    async def _go_on(self, connection: h11.Connection, stream: ByteStream, number: str, count: int) -> None:
        where = f"/v2/{self.repository}/blobs/uploads/{number}"
        headers = (("Location", where), ("Docker-Upload-UUID", number), ("Range", f"0-{max(0, count - 1)}"))
        await _reply(connection, stream, 202, *headers)

    async def _take(self, connection: h11.Connection, stream: ByteStream, number: str) -> int:
        """Unpack what comes; it appears in the store when it is a layer that is wanted. Returns its packed bytes."""
        count = 0
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        with self.store.new_blob() as blob:
            while not isinstance(event := await _next(connection, stream), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    raise ImageError("an engine broke off a push")
                count += len(event.data)
                self.received(len(event.data))
                await asyncio.to_thread(_unpack, unpacker, bytes(event.data), blob)
            if unpacker.eof and blob.digest in self.wanted:
                blob.finish()
        self._taken[number] = count
        self._look()
        return count


def _unpack(unpacker: zlib._Decompress, data: bytes, blob: BlobWriter) -> None:
    """Unpack a piece of a gzip stream (RFC 1952), as every engine packs what it pushes.

    Raises:
        ImageError: it is none, or this machine's disk is full.
    """
    while data:
        try:
            blob.write(unpacker.decompress(data, MOST_UNPACKED))
        except zlib.error as error:
            raise ImageError(f"an engine pushed a layer that is not packed with gzip: {error}") from error
        data = unpacker.unconsumed_tail


async def _next(connection: h11.Connection, stream: ByteStream) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        if connection.they_are_waiting_for_100_continue:
            await stream.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])))
        connection.receive_data(await stream.read(CHUNK))
    return event


async def _reply(
    connection: h11.Connection, stream: ByteStream, status: int, *headers: tuple[str, str], length: int = 0
) -> None:
    """Answer without a body; ``length`` is what a HEAD is told."""
    said = [_VERSION, ("Content-Length", str(length)), *headers]
    data = connection.send(h11.Response(status_code=status, headers=said))
    await stream.write(data + connection.send(h11.EndOfMessage()))

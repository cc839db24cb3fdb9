"""A read-only image registry inside this program, answering on byte streams: no port on this machine, no helper.

Speaks the part of the registry protocol that a pull uses (OCI distribution specification 1.1, "Pull"; the same as
Docker Registry HTTP API v2): ``GET``/``HEAD`` of manifests by digest and of blobs, with ``Range``, by which an engine
goes on with an interrupted layer. The name of the repository is a secret of this program: whoever else can connect to
the host's loopback gets 404.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import h11

from remote.errors import ConnectionDropped
from remote.images.store import LayerStore, StoredImage
from remote.runner import ByteStream

MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"
CHUNK: Final = 256 * 1024
_PATH: Final = re.compile(r"/v2/(?P<name>[a-z0-9/._-]+)/(?P<kind>manifests|blobs)/(?P<digest>sha256:[0-9a-f]{64})")
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")

Served = Callable[[str, int, int], None]
"""Told (digest, first byte, number of bytes) after bytes of a blob were handed to the connection."""


def manifest_of(image: StoredImage, config_size: int) -> bytes:
    """Return the image's manifest (Image Manifest Version 2, Schema 2)."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": config_size, "digest": image.config},
        "layers": [
            {"mediaType": layer.media_type, "size": layer.size, "digest": layer.digest} for layer in image.layers
        ],
    }
    return json.dumps(document).encode()


@dataclass(slots=True)
class Registry:
    """Offers one image to whoever knows the repository's name."""

    store: LayerStore
    image: StoredImage
    repository: str = field(default_factory=lambda: f"hetero-tui-{secrets.token_hex(16)}")
    connections: int = 0
    """How many were ever made: none means that the engine does not reach this loopback."""
    closed: bool = False
    """Hangs up on everybody: nothing more can be completed with what comes from here."""
    _manifest: bytes = field(init=False)
    _blobs: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        config_size = self.store.path(self.image.config).stat().st_size
        self._manifest = manifest_of(self.image, config_size)
        self._blobs = {self.image.config: config_size} | {layer.digest: layer.size for layer in self.image.layers}

    @property
    def digest(self) -> str:
        """Digest of the manifest, by which the image is pulled."""
        return f"sha256:{hashlib.sha256(self._manifest).hexdigest()}"

    async def serve(self, stream: ByteStream, served: Served) -> None:
        """Answer the requests of one connection until the other end closes it.

        Raises:
            ConnectionDropped: the way to the host was lost.
        """
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                while (event := connection.next_event()) is h11.NEED_DATA:
                    connection.receive_data(await stream.read(CHUNK))
            except h11.RemoteProtocolError:
                return  # not HTTP, or broken off in a request: nobody is there to be told
            if isinstance(event, h11.ConnectionClosed):
                return
            if not isinstance(event, h11.Request):
                continue
            if self.closed:
                return
            await self._answer(connection, stream, event, served)
            if connection.our_state is not h11.DONE:
                return
            try:
                while connection.their_state is h11.SEND_BODY:
                    if connection.next_event() is h11.NEED_DATA:
                        connection.receive_data(await stream.read(CHUNK))
            except h11.RemoteProtocolError:
                return
            if connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, connection: h11.Connection, stream: ByteStream, asked: h11.Request, served: Served) -> None:
        only_head = asked.method == b"HEAD"
        target = asked.target.decode("latin-1").partition("?")[0]
        if asked.method not in (b"GET", b"HEAD"):
            return await _reply(connection, stream, 405, b"", only_head=only_head)
        if target.rstrip("/") == "/v2":
            return await _reply(connection, stream, 200, b"{}", only_head=only_head)
        match = _PATH.fullmatch(target)
        if match is None or not secrets.compare_digest(match["name"], self.repository):
            return await _reply(connection, stream, 404, _error("NAME_UNKNOWN"), only_head=only_head)
        digest = match["digest"]
        if match["kind"] == "manifests":
            if digest != self.digest:
                return await _reply(connection, stream, 404, _error("MANIFEST_UNKNOWN"), only_head=only_head)
            return await _reply(connection, stream, 200, self._manifest, MANIFEST, digest, only_head=only_head)
        if digest not in self._blobs:
            return await _reply(connection, stream, 404, _error("BLOB_UNKNOWN"), only_head=only_head)
        wanted = next((value.decode("latin-1") for name, value in asked.headers if name == b"range"), "")
        return await self._send_blob(connection, stream, digest, wanted, served, only_head=only_head)

    async def _send_blob(
        self,
        connection: h11.Connection,
        stream: ByteStream,
        digest: str,
        wanted: str,
        served: Served,
        *,
        only_head: bool,
    ) -> None:
        size = self._blobs[digest]
        first, last = 0, size - 1
        headers = [
            ("Docker-Distribution-Api-Version", "registry/2.0"),
            ("Docker-Content-Digest", digest),
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
        ]
        status = 200
        if match := _RANGE.fullmatch(wanted):
            first = int(match[1])
            last = min(last, int(match[2])) if match[2] else last
            if first > last:
                headers += [("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
                head = connection.send(h11.Response(status_code=416, headers=headers))
                await stream.write(head + connection.send(h11.EndOfMessage()))
                return
            status = 206
            headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
        headers.append(("Content-Length", str(last - first + 1)))
        await stream.write(connection.send(h11.Response(status_code=status, headers=headers)))
        if not only_head:
            with self.store.path(digest).open("rb") as file:
                file.seek(first)
                left = last - first + 1
                while left > 0:
                    if self.closed:
                        raise ConnectionDropped("the transfer was given up")
                    piece = file.read(min(CHUNK, left))
                    if not piece:
                        raise ConnectionDropped(f"the layer {digest[:19]} was removed from this machine meanwhile")
                    await stream.write(connection.send(h11.Data(data=piece)))
                    served(digest, first, len(piece))
                    first += len(piece)
                    left -= len(piece)
        await stream.write(connection.send(h11.EndOfMessage()))


async def _reply(
    connection: h11.Connection,
    stream: ByteStream,
    status: int,
    body: bytes,
    content_type: str = "application/json",
    digest: str = "",
    *,
    only_head: bool,
) -> None:
    headers = [
        ("Docker-Distribution-Api-Version", "registry/2.0"),
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
    ]
    if digest:
        headers.append(("Docker-Content-Digest", digest))
    data = connection.send(h11.Response(status_code=status, headers=headers))
    if not only_head and body:
        data += connection.send(h11.Data(data=body))
    await stream.write(data + connection.send(h11.EndOfMessage()))


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "not here"}]}).encode()

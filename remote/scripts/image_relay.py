"""One image from this host's engine to another host's: python3 -c SCRIPT give|take ... on either side.

  take SOCKET ADDRESS            listens there once, prints "port KEY", then "moved N" as bytes come, then "end ANSWER"
  give SOCKET IMAGE ADDRESS PORT exports the image to there; the key comes on standard input

Every frame carries a MAC under a key that only the two SSH connections have told, so nothing but what the other host's
engine exported reaches this one's. Needs nothing but Python 3.8.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

CONNECT_SECONDS = 30.0
PATIENCE = 600.0  # an engine packs all of an image before its first byte
FRAME = 1 << 20


class Engine(http.client.HTTPConnection):
    """The engine behind a socket file."""

    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self.path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def mac(key: bytes, number: int, data: bytes) -> bytes:
    """Return the MAC of a frame in its place."""
    return hmac.new(key, struct.pack(">Q", number) + data, hashlib.sha256).digest()


def exactly(stream: BinaryIO, size: int) -> bytes:
    """Read that many bytes."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other host hung up")
    return data


def frames(stream: BinaryIO, key: bytes) -> Iterator[bytes]:
    """Yield what the other host sends, up to its empty frame."""
    number, moved, told = 0, 0, 0.0
    while True:
        (size,) = struct.unpack(">I", exactly(stream, 4))
        if size > FRAME:
            raise ValueError("not a frame")
        data = exactly(stream, size + 32)
        if not hmac.compare_digest(mac(key, number, data[32:]), data[:32]):
            raise ValueError("a frame is not from the other host")
        if not size:
            return
        yield data[32:]
        number, moved = number + 1, moved + size
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            print("moved", moved, flush=True)


def take(path: str, address: str) -> None:
    """Load what one connection brings."""
    key = os.urandom(32)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen(1)
        listener.settimeout(CONNECT_SECONDS)
        print(listener.getsockname()[1], key.hex(), flush=True)
        peer = listener.accept()[0]
    peer.settimeout(PATIENCE)
    engine = Engine(path)
    headers = {"Content-Type": "application/x-tar"}
    with peer, peer.makefile("rb") as stream:
        engine.request("POST", "/images/load?quiet=1", frames(stream, key), headers, encode_chunked=True)
    answer = engine.getresponse()
    print("end", json.dumps([answer.status, answer.read(65536).decode(errors="replace")]), flush=True)


def give(path: str, image: str, address: str, port: str) -> None:
    """Export an image to the other host."""
    key = bytes.fromhex(sys.stdin.readline().strip())
    with socket.create_connection((address, int(port)), CONNECT_SECONDS) as peer:
        peer.settimeout(PATIENCE)
        engine = Engine(path)
        engine.request("GET", "/images/" + image + "/get")
        answer = engine.getresponse()
        if answer.status != 200:
            raise OSError("the engine said " + str(answer.status) + ": " + answer.read(400).decode(errors="replace"))
        number = 0
        while True:
            data = answer.read(FRAME)
            peer.sendall(struct.pack(">I", len(data)) + mac(key, number, data) + data)
            number += 1
            if not data:
                return


if __name__ == "__main__":
    try:
        if sys.argv[1] == "take":
            take(*sys.argv[2:])
        else:
            give(*sys.argv[2:])
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        sys.exit(str(error) or repr(error))

"""The chunked transfer coding of HTTP/1.1, taken apart. Pure.

Format: RFC 9112, section 7.1. The engine sends each message of a log as a chunk of its own, a hundred thousand a
second; h11 takes five microseconds for each.
"""

from __future__ import annotations

import re
from typing import Final

MAX_HEAD: Final = 4096
"""Bytes of a chunk's head or of the trailer; the engine's heads have five."""
MAX_SIZES: Final = 4096
_HEAD: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?")
_END: Final = b"\r\n"


class ChunkError(ValueError):
    """The bytes are not in the chunked coding."""


class Chunks:
    """Takes a body as it comes, wherever the network has split it."""

    def __init__(self) -> None:
        self._rest = b""
        """A head, an end of a chunk or a trailer that has not come to its end."""
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._is_inside = False
        self._is_trailer = False
        self._trailer = 0
        self._sizes: dict[bytes, int] = {}
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return the content of what came.

        Raises:
            ChunkError: it is not in the chunked coding. What follows its end is passed over.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while 0 <= at < end and not self.ended:
            if self._is_inside:
                at = self._content(data, at, pieces)
            elif self._is_trailer:
                at = self._end(data, at)
            else:
                at = self._whole(data, at, pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _whole(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take chunks that are there as a whole, as nearly all are; return where another state begins."""
        sizes, end = self._sizes, len(data)
        while True:
            begin = data.find(_END, at)
            if begin < 0:
                return self._keep(data, at)
            head = data[at:begin]
            size = sizes.get(head)
            if size is None:
                size = self._size(head)
            begin += 2
            at = begin + size
            if not size:
                self._is_trailer = True
                return begin
            if at + 2 > end:
                self._is_inside, self._left = True, size
                return begin
            if data[at : at + 2] != _END:
                raise ChunkError("a chunk is longer than it says")
            pieces.append(data[begin:at])
            at += 2

    def _content(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take what there is of a chunk that the network has split."""
        piece = data[at : at + self._left]
        if piece:
            pieces.append(piece)
            self._left -= len(piece)
            return at + len(piece)
        if len(data) - at < 2:
            return self._keep(data, at)
        if data[at : at + 2] != _END:
            raise ChunkError("a chunk is longer than it says")
        self._is_inside = False
        return at + 2

    def _end(self, data: bytes, at: int) -> int:
        """Take the trailer, which nobody needs, up to its empty line."""
        begin = data.find(_END, at)
        if begin < 0:
            return self._keep(data, at)
        self._trailer += begin + 2 - at
        if self._trailer > MAX_HEAD:
            raise ChunkError("the trailer has no end")
        self.ended = begin == at
        return begin + 2

    def _keep(self, data: bytes, at: int) -> int:
        self._rest = data[at:]
        if len(self._rest) > MAX_HEAD:
            raise ChunkError("a chunk's size has no end")
        return -1

    def _size(self, head: bytes) -> int:
        found = _HEAD.fullmatch(head)
        if found is None:
            raise ChunkError(f"no size of a chunk: {head[:40]!r}")
        if len(self._sizes) >= MAX_SIZES:
            self._sizes.clear()
        return self._sizes.setdefault(head, int(found[1], 16))

"""A compressed file of JSON lines that only grows, survives a crash and can be read while it is written.

It is a plain gzip file (RFC 1952): ``zcat`` reads it. Each batch ends in a deflate synchronisation marker (RFC 1951,
3.2.4), so whatever was handed over before a SIGKILL is in the file. Opened again, a member that a crash left unfinished
is closed behind its last marker, and a new one begins. Members are short, so mending never needs much memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

MEMBER_BYTES: Final = 4 << 20
"""Uncompressed size at which a new gzip member begins."""
LEVEL: Final = 1
"""Of zlib: on events level 6 makes the file an eighth smaller for two and a half times the work."""
LONGEST_LINE: Final = 64 << 20
"""Bytes; a document of the recording has some megabytes at most."""
ATTEMPTS: Final = 8
"""How often an unfinished member is tried to be ended: nearly always once is enough. Else it is written anew."""
_BLOCK: Final = 256 << 10
_STEP: Final = 512
_GZIP: Final = 16 + zlib.MAX_WBITS
_MARKER: Final = b"\x00\x00\xff\xff"
_LAST_BLOCK: Final = b"\x03\x00"
"""An empty deflate block with the bit that says it is the last one."""


class RecordingBusy(Exception):
    """Another process writes to this recording."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where the readable part of a recording ends."""

    start: int
    """Offset of the last member; the file's end when all members are finished."""
    is_finished: bool
    is_damaged: bool = False
    """What follows is no beginning of a member that a crash cut short, but something else."""
    stop: int = 0
    """Offset behind which nothing can be read; the last member is unfinished up to there."""


class RecordingFile:
    """Appends batches to a recording. One process at a time; any number may read."""

    def __init__(self, path: Path, *, member_bytes: int = MEMBER_BYTES) -> None:
        """Open for appending, and mend what a crash left behind.

        Raises:
            RecordingBusy: another process writes to it.
            OSError: the disk is full or gone.
        """
        self._member_bytes = member_bytes
        self._member: zlib._Compress | None = None
        self._size = 0
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file: BinaryIO = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RecordingBusy(str(path)) from None
        rescued = _mend(self._file, path)
        self._file.seek(0, os.SEEK_END)
        self.append(rescued)

    def append(self, lines: bytes) -> None:
        """Add whole lines and hand them to the operating system.

        Raises:
            OSError: the disk is full or gone.
        """
        if not lines:
            return
        if self._member is None:
            self._member = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
            self._size = 0
        self._size += len(lines)
        self._write(self._member.compress(lines) + self._member.flush(zlib.Z_SYNC_FLUSH))
        if self._size >= self._member_bytes:
            self._finish()

    def _finish(self) -> None:
        if self._member is not None:
            self._write(self._member.flush(zlib.Z_FINISH))
            self._member = None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def close(self) -> None:
        """Finish the file and let others write; harmless when it is closed."""
        if self._file.closed:
            return
        try:
            self._finish()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_recording(path: Path, tell: Callable[[int], None] = lambda _bytes: None) -> Iterator[bytes]:
    """Yield every whole line with its newline, up to the place where a crash or damage ended the file.

    ``tell`` is told how many bytes of the file have been read. A line longer than ``LONGEST_LINE``, which nothing here
    writes, is passed over: a small file may hold one that fills the memory.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as file:
        begun: list[bytes] = []
        size = 0
        for data in _decompressed(file):
            tell(file.tell())
            first, newline, behind = data.partition(b"\n")
            size += len(first)
            if size <= LONGEST_LINE:
                begun.append(first)
            else:
                begun.clear()
            if not newline:
                continue
            if size <= LONGEST_LINE:
                yield b"".join(begun) + newline
            *lines, rest = behind.split(b"\n")
            for line in lines:
                yield line + b"\n"
            begun, size = [rest], len(rest)


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP)
    while chunk := file.read(_BLOCK):
        while chunk:
            before = member.copy()
            try:
                data = member.decompress(chunk, _BLOCK)
            except zlib.error:
                yield _up_to_damage(before, chunk)
                return
            if data:
                yield data
            if member.eof:
                chunk, member = member.unused_data, zlib.decompressobj(_GZIP)
            else:
                chunk = member.unconsumed_tail


def _up_to_damage(member: zlib._Decompress, chunk: bytes) -> bytes:
    """Return what can be read of a piece that is damaged somewhere: the whole piece at once would give nothing."""
    content = bytearray()
    for at in range(len(chunk)):
        try:
            content += member.decompress(chunk[at : at + 1])
        except zlib.error:
            break
    return bytes(content)


def _set_aside(file: BinaryIO, path: Path, start: int) -> None:
    """Keep what follows damage in a file beside the recording: nobody can read it now, and it is not ours to lose."""
    file.seek(start)
    with path.with_name(f"{path.name}.damaged-{time.time_ns()}").open("xb") as beside:
        shutil.copyfileobj(file, beside)


def _mend(file: BinaryIO, path: Path) -> bytes:
    """Make the file end where a finished member does, and return the whole lines that this cuts off."""
    end = _find_end(file)
    size = file.seek(0, os.SEEK_END)
    if end.is_damaged:
        _set_aside(file, path, end.start)
    if end.is_finished:
        if end.start < size:
            file.truncate(end.start)
        return b""
    file.seek(end.start)
    raw = file.read(end.stop - end.start)
    lines, whole = _readable(raw)
    for each in reversed(whole):
        trailer = _LAST_BLOCK + struct.pack("<II", each.crc, each.size & 0xFFFFFFFF)
        if not _ends(raw[: each.behind] + trailer):
            continue
        # The trailer goes behind the marker first; only then does the file end there.
        file.seek(end.start + each.behind)
        file.write(trailer)
        file.truncate(end.start + each.behind + len(trailer))
        return lines[each.size :]
    file.truncate(end.start)
    return lines


@dataclass(frozen=True, slots=True)
class _Whole:
    """A place behind a marker where an unfinished member holds whole lines only."""

    behind: int
    """Its offset in the member."""
    size: int
    """Bytes of the content up to there."""
    crc: int
    """CRC-32 of that content."""


def _readable(raw: bytes) -> tuple[bytes, Sequence[_Whole]]:
    """Return the whole lines of an unfinished member, and the last places where it could end, in one pass."""
    member = zlib.decompressobj(_GZIP)
    content = bytearray()
    crc = begin = 0
    whole: deque[_Whole] = deque(maxlen=ATTEMPTS)
    while begin < len(raw):
        found = raw.find(_MARKER, begin)
        behind = len(raw) if found < 0 else found + len(_MARKER)
        try:
            piece = member.decompress(raw[begin:behind])
        except zlib.error:
            again = zlib.decompressobj(_GZIP)
            again.decompress(raw[:begin])
            content += _good_part(again, raw[begin:behind])
            break
        crc = zlib.crc32(piece, crc)
        content += piece
        if found >= 0 and content.endswith(b"\n"):
            whole.append(_Whole(behind, len(content), crc))
        begin = behind
    return bytes(content[: content.rfind(b"\n") + 1]), whole


def _good_part(member: zlib._Decompress, data: bytes) -> bytes:
    """Return what can be read of a part of a member that is damaged somewhere."""
    content = bytearray()
    for at in range(0, len(data), _STEP):
        before, piece = member.copy(), data[at : at + _STEP]
        try:
            content += member.decompress(piece)
        except zlib.error:
            content += _up_to_damage(before, piece)
            break
    return bytes(content)


def _ends(raw: bytes) -> bool:
    """Whether it is a whole member: a marker can also stand where it is none, in the middle of a block."""
    member = zlib.decompressobj(_GZIP)
    try:
        while raw and not member.eof:
            member.decompress(raw, _BLOCK)
            raw = member.unconsumed_tail
    except zlib.error:
        return False
    return member.eof


def _find_end(file: BinaryIO) -> _End:
    start = position = 0
    member = zlib.decompressobj(_GZIP)
    file.seek(0)
    while chunk := file.read(_BLOCK):
        position += len(chunk)
        while chunk:
            try:
                member.decompress(chunk, _BLOCK)
            except zlib.error:
                # Behind a finished member this is no recording; inside one, its good part can be kept.
                return _End(start, is_finished=not _is_member(file, start), is_damaged=True, stop=position)
            if member.eof:
                start = position - len(member.unused_data)
                chunk, member = member.unused_data, zlib.decompressobj(_GZIP)
            else:
                chunk = member.unconsumed_tail
    return _End(start, is_finished=start == position, stop=position)


def _is_member(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    return file.read(3) == b"\x1f\x8b\x08"

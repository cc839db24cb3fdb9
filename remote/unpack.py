"""A tar stream from a host, unpacked into a folder of our own without trusting a word of it. Nothing is held in memory.

``tarfile`` reads a header's extension records into memory whatever size they claim, and needs a blocking source; so the
members are walked here and only the 512 bytes of each header are left to it. Format: POSIX.1-2017, pax, "ustar".
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from remote.errors import ResultsError

BLOCK: Final = tarfile.BLOCKSIZE
WRITE_SIZE: Final = 1 << 20
MAX_EXTENSION: Final = 1 << 16
"""Bytes of a pax header; the engine's and Python's have a few hundred."""
MAX_MEMBERS: Final = 100_000
MAX_PATH: Final = 1000
MAX_DEPTH: Final = 32
MAX_TRAILER: Final = 1 << 20
SPARE_ROOM: Final = 64 << 20
"""Bytes of the disk that are left free."""


class HostileArchive(ResultsError):
    """The stream is no archive that an honest host sends; nothing of it is kept."""


class NoRoom(ResultsError):
    """A file does not fit on this machine's disk."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """One file that was written."""

    size: int
    """Bytes."""
    sha256: str


@dataclass(slots=True)
class Unpacked:
    """What became of a stream."""

    files: dict[PurePosixPath, Arrived] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Members that were not written, by name, with the reason."""


async def unpack(
    chunks: AsyncIterator[bytes],
    into: Path,
    place: Callable[[PurePosixPath], PurePosixPath | None],
    *,
    host: str,
    began: Callable[[PurePosixPath, int], None] = lambda _path, _size: None,
) -> Unpacked:
    """Write the regular files of a tar stream below ``into``, flushed to the disk.

    Links and devices are not made, only told. A path that leads out of the folder condemns the whole stream.

    Args:
        chunks: the stream.
        into: a folder nobody else writes to.
        place: returns where a member belongs below ``into``, or None to pass over it.
        host: where the stream comes from, for messages.
        began: told path and bytes of every file before it is written.

    Raises:
        HostileArchive: an absolute path, ``..``, the same file twice, a broken header, a truncated stream.
        NoRoom: a file does not fit on the disk.
        ConnectionDropped: what ``chunks`` raises.
    """
    blocks = _Blocks(chunks, host)
    found = Unpacked()
    for _ in range(MAX_MEMBERS):
        member = await _next_member(blocks, host)
        if member is None:
            await blocks.drain()
            return found
        path = _safe_path(member.name, host)
        if member.isdir():
            continue
        if not member.isreg():
            found.refused[_shown(member.name)] = "it is a link or a device"
            await blocks.skip(0 if member.type in tarfile.SUPPORTED_TYPES else member.size)
            continue
        target = place(path)
        if target is None:
            await blocks.skip(member.size)
            continue
        if not str(path).isprintable():
            found.refused[_shown(member.name)] = "its name has characters that cannot be shown"
            await blocks.skip(member.size)
            continue
        began(target, member.size)
        found.files[target] = await _write(blocks, into / target, member.size, host)
    raise HostileArchive(f"the archive has more than {MAX_MEMBERS} members", host=host)


def _safe_path(name: str, host: str) -> PurePosixPath:
    path = PurePosixPath(name)
    parts = path.parts
    if path.is_absolute() or ".." in parts or "\0" in name or len(name) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise HostileArchive(
            f"the archive has a member {_shown(name)!r}, which leads out of its folder: nothing of it was kept",
            host=host,
            next_step="no engine and no tar writes that; find out what runs on that host",
        )
    return path


async def _next_member(blocks: _Blocks, host: str) -> tarfile.TarInfo | None:
    """Return the next member with its true name and size, or None at the archive's end."""
    name, size = "", -1
    while True:
        header = await blocks.exactly(BLOCK)
        if not any(header):
            return None
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise HostileArchive(f"what came is no tar archive: {error}", host=host) from error
        if member.size < 0:
            raise HostileArchive("the archive has a member of negative size", host=host)
        if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if member.size > MAX_EXTENSION:
                raise HostileArchive(f"the archive has a header of {member.size} bytes", host=host)
            content = await blocks.exactly(member.size)
            await blocks.pad(member.size)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif member.type != tarfile.XGLTYPE:
                records = _pax_records(content, host)
                name = records.get("path", name)
                size = _whole_number(records["size"], host) if "size" in records else size
            continue
        if member.type in (tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGLINK):
            raise HostileArchive("the archive has members of a kind that is not understood here", host=host)
        member.name = name or member.name
        member.size = size if size >= 0 else member.size
        return member


def _pax_records(content: bytes, host: str) -> Mapping[str, str]:
    """Return the records, each of the form ``length key=value`` and a newline; the length counts itself."""
    records: dict[str, str] = {}
    at = 0
    while at < len(content):
        digits, space, _ = content[at : at + 12].partition(b" ")
        length = _whole_number(digits.decode("ascii", "replace"), host)
        key, equals, value = content[at + len(digits) + 1 : at + length].partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or at + length > len(content):
            raise HostileArchive("the archive has a broken pax header", host=host)
        records[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        at += length
    return records


def _whole_number(text: str, host: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise HostileArchive(f"the archive has {_shown(text)!r} where a number belongs", host=host)
    return int(text)


async def _write(blocks: _Blocks, path: Path, size: int, host: str) -> Arrived:
    free = shutil.disk_usage(_existing(path.parent)).free
    if size > free - SPARE_ROOM:
        raise NoRoom(
            f"{path.name} has {size >> 20} MiB, but only {max(0, free) >> 20} MiB are free at {_existing(path.parent)}",
            host=host,
            next_step="make room on this machine, or choose another folder with --experiments",
        )
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise HostileArchive(f"the archive has {path.name} twice, as a file or a folder", host=host) from error
    with os.fdopen(descriptor, "wb") as file:

        def take(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        left = size
        while left:
            piece = await blocks.exactly(min(left, WRITE_SIZE))
            left -= len(piece)
            await asyncio.to_thread(take, piece)
        await blocks.pad(size)
        # The only other copy is removed from the host soon.
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return Arrived(size, digest.hexdigest())


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _shown(name: str) -> str:
    return "".join(each if each.isprintable() else "�" for each in name[:200])


@dataclass(slots=True)
class _Blocks:
    """Cuts a stream of chunks into the lengths that are asked for."""

    chunks: AsyncIterator[bytes]
    host: str
    _rest: bytearray = field(default_factory=bytearray)

    async def exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            try:
                self._rest += await anext(self.chunks)
            except StopAsyncIteration:
                raise HostileArchive("the archive ended in the middle", host=self.host) from None
        taken = bytes(self._rest[:count])
        del self._rest[:count]
        return taken

    async def pad(self, size: int) -> None:
        """Pass over what fills the last block of a member of ``size`` bytes."""
        await self.exactly(-size % BLOCK)

    async def skip(self, size: int) -> None:
        left = size + -size % BLOCK
        while left:
            left -= len(await self.exactly(min(left, WRITE_SIZE)))

    async def drain(self) -> None:
        """Read on to the end: only then does the source say whether it ended well."""
        after = len(self._rest)
        async for chunk in self.chunks:
            after += len(chunk)
            if after > MAX_TRAILER:
                raise HostileArchive("the archive goes on behind its end", host=self.host)

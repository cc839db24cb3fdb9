"""Archives from hosts: honest ones arrive byte for byte, hostile ones reach nothing outside their folder."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.unpack import HostileArchive, NoRoom, Unpacked, unpack
from tests.unit.archives import Member, file, packed, special, stream


async def take(content: bytes, into: Path, size: int = 1000) -> Unpacked:
    return await unpack(stream(content, size), into, lambda path: path, host="gpu-box")


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
async def test_an_honest_archive_arrives_as_it_is(tmp_path: Path, kind: int, size: int) -> None:
    deep = "/".join(["folder"] * 10)
    noise = random.Random(1).randbytes(3000)
    members = [
        special("a", tarfile.DIRTYPE),
        file("a/empty", b""),
        file("a/data", noise),
        file(f"{deep}/x", b"y" * 512),
    ]
    members[2][0].mtime = 1234.5  # Python writes this as an extension header
    if kind == tarfile.USTAR_FORMAT:
        members[2][0].mtime = 1234
    into = tmp_path / "into"
    found = await take(packed(members, kind), into, size)
    assert everything_below(into) == {"a/empty": b"", "a/data": noise, f"{deep}/x": b"y" * 512}
    arrived = found.files[PurePosixPath("a/data")]
    assert (arrived.size, arrived.sha256) == (3000, hashlib.sha256(noise).hexdigest())
    assert found.refused == {}


async def test_long_names_arrive(tmp_path: Path) -> None:
    name = "x" * 200 + "/" + "ü" * 60
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        into = tmp_path / str(kind)
        await take(packed([file(name, b"1")], kind), into)
        assert everything_below(into) == {name: b"1"}


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/own", "../own", "a/../../own", "a/..", "..", "//own", "x" * 1001, "/".join("abcdefgh" * 5)],
)
async def test_a_path_that_leads_out_condemns_the_archive(tmp_path: Path, name: str) -> None:
    into = tmp_path / "into"
    with pytest.raises(HostileArchive, match="leads out of its folder"):
        await take(packed([file("fine", b"1"), file(name, b"2")]), into)
    assert set(everything_below(tmp_path)) <= {"into/fine"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
async def test_links_and_devices_are_told_and_never_made(tmp_path: Path, kind: bytes) -> None:
    """A later member "through" the link stays inside, for there is no link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    into = tmp_path / "into"
    found = await take(packed([special("door", kind, str(outside)), file("door/own", b"1")]), into)
    assert found.refused == {"door": "it is a link or a device"}
    assert list(outside.iterdir()) == []
    assert everything_below(into) == {"door/own": b"1"}
    assert not (into / "door").is_symlink()


@pytest.mark.parametrize(
    "members",
    [
        [file("a", b"1"), file("a", b"2")],
        [file("a", b"1"), file("./a", b"2")],
        [file("a", b"1"), file("a/b", b"2")],
        [file("a/b", b"1"), file("a", b"2")],
    ],
)
async def test_the_same_path_twice_condemns_the_archive(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(HostileArchive, match="twice"):
        await take(packed(members), tmp_path / "into")


async def test_names_that_could_rewrite_a_terminal_are_left_out(tmp_path: Path) -> None:
    found = await take(packed([file("a\x1b[2Jb", b"1"), file("c", b"2")]), tmp_path)
    assert found.refused == {"a�[2Jb": "its name has characters that cannot be shown"}
    assert everything_below(tmp_path) == {"c": b"2"}


def header(size_field: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header with a size of our choice and a good checksum."""
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size_field
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


HUGE = b"\x80" + (1 << 60).to_bytes(11, "big")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ended in the middle"),
        (b"not a tar archive at all" * 100, "no tar archive"),
        (packed([file("a", b"1" * 2000)])[:1500], "ended in the middle"),
        (packed([file("a", b"1")])[:1024], "ended in the middle"),
        (header(b"\xff" * 12), "negative size"),
        (header(HUGE, tarfile.XHDTYPE), "header of"),
        (header(HUGE, tarfile.GNUTYPE_LONGNAME), "header of"),
        (header(b"%011o\0" % 4, tarfile.XHDTYPE) + b"junk" + bytes(508), "number belongs"),
        (header(b"%011o\0" % 9, tarfile.XHDTYPE) + b"99 path=x" + bytes(503), "broken pax header"),
        (header(b"%011o\0" % 13, tarfile.XHDTYPE) + b"13 size=0x10\n" + bytes(499) + header(b"0" * 12), "number"),
        (header(b"%011o\0" % 0, tarfile.GNUTYPE_SPARSE) + bytes(1024), "not understood"),
        (packed([file("a", b"1")]) + b"more" * 400_000, "behind its end"),
    ],
    ids=range(12),
)
async def test_what_is_broken_or_endless_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(HostileArchive, match=words) as raised:
        await take(content, tmp_path / "into", 4096)
    assert raised.value.host == "gpu-box"


async def test_a_header_of_another_size_record_decides(tmp_path: Path) -> None:
    """Files over 8 GiB tell their size only in the extension header; it must not be possible to get out of step."""
    content = header(b"%011o\0" % 10, tarfile.XHDTYPE) + b"10 size=3\n" + bytes(502) + header(b"%011o\0" % 0)
    found = await take(content + b"abc" + bytes(509) + bytes(1024), tmp_path)
    assert everything_below(tmp_path) == {"a": b"abc"}
    assert found.files[PurePosixPath("a")].size == 3


async def test_a_file_larger_than_the_disk_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, 65 << 20))
    with pytest.raises(NoRoom, match="65 MiB are free") as raised:
        await take(packed([file("a", b"1" * (2 << 20))]), tmp_path / "into", 1 << 20)
    assert "make room on this machine" in raised.value.next_step
    assert not (tmp_path / "into").exists()


async def test_no_more_than_a_few_pieces_are_held(tmp_path: Path) -> None:
    """The source is asked for the next chunk only when the last ones are on the disk."""
    asked = 0
    content = packed([file("a", b"1" * (8 << 20))])

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal asked
        async for chunk in stream(content, 1 << 16):
            asked += len(chunk)
            path = tmp_path / "a"
            written = path.stat().st_size if path.exists() else 0
            assert asked - written < 3 << 20
            yield chunk

    await unpack(chunks(), tmp_path, lambda path: path, host="gpu-box")
    assert (tmp_path / "a").stat().st_size == 8 << 20


@given(st.binary(max_size=3000), st.integers(0, 4000), st.integers(0, 255))
async def test_any_damage_is_refused_or_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, position: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    content = bytearray(packed([file("a/b", noise), file("c", b"2")]))
    content[position % len(content)] = byte
    with contextlib.suppress(HostileArchive):
        await take(bytes(content), folder / "into")
    assert [path.name for path in folder.iterdir() if path.name != "into"] == []
    shutil.rmtree(folder)

"""A recording with a damaged member is mended in one pass, whatever the damage."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import pytest

from remote import recording
from remote.recording import ATTEMPTS, RecordingFile, read_recording

LINES = [b'{"number":%d}\n' % number for number in range(2000)]
MARKER = b"\x00\x00\xff\xff"


class Counted:
    """zlib, with a count of the bytes that are unpacked."""

    def __init__(self) -> None:
        self.bytes = self.members = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(zlib, name)

    def decompressobj(self, wbits: int) -> Any:
        self.members += 1
        return _Member(self, zlib.decompressobj(wbits))


class _Member:
    def __init__(self, counted: Counted, member: Any) -> None:
        self._counted, self._member = counted, member

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def decompress(self, data: bytes, *limit: int) -> bytes:
        unpacked: bytes = self._member.decompress(data, *limit)
        self._counted.bytes += len(data)
        return unpacked

    def copy(self) -> _Member:
        return _Member(self._counted, self._member.copy())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found = Counted()
    monkeypatch.setattr(recording, "zlib", found)
    return found


def unfinished(path: Path, lines: list[bytes]) -> bytes:
    """Return a recording as a crash leaves it: one member with a marker for each line, and no end."""
    file = RecordingFile(path)
    for line in lines:
        file.append(line)
    content = path.read_bytes()
    file.close()
    path.unlink()
    return content


def damaged(whole: bytes, at: int) -> bytes:
    """Return it with a block of a kind that there is not."""
    begin = whole.index(MARKER, at) + len(MARKER)
    return whole[:begin] + b"\x07" + whole[begin + 1 :]


def mended(path: Path, content: bytes) -> list[bytes]:
    path.write_bytes(content)
    with RecordingFile(path):
        pass
    return list(read_recording(path))


@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
def test_damage_costs_a_few_passes_however_many_markers_follow(part: float, tmp_path: Path, counted: Counted) -> None:
    whole = unfinished(tmp_path / "a", LINES)
    content = damaged(whole, int(part * len(whole)))
    assert content.count(MARKER) > 1900
    counted.bytes = counted.members = 0
    lines = mended(tmp_path / "a", content)
    assert lines == LINES[: len(lines)]
    assert len(lines) > len(LINES) * (part - 0.1)
    assert counted.members <= ATTEMPTS + 10
    # Looked for, read, ended, read again to its damage, and read back: each a pass.
    assert counted.bytes < 8 * len(content)


def test_markers_that_are_none_are_tried_a_few_times_only(tmp_path: Path, counted: Counted) -> None:
    compressor = zlib.compressobj(0, zlib.DEFLATED, 31)
    # Stored, not packed: each line is in the file as it is, with a marker in the middle of a block.
    line = b"x" * 99 + MARKER + b"\n"
    content = compressor.compress(b"good\n" + line * 5000) + compressor.flush(zlib.Z_SYNC_FLUSH)
    counted.bytes = counted.members = 0
    lines = mended(tmp_path / "a", content[:-3] + b"\x07" * 40)
    assert len(lines) >= 5000
    assert counted.members <= ATTEMPTS + 10
    assert counted.bytes < (ATTEMPTS + 10) * len(content)


def test_what_follows_damage_in_an_early_member_is_not_read_into_memory(tmp_path: Path, counted: Counted) -> None:
    first = unfinished(tmp_path / "a", LINES)
    content = damaged(first, 4000) + gzip.compress(b"later\n" * 9, 0) * 50_000
    counted.bytes = counted.members = 0
    lines = mended(tmp_path / "a", content)
    assert lines == LINES[: len(lines)]
    assert counted.bytes < 2 << 20
    (kept,) = tmp_path.glob("a.damaged-*")
    assert content.endswith(kept.read_bytes())
    assert kept.stat().st_size > len(content) / 2


def test_a_batch_that_broke_off_is_cut_off_and_all_before_it_kept(tmp_path: Path) -> None:
    whole = unfinished(tmp_path / "a", LINES[:50])
    for cut in range(1, 60):
        lines = mended(tmp_path / "a", whole[:-cut])
        assert lines == LINES[: len(lines)]
        assert len(lines) >= 44


def test_a_line_that_would_fill_the_memory_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LONGEST_LINE", 1 << 20)
    longest = b"a" * ((1 << 20) - 1) + b"b\n"
    (tmp_path / "a").write_bytes(gzip.compress(b"x\n" + longest + bytes(3 << 20) + b"\ny\n" + longest + b"z\n"))
    assert list(read_recording(tmp_path / "a")) == [b"x\n", longest, b"y\n", longest, b"z\n"]

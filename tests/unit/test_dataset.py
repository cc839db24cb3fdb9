"""A data set on the way from the master to hosts that lack some of it: real shells, a folder a host."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from remote.checks.data import data_finding
from remote.checks.model import Verdict
from remote.dataset import (
    SMALL,
    DatasetError,
    Difference,
    Summary,
    compare,
    groups,
    read_listing,
    read_summary,
)
from remote.dataset_sync import PIECE, Dataset
from remote.errors import ConnectionDropped
from remote.inventory import Cluster, Host, Inventory
from remote.local import LocalRunner
from remote.runner import Completed

INCOMING = ".hetero-tui-incoming"
BIG = PIECE + 1000


class Counting(LocalRunner):
    """Counts the reads of the master's data; loses the connection when told to."""

    reads = 0
    pieces_until_drop = -1

    def stream(self, command: str) -> AsyncGenerator[bytes, None]:
        self.reads += 1
        return super().stream(command)

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        if "dataset.sh append" in command and self.pieces_until_drop >= 0:
            self.pieces_until_drop -= 1
            if self.pieces_until_drop < 0:
                raise ConnectionDropped("the cable was pulled", host=self.host)
        return await super().run(command, input=input, timeout=timeout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "one" / "set"
    (data / "deep er").mkdir(parents=True)
    (data / "big.bin").write_bytes(os.urandom(BIG))
    for number in range(5):
        (data / "deep er" / f"it's {number}").write_bytes(os.urandom(1000 + number))
    (data / "my total").write_bytes(b"")
    (data / "-n").write_bytes(b"dash")
    return tmp_path


def _dataset(folder: Path) -> tuple[Dataset, dict[str, Counting]]:
    runners = {name: Counting(name) for name in ("one", "two", "three")}
    return Dataset({name: f"{folder}/{name}/set" for name in runners}, runners, "one"), runners


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_hosts_get_what_they_lack_from_one_read(folder: Path) -> None:
    dataset, runners = _dataset(folder)
    two = folder / "two" / "set"
    two.mkdir(parents=True)
    (two / "-n").write_bytes(b"dash")
    (two / "mine").write_bytes(b"stays")
    state = await dataset.look()
    assert state.differences["two"].extra == ("mine",)
    assert state.differences["three"].bytes_lacking == sum(state.sizes.values()) > BIG
    assert not (folder / "three" / "set").exists(), "looking changes nothing"

    told: list[tuple[str, int, int]] = []
    assert await dataset.bring(state, lambda *each: told.append(each)) == {}
    wanted = _contents(folder / "one" / "set")
    assert _contents(folder / "three" / "set") == wanted
    assert _contents(two) == wanted | {"mine": b"stays"}
    assert runners["one"].reads == 3, "two pieces and one pack, for both hosts"
    assert ("three", state.differences["three"].bytes_lacking, state.differences["three"].bytes_lacking) in told
    again = await dataset.look(contents=True)
    assert (again.is_same, again.differences["three"]) == (False, Difference())
    (two / "mine").unlink()
    assert (await dataset.look()).is_same
    for name in ("two", "three"):
        assert not (folder / name / "set" / INCOMING).exists()


async def test_a_lost_connection_holds_up_nobody_and_goes_on_where_it_stopped(folder: Path) -> None:
    dataset, runners = _dataset(folder)
    runners["two"].pieces_until_drop = 1
    state = await dataset.look()
    assert set(await dataset.bring(state, lambda *_: None)) == {"two"}
    assert _contents(folder / "three" / "set") == _contents(folder / "one" / "set")
    part = folder / "two" / "set" / INCOMING / "big.bin"
    assert part.stat().st_size == PIECE
    state = await dataset.look()
    assert state.unfinished == state.to_bring == frozenset({"two"})

    runners["two"].pieces_until_drop, runners["one"].reads = -1, 0
    assert await dataset.bring(state, lambda *_: None) == {}
    assert runners["one"].reads == 2, "the second piece and the pack"
    assert (await dataset.look(contents=True)).is_same


async def test_what_is_there_with_other_content_is_never_overwritten(folder: Path) -> None:
    dataset, _ = _dataset(folder)
    for name, content in (("two", b"other size"), ("three", b"hsad")):
        (folder / name / "set").mkdir(parents=True)
        (folder / name / "set" / "-n").write_bytes(content)
    state = await dataset.look()
    assert set(state.problems) == {"two"}
    state = await dataset.look(contents=True)
    assert {name: each.differing for name, each in state.differences.items()} == {"two": ("-n",), "three": ("-n",)}
    failures = await dataset.bring(state, lambda *_: None)
    assert "not overwritten" in failures["three"].message
    assert _contents(folder / "three" / "set") == {"-n": b"hsad"}, "all or nothing"


async def test_damage_on_the_way_is_found(folder: Path) -> None:
    dataset, _ = _dataset(folder)
    state = await dataset.look()
    part = folder / "two" / "set" / INCOMING / "big.bin"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"damaged")
    failures = await dataset.bring(state, lambda *_: None)
    assert "damaged big.bin" in failures["two"].message
    assert not (folder / "two" / "set" / "big.bin").exists()
    assert await dataset.bring(await dataset.look(), lambda *_: None) == {}
    assert (await dataset.look(contents=True)).is_same


async def test_a_master_without_data_says_so(tmp_path: Path) -> None:
    dataset, _ = _dataset(tmp_path)
    with pytest.raises(DatasetError, match="is not there on one"):
        await dataset.look()
    (tmp_path / "one" / "set").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is empty on one"):
        await dataset.look()


async def test_room_is_known_before_the_first_byte(folder: Path) -> None:
    dataset, _ = _dataset(folder)
    listing = read_listing("two", "free 1\n")
    assert listing.free_bytes == 1024
    difference = compare({"a": 2000}, listing)
    assert difference.bytes_lacking > listing.free_bytes
    assert (await dataset.look()).free_bytes["three"] > BIG, "of a folder that is not there yet"


async def test_the_rest_of_a_transfer_that_nobody_goes_on_with_is_removed(folder: Path) -> None:
    dataset, _ = _dataset(folder)
    assert await dataset.bring(await dataset.look(), lambda *_: None) == {}
    rest = folder / "two" / "set" / INCOMING / "big.bin"
    rest.parent.mkdir()
    rest.write_bytes(b"rest")
    state = await dataset.look()
    assert not state.is_same
    assert await dataset.bring(state, lambda *_: None) == {}
    assert not rest.parent.exists()
    assert (await dataset.look(contents=True)).is_same


@pytest.mark.parametrize(
    "answer",
    ["", "free 1\n5 ./a/../../etc/passwd\n", "free 1\n5 ./a\x1b[2J\n", "free 1\n5 .//etc/x\n", "free 1\nhello\n"],
)
def test_hostile_listings_are_refused(answer: str) -> None:
    with pytest.raises(DatasetError):
        read_listing("evil", answer)


def test_small_files_travel_together() -> None:
    sizes = {"a": 1, "b": SMALL + 1, "c": 2, **{f"d{number}": 1 for number in range(250)}}
    packs = list(groups(sorted(sizes), sizes))
    assert ("b",) in packs
    assert max(map(len, packs)) == 200
    assert sorted(path for pack in packs for path in pack) == sorted(sizes)
    long = {f"{number:03}{'x' * 4000}": 1 for number in range(20)}
    assert max(map(len, groups(sorted(long), long))) == 7, "a command line has its limit"


async def test_a_link_into_nowhere_is_not_replaced(folder: Path) -> None:
    dataset, _ = _dataset(folder)
    link = folder / "two" / "set" / "-n"
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere")
    failures = await dataset.bring(await dataset.look(), lambda *_: None)
    assert "taken -n" in failures["two"].message
    assert link.is_symlink()


async def test_a_host_that_chatters_is_named(folder: Path) -> None:
    dataset, runners = _dataset(folder)

    class Chattering(Counting):
        async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
            done = await super().run(command, input=input, timeout=timeout)
            return dataclasses.replace(done, stdout="welcome\n") if "dataset.sh have" in command else done

    chatty = dataclasses.replace(dataset, runners={**runners, "two": Chattering("two")})
    failures = await chatty.bring(await chatty.look(), lambda *_: None)
    assert "'welcome'" in failures["two"].message
    assert _contents(folder / "three" / "set") == _contents(folder / "one" / "set")


async def test_a_summary_tells_folders_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "-it's", "half"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one two.bin").write_bytes(b"12345")
    (tmp_path / "c" / "one two.bin").write_bytes(b"123456")
    (tmp_path / "half" / INCOMING).mkdir()
    (tmp_path / "half" / INCOMING / "x").write_bytes(b"never counted")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    names = ("a", "b", "c", "-it's", "half", "empty", "file", "nosuch")
    folders = Dataset({name: f"{tmp_path}/{name}" for name in names}, dict.fromkeys(names, LocalRunner()), "a")
    a, b, c, odd, half, empty, file, missing = (await folders.summaries()).values()
    assert isinstance(a, Summary)
    assert a == b == odd
    assert (a.count, a.size) == (1, 5)
    assert isinstance(c, Summary)
    assert (c.count, c.size) == (1, 6)
    assert c.digest != a.digest
    assert half == Summary(1, 5, a.digest, unfinished=True)
    assert isinstance(empty, Summary)
    assert empty.count == 0
    assert file == Summary(problem="denied")
    assert missing == Summary(problem="missing")


@pytest.mark.parametrize("answer", ["", "bash: welcome", "files x y z", "files 1 2", "problem", "unfinished 4"])
def test_what_is_no_summary_is_none(answer: str) -> None:
    assert read_summary(answer) is None


FULL = Summary(3, 30, "1-1")


@pytest.mark.parametrize(
    ("other", "verdict", "words"),
    [
        (FULL, Verdict.OK, "3 files"),
        (Summary(problem="missing"), Verdict.FAIL, "is not there on pc2"),
        (Summary(problem="denied"), Verdict.FAIL, "may not be read on pc2"),
        (Summary(digest="2-2"), Verdict.FAIL, "is empty on pc2"),
        (Summary(3, 31, "9-9"), Verdict.FAIL, "differs on pc2 from pc1"),
        (Summary(3, 30, "1-1", unfinished=True), Verdict.FAIL, "did not end on pc2"),
    ],
)
def test_the_check_says_which_host_differs_and_that_it_can_be_brought(
    other: Summary, verdict: Verdict, words: str
) -> None:
    inventory = Inventory(cluster=Cluster(name="c"), hosts=(Host(name="pc1"), Host(name="pc2", user="ada", port=23)))
    finding = data_finding("/data/my set", {"pc1": FULL, "pc2": other}, inventory)
    assert finding.verdict is verdict
    assert words in finding.reason
    if verdict is Verdict.FAIL:
        assert finding.fix is not None
        assert finding.fix.brings_data
        assert finding.fix.commands == ("rsync -a -e 'ssh -p 23' '/data/my set/' ada@pc2:'/data/my set/'",)


def test_the_commands_mean_the_home_folder_on_both_sides() -> None:
    inventory = Inventory(cluster=Cluster(name="c"), hosts=(Host(name="pc1"), Host(name="pc2", user="ada")))
    finding = data_finding("~/my set", {"pc1": FULL, "pc2": Summary(problem="missing")}, inventory)
    assert finding.fix is not None
    assert finding.fix.commands == ("rsync -a ~/'my set/' ada@pc2:'my set/'",)


def test_nobody_can_bring_what_the_master_lacks() -> None:
    inventory = Inventory(cluster=Cluster(name="c"), hosts=(Host(name="pc1"), Host(name="pc2")))
    finding = data_finding("/data", {"pc1": Summary(problem="missing"), "pc2": FULL}, inventory)
    assert finding.fix is not None
    assert not finding.fix.brings_data
    assert not finding.fix.commands

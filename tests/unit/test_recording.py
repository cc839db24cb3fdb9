"""A recording played back gives exactly the state the run was in, whatever happened and whoever watched."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hetero_tui.cluster_session import ClusterSession
from hetero_tui.ingest import Ingest
from hetero_tui.output_room import BURST_LINES
from hetero_tui.recording import RecordedStore, RunClock, recorded_store, take_up
from remote.inventory import parse_inventory
from remote.recording import RecordingBusy, RecordingFile, read_recording
from remote.run_dir import RunDir
from remote.runtime import LogLine
from tests.unit.store_state import every_view
from tests.unit.stored import stored_run
from trainer.events import Done, Event, Failed, Hardware, Hello, Membership, Notice, Output, Shares, Step, encode

INVENTORY = """\
[cluster]
name = "{cluster}"
[image]
ref = "trainer:1"
[training]
workload = "simple_cnn"
[[hosts]]
name = "pc"
address = "192.0.2.1"
[[hosts]]
name = "laptop"
address = "192.0.2.2"
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.create(tmp_path, "home", "20261123-034500-ab12") as created:
        yield created


def lines(*events: Event | str) -> list[LogLine]:
    texts = [each if isinstance(each, str) else encode(each) for each in events]
    return [LogLine(text, str(number)) for number, text in enumerate(texts)]


def steps(rank: int, first: int, count: int) -> Sequence[Event]:
    return [
        Step(
            rank=rank,
            seq=number,
            time=1e9 + number / 10,
            step=number,
            steps_total=500,
            share=32 - 8 * rank,
            global_batch=56,
            loss=2.0 / number,
            compute=0.05,
            wait=0.01 * rank,
            communication=0.02,
            duration=0.1,
        )
        for number in range(first, first + count)
    ]


async def a_bit_of_everything(store: RecordedStore, ingest: Ingest) -> None:
    store.expect("a", {0: "cuda:0"})
    store.expect("b", {1: "cpu"})
    store.note_launch("a", "importing")
    for rank, host in enumerate("ab"):
        await ingest.feed(host, lines(Hello(rank=rank, seq=0, time=1e9, host=host, device="cpu", process_id=7)))
    store.note_launch("a", "go")
    for block in range(3):
        first = 1 + 40 * block
        await asyncio.gather(
            ingest.feed("a", lines(*steps(0, first, 40))), ingest.feed("b", lines(*steps(1, first, 40)))
        )
    store.note("log stream lost: b: gone", "warning", host="b")
    await ingest.feed("b", lines("plain \x1b[31mred", '{"ht":1,"kind":"nope","rank":0}', *steps(1, 119, 2)))
    store.mark()
    store.mark(1)
    store.note_control({"command": "pause"})
    await ingest.feed(
        "a",
        lines(
            Shares(rank=0, seq=121, time=1e9 + 13, step=121, shares=(40, 16), policy="dynamic", speeds=(1.5, 2.5)),
            Hardware(rank=0, seq=122, time=1e9 + 13, cpu_percent=50.0, memory_used=5),
            Notice(rank=0, seq=125, time=1e9 + 13, text="paused"),
            Membership(rank=0, seq=126, time=1e9 + 14, left=(1,), reason="lost"),
            Output(rank=-1, seq=0, time=1e9 + 14, text="said", source_rank=0),
        ),
    )
    await ingest.feed("b", lines(Failed(rank=1, seq=121, time=1e9 + 14, error="rank 0 left", exit_code=1)))
    await ingest.feed("a", lines(Done(rank=0, seq=127, time=1e9 + 15, steps=121)))


async def played_back(run_dir: RunDir, now: float) -> RecordedStore:
    store, ingest = recorded_store(RunDir(run_dir.path), readonly=True)
    await take_up(store, ingest, RunDir(run_dir.path).records())
    store.run_clock.stop_at(now)
    return store


async def test_played_back_every_view_is_equal(run_dir: RunDir) -> None:
    store, ingest = recorded_store(run_dir)
    await a_bit_of_everything(store, ingest)
    now = store.run_clock() + 3
    store.run_clock.stop_at(now)
    expected = every_view(store)
    assert expected["cluster_view"].lost_lines == 2
    assert {"log", "events", "rank_views", "rank_log", "failures", "loss_history"} <= set(expected)
    again = await played_back(run_dir, now)
    assert every_view(again) == expected


async def test_a_flood_is_kept_whole_and_played_back_to_the_same_lines_shown_skipped_and_missing(
    run_dir: RunDir,
) -> None:
    store, ingest = recorded_store(run_dir)
    now = store.run_clock()
    store.run_clock.stop_at(now)  # as if all came at once
    batch: list[LogLine] = []
    for number in range(BURST_LINES + 5_000):
        missing = 7 * (number > BURST_LINES + 4_000)
        batch += lines(Output(rank=-1, seq=number + missing, time=1e9, text=f"line {number}", source_rank=0))
        if number % 900 == 0:
            batch += lines("not of an agent", *steps(0, 1 + number // 900, 1))
        if number == BURST_LINES + 2_000:
            batch.append(LogLine("plain among the skipped", "x", "stderr"))
    await ingest.feed("a", batch)
    expected = every_view(store)
    assert expected["skipped_lines"] == len([line for line in batch if '"step"' not in line.text]) - BURST_LINES
    assert expected["lost_lines"] == 7 + 1, "the ranks' numbers begin at 1 here"
    assert every_view(await played_back(run_dir, now)) == expected
    assert [line.text for line in run_dir.lines()] == [line.text for line in batch]


async def test_who_takes_over_a_run_goes_on_where_the_first_stopped(run_dir: RunDir) -> None:
    first, ingest = recorded_store(run_dir)
    await ingest.feed("a", lines(Hello(rank=0, seq=0, time=1e9, host="a"), *steps(0, 1, 50)))
    first.note("before")
    before = first.run_clock()
    run_dir.close()
    with RunDir(run_dir.path) as mine:
        second, ingest = recorded_store(mine)
        await take_up(second, ingest, mine.records())
        assert second.run_clock() >= before
        await ingest.feed("a", lines(*steps(0, 40, 30)))
        assert second.duplicate_lines == 11
        second.note("after")
        now = second.run_clock() + 1
        second.run_clock.stop_at(now)
        expected = every_view(second)
    texts = [record.text for record in second.events.tail(10)]
    assert texts.index("before") < texts.index("after")
    assert every_view(await played_back(run_dir, now)) == expected


async def test_with_readonly_nothing_is_written(run_dir: RunDir) -> None:
    store, ingest = recorded_store(run_dir, readonly=True)
    await a_bit_of_everything(store, ingest)
    assert not run_dir.events_path.exists()


async def test_while_another_writes_a_note_is_not_an_error(run_dir: RunDir) -> None:
    with RunDir(run_dir.path) as other:
        other.append("a", lines("mine"))
        store, _ = recorded_store(run_dir)
        store.note("seen")
        assert store.events.tail(1)[0].text == "seen"
    assert [record.get("did") for record in run_dir.records()] == [None]


def test_the_clock_never_goes_back() -> None:
    monotonic, wall = [5.0], [100.0]
    clock = RunClock(monotonic=lambda: monotonic[0], wall_clock=lambda: wall[0])
    assert clock() == 100.0
    wall[0] = 0.0
    monotonic[0] += 1
    assert clock() == 101.0
    clock.not_before(500.0)
    clock.not_before(200.0)
    assert clock() == 500.0
    with clock.held() as at:
        monotonic[0] += 9
        assert clock() == at == 500.0
        with clock.held(3.0) as inner:
            assert inner == at
    assert clock() == 509.0


def test_a_killed_writer_loses_nothing_it_had_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    code = (
        "import sys, time, pathlib; from remote.recording import RecordingFile\n"
        "file = RecordingFile(pathlib.Path(sys.argv[1]), member_bytes=2000)\n"
        "for number in range(200): file.append(b'%d\\n' % number * 3)\n"
        "print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"there\n"
        with pytest.raises(RecordingBusy):
            RecordingFile(path)
        os.kill(writer.pid, signal.SIGKILL)
    expected = [b"%d\n" % (number // 3) for number in range(600)]
    assert list(read_recording(path)) == expected
    with RecordingFile(path) as again:
        again.append(b"more\n")
    assert list(read_recording(path)) == [*expected, b"more\n"]
    assert gzip.decompress(path.read_bytes()) == b"".join([*expected, b"more\n"]), "any gzip can read it"


def test_it_is_small(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    text = "".join(json.dumps({"at": 1e9, "host": "a", "line": encode(each)}) + "\n" for each in steps(0, 1, 2000))
    with RecordingFile(path) as file:
        for begin in range(0, len(text), 4000):
            file.append(text[begin : begin + 4000].encode())
    assert path.stat().st_size < len(text) / 8


async def test_who_gives_up_taking_over_a_long_run_watches_none_and_can_begin_again(tmp_path: Path) -> None:
    run = stored_run(tmp_path)
    with RunDir(run.run_dir.path) as long:
        for begin in range(1, 8_000, 2_000):
            long.append("pc", lines(*steps(0, begin, 2_000)))
    session = ClusterSession(
        parse_inventory(INVENTORY.format(cluster=run.plan.cluster), "cluster.toml"), experiments=tmp_path
    )
    taking_over = asyncio.create_task(session.attach(run.run_dir.run_id))
    while not session.past.lines and not taking_over.done():
        await asyncio.wait({taking_over}, timeout=0.001)
    assert 0 < session.past.fraction <= 1
    taking_over.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking_over
    assert session.run_id == ""
    await session.attach(run.run_dir.run_id)
    assert session.run_id == run.run_dir.run_id
    assert session.past.lines > 6_000
    await session.close()

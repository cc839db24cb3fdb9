"""Playing a recording: pace, pause, position; and always the state of the run at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from hetero_tui.playback import AS_FAST_AS_POSSIBLE, Playback
from hetero_tui.recording import recorded_store, take_up
from tests.unit.store_state import every_view
from tests.unit.stored import BEGIN, stored_run


class Time:
    def __init__(self) -> None:
        self.seconds = 10.0

    def __call__(self) -> float:
        return self.seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def playback(tmp_path: Path, time: Time) -> Playback:
    made = Playback(stored_run(tmp_path).run_dir.records, clock=time)
    await made.load()
    return made


async def test_it_knows_where_it_begins_and_ends(playback: Playback) -> None:
    assert (playback.begin, playback.end) == (BEGIN, BEGIN + 50)
    assert playback.now() == BEGIN


async def test_played_to_the_end_every_view_is_that_of_the_run(tmp_path: Path, playback: Playback) -> None:
    run = next((tmp_path / "home").iterdir())
    from remote.run_dir import RunDir

    expected, ingest = recorded_store(RunDir(run), readonly=True)
    await take_up(expected, ingest, RunDir(run).records())
    expected.run_clock.stop_at(BEGIN + 50)
    playback.speed = AS_FAST_AS_POSSIBLE
    await playback.run(until_end=True)
    assert every_view(playback.store) == every_view(expected)
    assert playback.store.cluster_view().step == 40


async def test_it_keeps_the_recorded_pace(playback: Playback, time: Time) -> None:
    playback.speed = 2.0
    task = asyncio.create_task(playback.run())
    await until(lambda: bool(playback.store.ranks))
    for seconds, step in ((2.6, 4), (2.5, 9)):
        time.seconds += seconds
        await until(lambda step=step: playback.store.cluster_view().step == step)  # type: ignore[misc]
    assert playback.now() == pytest.approx(BEGIN + 10.2)
    task.cancel()


async def test_paused_nothing_moves_and_then_it_goes_on_from_there(playback: Playback, time: Time) -> None:
    task = asyncio.create_task(playback.run())
    await until(lambda: bool(playback.store.ranks))
    time.seconds += 5.5
    await until(lambda: playback.store.cluster_view().step == 4)
    playback.toggle_pause()
    time.seconds += 100
    await asyncio.sleep(0.1)
    assert playback.now() == pytest.approx(BEGIN + 5.5)
    assert playback.store.cluster_view().step == 4
    playback.toggle_pause()
    time.seconds += 1
    await until(lambda: playback.store.cluster_view().step == 5)
    task.cancel()


async def test_going_back_shows_the_run_as_it_was(playback: Playback, time: Time) -> None:
    task = asyncio.create_task(playback.run())
    playback.seek(BEGIN + 10.5)
    await until(lambda: playback.store.cluster_view().step == 9)
    playback.toggle_pause()
    then = every_view(playback.store)
    generation = playback.generation
    playback.seek(BEGIN + 30.5)
    await until(lambda: playback.store.cluster_view().step == 29)
    assert playback.generation == generation, "going on needs no new store"
    playback.seek(BEGIN + 10.5)
    await until(lambda: playback.generation > generation and not playback.seeking)
    assert every_view(playback.store) == then
    time.seconds += 50
    assert playback.now() == BEGIN + 10.5
    task.cancel()


async def test_it_goes_to_a_step_and_stays_within_the_recording(playback: Playback) -> None:
    playback.seek_step(30)
    task = asyncio.create_task(playback.run())
    await until(lambda: playback.store.cluster_view().step == 31)
    assert playback.now() == pytest.approx(BEGIN + 32, abs=0.2)
    playback.seek(BEGIN - 1000)
    await until(lambda: playback.now() == BEGIN)
    playback.seek_step(10_000)
    await until(lambda: playback.at_end)
    assert playback.now() == BEGIN + 50
    task.cancel()


async def test_speed_has_limits(playback: Playback) -> None:
    for _ in range(20):
        playback.shift_speed(1)
    assert playback.speed == 128
    for _ in range(20):
        playback.shift_speed(-1)
    assert playback.speed == 0.25

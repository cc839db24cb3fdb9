"""What a run left on the master, held against what the run was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hetero_tui.app import HeteroApp
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.playback import AS_FAST_AS_POSSIBLE, Playback
from hetero_tui.recording import RecordedStore
from hetero_tui.replay import ReplaySession
from hetero_tui.replay_app import ReplayApp
from hetero_tui.screens.replay import ReplayScreen
from hetero_tui.store import Store
from hetero_tui.stored_runs import StoredRun
from remote.errors import HostKeyUnknown
from remote.inventory import load_inventory
from remote.run_dir import RunDir
from tests.pilot.painted import shows, until
from tests.rig.client import Client
from tests.unit.store_state import every_view
from trainer.events import decode


@asynccontextmanager
async def attached(client: Client, run: str) -> AsyncIterator[ClusterSession]:
    """A session in this process that has taken over a run, so that its store can be looked at."""

    async def trust_nobody(unknown: HostKeyUnknown) -> bool:
        raise AssertionError(f"{unknown.host} is not pinned")

    text = client.cluster.read_text("utf-8")
    session = ClusterSession(
        load_inventory(client.cluster), inventory_text=text, experiments=client.folder / "experiments"
    )
    try:
        await session.connect(trust_nobody)
        await session.attach(run)
        yield session
    finally:
        await session.close()


def recorded_lines(run_dir: RunDir) -> dict[str, list[str]]:
    """Return the lines of each host in the order of arrival."""
    found: dict[str, list[str]] = {}
    for line in run_dir.lines():
        found.setdefault(line.host, []).append(line.text)
    return found


def assert_no_line_is_lost_or_doubled(lines: Mapping[str, Sequence[str]]) -> None:
    """Hold every host's lines against the numbers their writers gave them: each rank, and the host's agent (-1)."""
    for host, texts in lines.items():
        numbers: dict[int, list[int]] = {}
        for event in map(decode, texts):
            assert event is not None, f"{host} wrote a line that is no event"
            numbers.setdefault(event.rank, []).append(event.seq)
        for rank, found in numbers.items():
            assert found == list(range(len(found))), f"rank {rank} on {host}"
        assert numbers, f"{host} wrote nothing"


async def replayed(run: StoredRun) -> dict[str, Any]:
    """Return everything a store shows that was filled from the recording alone, at its end."""
    playback = Playback(run.run_dir.records)
    await playback.load()
    playback.speed = AS_FAST_AS_POSSIBLE
    await playback.run(until_end=True)
    return every_view(playback.store)


async def replayed_on_the_screen(run: StoredRun, halfway: int) -> dict[str, Any]:
    """Return the same of the monitor, with every tab opened, after going to a step and back to the beginning."""
    session = ReplaySession(run)
    playback = session.playback
    playback.speed = AS_FAST_AS_POSSIBLE
    app: HeteroApp = ReplayApp(session)
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ReplayScreen) and playback.end > 0 and playback.at_end)
        before = playback.generation
        await pilot.press("colon", *str(halfway), "enter")
        await until(pilot, lambda: playback.generation > before and playback.at_end)
        await shows(pilot, "at the end", *(host.host for host in run.plan.hosts))
        for tab in "23451":
            await pilot.press(tab)
        return every_view(session.store)


def as_it_was(store: Store, run: StoredRun) -> dict[str, Any]:
    """Return everything a live store shows, with its clock at the last thing that was recorded."""
    assert isinstance(store, RecordedStore)
    *_, last = run.run_dir.records()
    store.run_clock.stop_at(last["at"])
    return every_view(store)

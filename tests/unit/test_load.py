"""A short piece of the load benchmark: nothing is lost, nothing grows without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import simulate
from benchmarks.load_reattach import PARTS, reattach
from hetero_tui.ingest import Ingest
from hetero_tui.store import Store
from remote.run_dir import RunDir

pytestmark = pytest.mark.slow


async def test_a_simulated_hour_of_many_ranks_is_kept_once_and_rebuilt(tmp_path: Path) -> None:
    found = await simulate(hosts=32, ranks=32, hours=0.5, folder=tmp_path)
    assert found.lines == 32 * (1 + 180 + 30 + 6)
    assert (found.lost, found.duplicates, len(found.memory)) == (0, 0, 4)
    assert found.marks["shares"] == 6

    run = RunDir.open(tmp_path, "load", "20260101-000000-abcd")
    store = Store()
    ingest = Ingest(store)
    count = 0
    for line in run.lines():
        ingest.feed_line(line.host, line.text, line.stream)
        count += 1
    assert count == found.lines
    assert (store.lost_lines, store.duplicate_lines) == (0, 0)
    assert store.cluster_view().step == 181


def test_every_window_of_the_store_is_bounded() -> None:
    store = Store()
    ingest = Ingest(store)
    for number in range(120_000):
        ingest.feed_line("h1", f"output {number}")
        if number % 100 == 0:
            store.note(f"note {number}")
    assert len(store.log) <= 50_000
    assert len(store.events) <= 2_000


async def test_a_run_is_taken_up_again_with_every_line_once(tmp_path: Path) -> None:
    taken = await reattach(20_000, tmp_path)
    assert (taken.stored, taken.lost_or_doubled, taken.broken) == (20_000, 0, 0)
    assert taken.logins >= 4, "of whoever started and stopped it, and of two masters"
    assert taken.rebuild_seconds > 0
    assert len(taken.memory) == PARTS

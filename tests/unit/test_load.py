"""A short piece of the load benchmark: nothing is lost, nothing grows without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import simulate
from hetero_tui.ingest import Ingest
from hetero_tui.store import Store
from remote.run_dir import RunDir

pytestmark = pytest.mark.slow


async def test_a_simulated_hour_of_many_ranks_is_kept_once_and_rebuilt(tmp_path: Path) -> None:
    found = await simulate(hosts=64, ranks=64, hours=1.0, folder=tmp_path)
    assert found["lines"] == 64 * (1 + 360 + 60)
    assert (found["lost_lines"], found["duplicate_lines"]) == (0, 0)

    run = RunDir.open(tmp_path, "load", "20260101-000000-abcd")
    store = Store()
    ingest = Ingest(store)
    count = 0
    for line in run.lines():
        ingest.feed_line(line.host, line.text, line.stream)
        count += 1
    assert count == found["lines"]
    assert (store.lost_lines, store.duplicate_lines) == (0, 0)
    assert store.cluster_view().step == 361


def test_every_window_of_the_store_is_bounded() -> None:
    store = Store()
    ingest = Ingest(store)
    for number in range(120_000):
        ingest.feed_line("h1", f"output {number}")
        if number % 100 == 0:
            store.note(f"note {number}")
    assert len(store.log) <= 50_000
    assert len(store.events) <= 2_000

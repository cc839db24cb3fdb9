"""How a rank measures itself, on a clock of the test's own: nothing here waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from trainer import speed
from trainer.speed import calibrate, sizes
from trainer.time_table import TimeTable


@dataclass(slots=True)
class Clock:
    """A processor of which a container gets ``quota`` in every ``period``, at the beginning of it."""

    quota: float = 1.0
    period: float = 0.010
    now: float = 0.0
    used: float = 0.0
    """Processor seconds used in the present period."""

    def work(self, seconds: float) -> None:
        """Let processor time pass, and stand still wherever a period's part of it is used up."""
        while seconds > 0:
            end = (int(self.now / self.period + 1e-9) + 1) * self.period
            budget = self.quota * self.period - self.used
            done = min(seconds, budget)
            self.now += done
            self.used += done
            seconds -= done
            if seconds > 0 or self.now >= end - 1e-12:
                self.now, self.used = max(self.now, end), 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def processor(clock: Clock, tried: list[int], samples_per_second: float = 1000.0) -> Callable[[int], None]:
    """Return a rank whose speed grows with the micro-batch: every call costs as much as 16 samples beside its own."""

    def run(samples: int) -> None:
        tried.append(samples)
        clock.work((samples + 16) / samples_per_second)

    return run


def test_a_small_piece_within_one_quota_period_does_not_look_quick(clock: Clock) -> None:
    """Twelve milliseconds of work a call and periods of 100 ms: four calls in five are never throttled."""
    clock.quota, clock.period = 0.25, 0.100
    found = calibrate(processor(clock, [], 2000.0), sizes(0, 1024, "cpu"), device="cpu")
    smallest, seconds = found.table[0]
    assert smallest / seconds == pytest.approx(0.25 * 2000 * smallest / (smallest + 16), rel=0.35)
    table = TimeTable.measured(found.table)
    assert table.micro_batch(100_000) >= 128


@pytest.mark.parametrize("samples_per_second", [100.0, 200.0, 1000.0, 50_000.0])
def test_a_processor_gets_to_large_micro_batches_within_its_budget(clock: Clock, samples_per_second: float) -> None:
    tried: list[int] = []
    found = calibrate(processor(clock, tried, samples_per_second), sizes(0, 1024, "cpu"), device="cpu")
    assert clock.now <= speed.BUDGET_SECONDS * 1.1
    assert found.max_micro_batch >= (256 if samples_per_second >= 1000 else 32)


def test_an_accelerator_tries_every_size_and_stops_where_memory_ends(clock: Clock) -> None:
    tried: list[int] = []
    work = processor(clock, tried, 50_000.0)

    def run(samples: int) -> None:
        if samples > 512:
            raise RuntimeError("out of memory")
        work(samples)

    found = calibrate(run, sizes(0, 4096, "mps"), device="xla")
    assert [size for size, _ in found.table] == [4, 8, 16, 32, 64, 128, 256, 512]
    assert found.out_of_memory_at == 1024


def test_a_rank_that_gets_slower_beyond_its_cache_stops_there(clock: Clock) -> None:
    def run(samples: int) -> None:
        clock.work(samples / (1000.0 if samples <= 64 else 500.0))

    found = calibrate(run, sizes(0, 1024, "cpu"), device="cpu")
    assert TimeTable.measured(found.table).micro_batch(1024) <= 64


def test_the_larger_of_two_equally_quick_micro_batches_is_used() -> None:
    table = TimeTable.measured([(16, 0.0160), (64, 0.0650), (256, 0.300)])
    assert table.micro_batch(1000) == 64

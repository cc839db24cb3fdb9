"""The share solver against brute force, its golden values, its speed, and the choice of participants."""

from __future__ import annotations

import itertools
import math
import random
import time
from bisect import bisect_right
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.plan import (
    PlanError,
    TimeModel,
    TimeTable,
    choose_participants,
    efficiency,
    equal_shares,
    predicted_samples_per_second,
    proportional_shares,
    solve_shares,
    step_seconds,
)

SPEEDS = (256.0, 180.0, 45.0, 40.0)


@dataclass(frozen=True)
class Stairs:
    """Any monotone time function, given by its values."""

    times: tuple[float, ...]

    def seconds(self, samples: int) -> float:
        if samples > len(self.times):
            return math.inf
        return self.times[samples - 1] if samples else 0.0

    def capacity(self, seconds: float) -> int:
        return bisect_right(self.times, seconds)

    @property
    def samples_per_second(self) -> float:
        return len(self.times) / self.times[-1]


def brute_force(tables: list[TimeModel], global_batch: int, minimum: int = 0) -> float:
    shares = itertools.product(range(minimum, global_batch + 1), repeat=len(tables))
    return min(step_seconds(tables, each) for each in shares if sum(each) == global_batch)


points = st.lists(
    st.tuples(st.integers(1, 16), st.floats(0.001, 10, allow_nan=False)),
    min_size=1,
    max_size=5,
    unique_by=lambda p: p[0],
)
measured_tables = st.builds(
    lambda p, limit, overhead: TimeTable.measured(p, max_micro_batch=limit, overhead=overhead),
    points,
    st.one_of(st.none(), st.integers(1, 20)),
    st.sampled_from([0.0, 0.0, 0.01, 1.0]),
)
linear_tables = st.builds(TimeTable.from_speed, st.floats(0.1, 1000), st.sampled_from([0.0, 0.5, 5.0]))
# Few distinct values make plateaus and ties likely, which is where a solver goes wrong.
stairs = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=12, max_size=12).map(
    lambda rises: Stairs(tuple(itertools.accumulate(rises, initial=0.25))[:12])
)
any_table: st.SearchStrategy[TimeModel] = st.one_of(measured_tables, linear_tables, stairs)


@settings(deadline=None, max_examples=400)
@given(st.lists(any_table, min_size=1, max_size=3), st.integers(0, 12), st.integers(0, 3))
def test_the_solver_finds_the_optimum(tables: list[TimeModel], global_batch: int, minimum: int) -> None:
    if minimum * len(tables) > global_batch:
        with pytest.raises(PlanError):
            solve_shares(tables, global_batch, minimum)
        return
    shares = solve_shares(tables, global_batch, minimum)
    assert sum(shares) == global_batch
    assert min(shares) >= minimum
    assert step_seconds(tables, shares) == pytest.approx(brute_force(tables, global_batch, minimum), rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(measured_tables, linear_tables), min_size=1, max_size=20), st.integers(1, 3000))
def test_no_single_sample_can_move_to_make_the_step_shorter(tables: list[TimeTable], global_batch: int) -> None:
    shares = solve_shares(tables, global_batch)
    longest = step_seconds(tables, shares)
    assert sum(shares) == global_batch
    times = [table.seconds(share) for table, share in zip(tables, shares, strict=True)]
    at_the_limit = [rank for rank, seconds in enumerate(times) if seconds == longest]
    for table, share in zip(tables, shares, strict=True):
        if len(at_the_limit) == 1 and share != shares[at_the_limit[0]]:
            assert table.seconds(share + 1) >= longest * (1 - 1e-12)


@settings(deadline=None, max_examples=200)
@given(measured_tables, st.integers(1, 200), st.integers(1, 200))
def test_time_never_falls_and_capacity_is_its_inverse(table: TimeTable, few: int, many: int) -> None:
    assert table.seconds(min(few, many)) <= table.seconds(max(few, many)) * (1 + 1e-12)
    needed = table.seconds(few)
    assert table.capacity(needed * (1 + 1e-9)) >= few
    assert table.seconds(table.capacity(needed)) <= needed * (1 + 1e-9)


def test_golden_cluster() -> None:
    tables = [TimeTable.from_speed(speed) for speed in SPEEDS]
    assert solve_shares(tables, 192) == (95, 67, 16, 14)
    assert predicted_samples_per_second(tables, (95, 67, 16, 14)) == pytest.approx(515.8, abs=0.1)
    assert proportional_shares(SPEEDS, 192) == (94, 66, 17, 15)
    assert predicted_samples_per_second(tables, (94, 66, 17, 15)) == pytest.approx(508.2, abs=0.1)
    assert predicted_samples_per_second(tables, (64, 64, 32, 32)) == pytest.approx(240.0, abs=0.1)
    # Nothing beats the solver's plan: every neighbouring and every rounded plan is at most as quick.
    assert step_seconds(tables, (95, 67, 16, 14)) == pytest.approx(67 / 180)


def test_ranks_that_cannot_hold_the_batch_are_refused() -> None:
    with pytest.raises(PlanError, match="cannot compute 9 samples"):
        solve_shares([Stairs((0.25,) * 4), Stairs((0.5,) * 4)], 9)


def test_communication_lengthens_the_predicted_step() -> None:
    tables = [TimeTable.from_speed(100.0)]
    assert predicted_samples_per_second(tables, (100,), communication_seconds=1.0) == pytest.approx(50.0)
    assert predicted_samples_per_second(tables, (0,)) == 0.0


def test_equal_speeds_share_evenly_and_ties_go_to_the_lower_rank() -> None:
    tables = [TimeTable.from_speed(10.0)] * 3
    assert solve_shares(tables, 256) == (86, 85, 85)
    assert equal_shares(3, 257) == (86, 86, 85)
    assert solve_shares(tables, 0) == (0, 0, 0)


def test_shares_do_not_depend_on_anything_but_the_values() -> None:
    chance = random.Random(3)
    tables = [TimeTable.measured([(m, 0.01 + m / chance.uniform(10, 500)) for m in (8, 16, 32)]) for _ in range(50)]
    again = [TimeTable.measured(list(zip(t.micro_batches, t.piece_seconds, strict=True))) for t in tables]
    assert solve_shares(tables, 4096) == solve_shares(again, 4096)


@pytest.mark.parametrize("kind", ["linear", "table", "plateau"])
@pytest.mark.parametrize("global_batch", [4096, 65536])
def test_a_thousand_ranks_take_milliseconds(kind: str, global_batch: int) -> None:
    chance = random.Random(1)

    def table() -> TimeTable:
        speed = chance.uniform(50, 2000)
        if kind == "linear":
            return TimeTable.from_speed(speed, chance.uniform(0, 0.01))
        if kind == "plateau":
            return TimeTable.measured([(64, 0.01), (128, 0.01), (256, 0.01)])
        return TimeTable.measured([(m, 0.004 + m / speed * chance.uniform(0.9, 1.1)) for m in (8, 32, 64, 128, 256)])

    tables = [table() for _ in range(1024)]
    took = []
    # Processor time of the quickest of several runs: other work on the machine must not fail this.
    for _ in range(5):
        began = time.thread_time()
        shares = solve_shares(tables, global_batch)
        took.append(time.thread_time() - began)
    assert sum(shares) == global_batch
    assert min(took) < 0.010


def test_memory_limits_the_micro_batch_and_not_the_share() -> None:
    table = TimeTable.measured([(8, 0.1), (16, 0.15), (32, 0.4)], max_micro_batch=16)
    assert table.micro_batch(1000) == 16
    assert table.seconds(1000) == pytest.approx(62 * 0.15 + 0.1)
    assert table.capacity(62 * 0.15 + 0.1 + 1e-9) == 1000
    between = TimeTable.measured([(8, 0.1), (16, 0.2)], max_micro_batch=12)
    assert between.micro_batches == (8, 12)
    assert between.seconds(12) == pytest.approx(0.15)


def test_the_micro_batch_with_the_best_speed_is_used() -> None:
    """On CPUs a micro-batch beyond the caches is slower for each sample."""
    table = TimeTable.measured([(32, 0.025), (64, 0.052), (1024, 1.446)])
    assert table.micro_batch(1024) == 32
    assert table.seconds(1024) == pytest.approx(32 * 0.025)
    assert table.samples_per_second == pytest.approx(1280)
    gpu = TimeTable.measured([(32, 0.010), (64, 0.010), (128, 0.012)])
    assert gpu.micro_batch(128) == 128
    assert gpu.micro_batch(70) == 70
    assert gpu.micro_batch(0) == 1


def test_noise_in_measurements_is_smoothed_to_a_monotone_table() -> None:
    table = TimeTable.measured([(16, 0.30), (8, 0.40), (32, 0.70), (32, 0.90)])
    assert table.micro_batches == (8, 16, 32)
    assert table.piece_seconds == pytest.approx((0.35, 0.35, 0.80))


def test_a_scaled_table_keeps_its_shape() -> None:
    table = TimeTable.measured([(8, 0.1), (16, 0.15)], overhead=0.05)
    slow = table.scaled(2.0)
    assert slow.seconds(20) == pytest.approx(2 * table.seconds(20))
    assert slow.samples_per_second == pytest.approx(table.samples_per_second / 2)
    assert slow.scaled(1.0) == table
    assert table.seconds(0) == 0.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TimeTable.measured([]), "at least one"),
        (lambda: TimeTable.measured([(0, 1.0)]), "0 samples"),
        (lambda: TimeTable.measured([(4, math.nan)]), "nan s"),
        (lambda: TimeTable.measured([(4, 1.0)], max_micro_batch=0), "at least 1 sample"),
        (lambda: TimeTable.measured([(4, 1.0)], overhead=-1), "overhead"),
        (lambda: TimeTable.from_speed(0), "positive"),
        (lambda: TimeTable.from_speed(1, math.inf), "overhead"),
        (lambda: TimeTable.from_speed(1, max_micro_batch=0), "at least 1 sample"),
        (lambda: TimeTable.from_speed(1).scaled(0), "multiplied by 0"),
        (lambda: solve_shares([], 4), "at least one rank"),
        (lambda: solve_shares([TimeTable.from_speed(1)], -4), "negative"),
        (lambda: solve_shares([TimeTable.from_speed(1)] * 3, 4, minimum=2), "3 ranks cannot have 2 samples each"),
        (lambda: proportional_shares((1.0, -1.0), 4), "rank 1"),
    ],
)
def test_bad_numbers_are_refused_with_the_reason(make: object, told: str) -> None:
    assert callable(make)
    with pytest.raises(PlanError, match=told):
        make()


def test_a_rank_that_would_slow_the_others_is_left_out() -> None:
    """2 M parameters over 100 Mbit/s: 684 ms of communication for two ranks and 907 ms for three."""
    communication = {1: 0.0, 2: 0.684, 3: 0.907}.__getitem__
    tables = [TimeTable.from_speed(speed) for speed in (500.0, 400.0, 30.0)]
    chosen = choose_participants(tables, 4096, communication)
    assert chosen.shares[2] == 0
    assert sum(chosen.shares) == 4096
    assert chosen.reasons[:2] == ("", "")
    assert "with this rank" in chosen.reasons[2]
    assert chosen.step_seconds == pytest.approx(4096 / 900 + 0.684, rel=0.01)
    # The marginal rule s > S * dC / (B / S - dC) puts the border at about 46 samples/s for this batch.
    border = 900 * 0.223 / (4096 / 900 - 0.223)
    assert choose_participants([*tables[:2], TimeTable.from_speed(border * 1.05)], 4096, communication).shares[2] > 0
    assert choose_participants([*tables[:2], TimeTable.from_speed(border * 0.95)], 4096, communication).shares[2] == 0


def test_one_fast_rank_beats_a_slow_link() -> None:
    tables = [TimeTable.from_speed(1000.0), TimeTable.from_speed(100.0)]
    chosen = choose_participants(tables, 256, lambda ranks: 0.0 if ranks == 1 else 0.7)
    assert chosen.shares == (256, 0)
    free = choose_participants(tables, 256, lambda _: 0.0)
    assert min(free.shares) > 0
    assert free.reasons == ("", "")


def test_a_rank_whose_first_sample_takes_longer_than_the_step_says_so() -> None:
    tables = [TimeTable.from_speed(1000.0), TimeTable.from_speed(1000.0, overhead=2.0)]
    chosen = choose_participants(tables, 256, lambda _: 0.0)
    assert chosen.shares == (256, 0)
    assert "one sample takes 2 s" in chosen.reasons[1]


def test_participants_among_many_match_the_exhaustive_choice() -> None:
    chance = random.Random(5)
    tables = [TimeTable.from_speed(chance.uniform(20, 1000)) for _ in range(24)]
    chosen = choose_participants(tables, 2048, lambda ranks: 0.02 * ranks)
    order = sorted(range(24), key=lambda rank: -tables[rank].samples_per_second)
    best = min(
        step_seconds([tables[r] for r in order[:n]], solve_shares([tables[r] for r in order[:n]], 2048)) + 0.02 * n
        for n in range(1, 25)
    )
    assert chosen.step_seconds == pytest.approx(best, rel=1e-9)


def test_efficiency_splits_into_its_factors() -> None:
    compute = [(1.0, 0.8), (0.8, 1.0), (1.0, 0.9)]
    durations = [1.1, 1.1, 1.2]
    found = efficiency(compute, durations, global_batch=180, solo_speeds=(100.0, 100.0))
    assert found.total == pytest.approx(180 / (3.4 / 3) / 200)
    assert found.balance == pytest.approx(0.9 / (2.8 / 3))
    assert found.jitter == pytest.approx((2.8 / 3) / 1.0)
    assert found.communication == pytest.approx(1.0 / (3.4 / 3))


@pytest.mark.parametrize(
    ("compute", "durations", "speeds"),
    [
        ([], [], (1.0,)),
        ([(1.0,)], [], (1.0,)),
        ([(1.0,)], [1.0], (0.0,)),
        ([(1.0, 1.0)], [1.0], (1.0,)),
        ([(0.0,)], [1.0], (1.0,)),
    ],
)
def test_efficiency_refuses_what_cannot_be_divided(
    compute: list[tuple[float, ...]], durations: list[float], speeds: tuple[float, ...]
) -> None:
    with pytest.raises(PlanError):
        efficiency(compute, durations, 10, speeds)

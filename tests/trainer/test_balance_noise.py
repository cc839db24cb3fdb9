"""What ``dynamic`` does under the noise of real machines: seeded simulation, so every run is the same."""

from __future__ import annotations

from statistics import mean, median

import pytest

from benchmarks.trainer_simulation import NOISES, Noise, settle_steps, simulate, steady, table_row
from trainer.drift import SpeedEstimate

BY_NAME = {noise.name: noise for noise in NOISES}


@pytest.mark.parametrize("name", ["2 %", "5 %", "5 % + spikes", "quota 10 ms", "pauses"])
def test_a_changed_speed_gets_the_right_shares_within_five_steps(name: str) -> None:
    settled = list(settle_steps(BY_NAME[name], seeds=8))
    assert len(settled) >= 20
    assert median(settled) <= 5
    # Not only in the middle: nine of ten changes are followed that quickly.
    assert sorted(settled)[int(0.9 * len(settled))] <= 8


@pytest.mark.parametrize("name", ["2 %", "5 %", "5 % + spikes", "quota 10 ms", "pauses"])
def test_a_steady_cluster_keeps_its_plan_and_its_speed(name: str) -> None:
    row = table_row(BY_NAME[name], seeds=8)
    assert row.changes_per_100_steps <= 0.5
    assert row.efficiency >= 0.985


@pytest.mark.parametrize("name", ["sawtooth 20", "sawtooth 40", "15 % + spikes"])
def test_swings_and_strong_noise_do_not_make_the_plan_flap(name: str) -> None:
    changes = [simulate(BY_NAME[name], seed, 700).changes_within(100, 700) / 6 for seed in range(8)]
    assert mean(changes) <= 1.0


def test_equal_shares_are_the_comparison() -> None:
    """Equal shares reach a quarter of the optimum here, so the figures above are not those of an easy cluster."""
    run = simulate(BY_NAME["5 %"], 0, 100, policy="equal")
    assert mean(run.expected) > 4
    assert run.changes == []


def test_a_calibration_that_is_half_wrong_is_corrected_at_the_start() -> None:
    for seed in range(5):
        run = simulate(Noise("start", sigma=0.05), seed, 100, steady, error=0.4)
        assert run.settled_after(0, 100) <= 8


def feed(estimate: SpeedEstimate, readings: list[float]) -> int:
    return sum(estimate.update(reading) for reading in readings)


def test_single_spikes_do_not_move_the_estimate() -> None:
    estimate = SpeedEstimate()
    assert feed(estimate, [1.0] * 40) == 0
    assert feed(estimate, [5.0, 1.0, 40.0, 1.0, 1.0, 3.0]) == 0
    assert estimate.slowness == pytest.approx(1.0)


def test_a_real_change_is_found_after_three_far_or_four_near_readings() -> None:
    estimate = SpeedEstimate()
    feed(estimate, [1.0, 1.01, 0.99] * 10)
    assert [estimate.update(2.0) for _ in range(3)] == [False, False, True]
    assert estimate.slowness == pytest.approx(2.0)
    assert estimate.readings == 3
    feed(estimate, [2.0, 2.02, 1.98] * 10)
    assert [estimate.update(2.2) for _ in range(4)] == [False, False, False, True]


def test_swings_make_the_detector_slower_and_calm_forgives_them() -> None:
    estimate = SpeedEstimate()
    feed(estimate, [1.0, 1.01, 0.99] * 10)
    cycle = [2.0] * 6 + [1.0] * 6
    assert feed(estimate, cycle * 10) <= 6
    feed(estimate, [1.0, 1.01, 0.99] * 200)
    assert [estimate.update(2.0) for _ in range(3)] == [False, False, True]


def test_noise_is_read_from_the_window_and_kept_through_a_change() -> None:
    estimate = SpeedEstimate()
    feed(estimate, [0.9, 1.1, 1.0, 0.95, 1.05] * 8)
    before = estimate.noise
    assert 0.04 < before < 0.1
    assert estimate.error == pytest.approx(before / 40**0.5)
    feed(estimate, [3.0] * 4)
    assert estimate.readings < 8
    assert estimate.noise == pytest.approx(before)

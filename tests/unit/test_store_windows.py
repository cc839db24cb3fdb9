from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tui.windows import WINDOW_SECONDS, History, Ring, StepWindow, Totals


@given(st.integers(1, 20), st.lists(st.integers(), max_size=100))
def test_a_ring_keeps_the_newest_under_their_own_numbers(capacity: int, items: list[int]) -> None:
    ring: Ring[int] = Ring(capacity)
    for item in items:
        ring.append(item)
    assert ring.next == len(items)
    assert ring.first == max(0, len(items) - capacity)
    assert [ring[number] for number in range(ring.first, ring.next)] == items[-capacity:]
    with pytest.raises(IndexError):
        ring[ring.next]
    with pytest.raises(IndexError):
        ring[ring.first - 1]


@given(
    st.integers(1, 20), st.integers(1, 20), st.lists(st.integers(), max_size=60), st.lists(st.integers(), max_size=60)
)
def test_a_ring_can_shrink(capacity: int, smaller: int, before: list[int], after: list[int]) -> None:
    ring: Ring[int] = Ring(capacity)
    for item in before:
        ring.append(item)
    ring.shrink(smaller)
    for item in after:
        ring.append(item)
    kept = min(capacity, smaller)
    expected = (before[-capacity:][-kept:] + after)[-kept:]
    assert [ring[number] for number in range(ring.first, ring.next)] == expected
    assert ring.next == len(before) + len(after)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_a_history_is_bounded_and_keeps_mean_and_extremes(values: list[float]) -> None:
    history = History(capacity=16)
    for x, value in enumerate(values):
        history.add(x, value)
    points = history.points()
    assert len(points) <= 17
    assert [point.x for point in points] == sorted({point.x for point in points})
    assert points[-1].x == len(values) - 1
    assert min(point.low for point in points) == min(values)
    assert max(point.high for point in points) == max(values)
    assert all(point.low <= point.mean + 1e-6 and point.mean - 1e-6 <= point.high for point in points)


def test_a_history_ignores_what_is_not_a_number() -> None:
    history = History()
    history.add(0, float("nan"))
    history.add(1, float("inf"))
    assert history.points() == ()


def one(time: float, duration: float = 1.0, share: int = 8) -> Totals:
    return Totals(steps=1, share=share, duration=duration, start=time - duration, end=time)


def test_a_window_forgets_what_is_older() -> None:
    window = StepWindow()
    for second in range(100):
        window.add(float(second), one(float(second)))
    totals = window.totals()
    assert totals.steps == WINDOW_SECONDS
    assert totals.elapsed == pytest.approx(WINDOW_SECONDS)


def test_a_window_counts_pauses_as_elapsed_time() -> None:
    window = StepWindow()
    window.add(1.0, one(1.0))
    window.add(6.0, one(6.0))
    assert window.totals().elapsed == pytest.approx(6.0)
    assert window.totals().duration == pytest.approx(2.0)


def test_a_step_longer_than_the_window_still_has_a_rate() -> None:
    window = StepWindow()
    window.add(0.0, one(0.0, 30.0, 60))
    window.add(30.0, one(30.0, 30.0, 60))
    totals = window.totals()
    assert totals.share / totals.elapsed == pytest.approx(2.0)


def test_a_clock_that_was_set_back_starts_the_window_over() -> None:
    window = StepWindow()
    for second in range(20):
        window.add(1000.0 + second, one(1000.0 + second))
    window.add(500.0, one(500.0))
    assert window.totals().steps == 1

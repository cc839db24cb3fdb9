"""The prediction: known cases by hand, and what must hold for all numbers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.prediction import HostSpeed, Job, Links, Mode, predict
from trainer.plan import PlanError, TimeTable

EXACT = Mode("exact", 2_000_000, 1, "exact")
BF16 = Mode("bf16", 1_000_000, 2, "rounded")
POWERSGD = Mode("powersgd", 60_000, 2, "approximate")
MODES = (EXACT, BF16, POWERSGD)


def job(batch: int = 192, policy: str = "dynamic", communication: str = "exact") -> Job:
    return Job(batch, policy, communication, MODES)


def speed(host: str, *rates: float, simulated: bool = False) -> HostSpeed:
    return HostSpeed(host, tuple(TimeTable.from_speed(rate) for rate in rates), "by hand", simulated)


def links(names: list[str], rate: float, round_trip: float = 0.0, **slow: float) -> Links:
    """All pairs at ``rate`` bytes/s; a host named in ``slow`` at its own rate."""
    pairs = list(itertools.permutations(names, 2))
    rates = {(a, b): min(slow.get(a, rate), slow.get(b, rate)) for a, b in pairs}
    return Links(rates, dict.fromkeys(pairs, round_trip), "by hand")


FOUR = [speed("a", 256.0), speed("b", 180.0), speed("c", 45.0), speed("d", 40.0)]
NAMES = ["a", "b", "c", "d"]


def test_the_known_case_of_four_unlike_hosts() -> None:
    found = predict(job(), FOUR, links(NAMES, 1e15))
    assert found.everyone.shares == (95, 67, 16, 14)
    assert found.everyone.samples_per_second == pytest.approx(516, abs=1)
    equal = predict(job(policy="equal"), FOUR, links(NAMES, 1e15))
    assert equal.everyone.samples_per_second == pytest.approx(4 * 40, abs=1)
    assert equal.best.hosts == ("a", "b")
    assert equal.alone.hosts == ("a",)


def test_the_exchange_is_a_ring_over_the_worst_connection() -> None:
    two = predict(job(), FOUR[:2], links(["a", "b"], 10e6, 0.002))
    # 2 (W - 1) / W * bytes / rate + 2 (W - 1) * half a round trip
    assert two.everyone.communication_seconds == pytest.approx(2e6 / 10e6 + 2 * 0.001)
    four = predict(job(), FOUR, links(NAMES, 10e6, d=1e6))
    assert four.everyone.communication_seconds == pytest.approx(1.5 * 2e6 / 1e6)


def test_a_host_behind_a_slow_connection_is_left_out() -> None:
    found = predict(job(), FOUR, links(NAMES, 100e6, d=1e6))
    assert "d" not in found.best.hosts
    assert dict(found.without)["d"].samples_per_second > found.everyone.samples_per_second


def test_a_slow_network_asks_for_a_gentler_or_smaller_exchange() -> None:
    slow = predict(job(batch=512), FOUR, links(NAMES, 2e6))
    assert slow.best.mode == "powersgd"
    fast = predict(job(batch=512), FOUR, links(NAMES, 1e12))
    assert fast.best.mode == "exact"
    assert [each.mode for each in slow.modes] == ["exact", "bf16", "powersgd"]


def test_auto_is_resolved_as_the_ranks_do() -> None:
    assert predict(job(communication="auto"), FOUR, links(NAMES, 1e12)).everyone.mode == "exact"
    assert predict(job(communication="auto"), FOUR, links(NAMES, 1e5)).everyone.mode == "powersgd"


def test_ranks_of_one_host_need_no_connection() -> None:
    found = predict(job(), [speed("a", 100.0, 100.0)], Links({}))
    assert found.everyone.communication_seconds == 0.0
    assert found.everyone.samples_per_second == pytest.approx(200)
    assert found.without == ()


def test_what_was_not_measured_is_not_counted_and_never_called_better() -> None:
    rates = dict(links(NAMES, 100e6).bytes_per_second)
    del rates["a", "b"]
    found = predict(job(), FOUR, Links(rates))
    assert found.everyone.communication_seconds is None
    assert found.best.communication_seconds is not None


def test_nobody_is_no_cluster() -> None:
    with pytest.raises(PlanError, match="no host"):
        predict(job(), [], Links({}))


HOSTS = st.lists(st.floats(1.0, 5000.0), min_size=1, max_size=6)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[HostSpeed], Links]:
    rates = draw(HOSTS)
    names = [f"h{index}" for index in range(len(rates))]
    pairs = list(itertools.permutations(names, 2))
    speeds = [
        HostSpeed(name, (TimeTable.from_speed(rate, draw(st.sampled_from([0.0, 0.01, 1.0]))),))
        for name, rate in zip(names, rates, strict=True)
    ]
    bandwidth = {pair: draw(st.floats(1e5, 1e10)) for pair in pairs}
    delay = {pair: draw(st.floats(0.0, 0.05)) for pair in pairs}
    return speeds, Links(bandwidth, delay)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.integers(1, 300), st.sampled_from(["dynamic", "static"]))
def test_a_host_without_a_share_is_never_missed(
    cluster: tuple[list[HostSpeed], Links], batch: int, policy: str
) -> None:
    found = predict(job(batch, policy), *cluster)
    shares = dict(zip(found.everyone.hosts, found.everyone.shares, strict=True))
    for left, others in found.without:
        if shares[left] == 0:
            assert others.samples_per_second >= found.everyone.samples_per_second * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.integers(1, 300), st.sampled_from(["dynamic", "proportional", "equal"]))
def test_the_best_part_is_no_worse_than_anything_else_that_is_shown(
    cluster: tuple[list[HostSpeed], Links], batch: int, policy: str
) -> None:
    found = predict(job(batch, policy), *cluster)
    shown = [found.everyone, found.alone, *(each for _, each in found.without), *found.modes]
    for outcome in shown:
        assert sum(outcome.shares) == batch
        assert outcome.samples_per_second > 0
        assert found.best.samples_per_second >= 0.94 * outcome.samples_per_second


@settings(max_examples=40, deadline=None)
@given(clusters(), st.floats(1.0, 4.0))
def test_a_quicker_network_never_predicts_less(cluster: tuple[list[HostSpeed], Links], factor: float) -> None:
    speeds, before = cluster
    after = Links({pair: rate * factor for pair, rate in before.bytes_per_second.items()}, before.round_trip)
    slow, fast = (predict(job(), speeds, each) for each in (before, after))
    assert fast.everyone.samples_per_second >= slow.everyone.samples_per_second * (1 - 1e-9)


def test_many_hosts_are_searched_in_reasonable_time_and_well() -> None:
    names = [f"n{index:02}" for index in range(24)]
    speeds = [speed(name, 100.0 + index) for index, name in enumerate(names)]
    found = predict(job(2048), speeds, links(names, 1e9, n03=1e5, n17=1e5))
    assert set(names) - set(found.best.hosts) == {"n03", "n17"}

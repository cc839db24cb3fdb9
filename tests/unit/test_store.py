from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tui.store import MAX_RANKS, Store
from hetero_tui.views import RankState, RunState
from trainer.events import (
    Calibrated,
    Checkpoint,
    Done,
    Event,
    Failed,
    Hardware,
    Hello,
    Joined,
    Membership,
    Notice,
    Output,
    Shares,
    Step,
)

START = 1_760_000_000.0


@dataclass
class Clock:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return START + self.seconds - 100.0


class Feeder:
    """Numbers events as ranks do."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store(clock=self.clock, wall_clock=self.clock.wall)
        self.seqs: dict[int, int] = {}
        self.now = START

    def seq(self, rank: int) -> int:
        self.seqs[rank] = self.seqs.get(rank, -1) + 1
        return self.seqs[rank]

    def send(self, event: Event) -> Event:
        self.store.feed(f"host{event.rank}", event)
        return event

    def __call__(self, event_type: type[Event], rank: int = 0, **values: Any) -> Event:
        return self.send(event_type(rank=rank, seq=self.seq(rank), time=self.now, **values))

    def hello(self, rank: int) -> None:
        self.send(Hello(rank=rank, seq=self.seq(rank), time=self.now, host=f"host{rank}", process_id=10 + rank))

    def step(self, number: int, shares: list[int], compute: list[float], rest: float = 0.1) -> None:
        """One optimizer step of all ranks."""
        duration = max(compute) + rest
        self.now += duration
        self.clock.seconds += duration
        for rank, (share, mine) in enumerate(zip(shares, compute, strict=True)):
            self(
                Step, rank, step=number, steps_total=100, share=share, global_batch=sum(shares),
                loss=2.0 - number / 100, compute=mine, wait=max(compute) - mine, communication=rest, duration=duration,
            )  # fmt: skip


@pytest.fixture
def feed() -> Feeder:
    return Feeder()


def test_states_follow_the_life_of_a_rank(feed: Feeder) -> None:
    def state() -> str:
        return feed.store.rank_view(0).state_text

    feed.store.expect("host0", {0: "cuda:0"})
    assert state() == "starting"
    feed.store.note_launch("host0", "importing")
    assert state() == "importing"
    feed.hello(0)
    assert state() == "waiting for go"
    feed.store.note_launch("host0", "go")
    assert state() == "calibrating"
    feed(Calibrated, samples_per_second=50.0)
    assert state() == "joining"
    feed(Joined, world_size=1)
    assert state() == "ready"
    feed.step(0, [8], [0.5])
    assert state() == "training"
    feed(Notice, text="paused")
    assert state() == "paused"
    feed(Notice, text="resumed")
    assert state() == "training"
    feed(Notice, text="in other words", code="paused")
    assert state() == "paused"
    feed(Notice, text="and on", code="resumed")
    assert state() == "training"
    feed(Done, state="finished", steps=1)
    assert state() == "finished"


def test_a_silent_rank_says_for_how_long(feed: Feeder) -> None:
    feed.hello(0)
    feed.step(0, [8], [0.5])
    feed.clock.seconds += 14
    view = feed.store.rank_view(0)
    assert view.state is RankState.NO_DATA
    assert view.state_text == "no data 14 s"
    assert feed.store.cluster_view().state is RunState.STALLED


def test_a_rank_that_speaks_but_does_not_step_is_stalled(feed: Feeder) -> None:
    feed.hello(0)
    feed.step(0, [8], [0.5])
    feed.clock.seconds += 20
    feed(Hardware, memory_used=1)
    assert feed.store.rank_view(0).state is RankState.STALLED


def test_a_long_step_is_not_silence(feed: Feeder) -> None:
    feed.hello(0)
    feed.step(0, [8], [6.0])
    feed.clock.seconds += 14
    assert feed.store.rank_view(0).state is RankState.TRAINING


def test_rates_are_over_ten_seconds_of_the_ranks_own_clock(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    for number in range(50):
        feed.step(number, [30, 10], [0.9, 0.5])
    fast, slow = feed.store.rank_views()
    assert fast.samples_per_second == pytest.approx(30.0, rel=0.01)
    assert slow.samples_per_second == pytest.approx(10.0, rel=0.01)
    assert fast.speed == pytest.approx(30 / 0.9)
    assert slow.speed == pytest.approx(20.0)
    assert slow.parts.compute == pytest.approx(0.5)
    assert slow.parts.wait == pytest.approx(0.4)
    assert slow.parts.communication == pytest.approx(0.1)
    for number in range(50, 70):
        feed.step(number, [30, 10], [0.4, 0.2])
    assert feed.store.rank_view(0).samples_per_second == pytest.approx(60.0, rel=0.02)


def test_a_waiting_rank_is_called_waiting(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    feed.step(0, [8, 8], [0.1, 1.0])
    assert feed.store.rank_view(0).state is RankState.WAITING
    assert feed.store.rank_view(1).state is RankState.TRAINING


def test_efficiency_is_throughput_over_what_ranks_do_while_computing(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    for number in range(20):
        feed.step(number, [32, 32], [0.25, 0.5], rest=0.0)
    view = feed.store.cluster_view()
    assert view.efficiency is not None
    # 128 + 64 samples/s alone; together 64 samples every 0.5 s.
    assert view.efficiency.ideal_samples_per_second == pytest.approx(192.0)
    assert view.efficiency.total == pytest.approx(128 / 192, rel=0.01)
    product = view.efficiency.balance * view.efficiency.jitter * view.efficiency.communication
    assert product == pytest.approx(view.efficiency.total, rel=0.01)
    assert view.efficiency.balance == pytest.approx(2 / 3, rel=0.01)
    assert view.efficiency.communication == pytest.approx(1.0, rel=0.01)


def test_cluster_figures(feed: Feeder) -> None:
    feed.hello(0)
    for number in range(10):
        feed.step(number, [50], [0.9])
    view = feed.store.cluster_view()
    assert (view.step, view.steps_total, view.global_batch) == (10, 100, 50)
    assert view.samples_per_second == pytest.approx(50.0, rel=0.01)
    assert view.eta == pytest.approx(90.0, rel=0.02)
    assert view.elapsed == pytest.approx(10.0, rel=0.01)
    assert view.loss == pytest.approx(1.91)
    assert [point.x for point in feed.store.loss_history] == list(range(10))


def test_the_first_rank_to_tell_of_a_step_tells_it_for_all(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    feed.step(0, [4, 4], [0.5, 0.5])
    assert len(feed.store.loss_history) == 1


def test_going_back_to_a_checkpoint_replaces_what_came_after(feed: Feeder) -> None:
    feed.hello(0)
    for number in range(10):
        feed.step(number, [8], [0.5])
    feed(Checkpoint, action="restored", step=4)
    feed.step(5, [8], [0.5])
    assert [point.x for point in feed.store.loss_history] == [0, 1, 2, 3, 4, 5]
    assert feed.store.cluster_view().step == 6


def test_gaps_are_counted_and_repetitions_ignored(feed: Feeder) -> None:
    feed.hello(0)
    first = Step(rank=0, seq=1, time=START + 1, step=0, share=8, global_batch=8, duration=1.0, compute=1.0)
    feed.store.feed("host0", first)
    feed.store.feed("host0", first)
    assert feed.store.duplicate_lines == 1
    feed.store.feed("host0", Step(rank=0, seq=5, time=START + 2, step=1, share=8, global_batch=8, duration=1.0))
    assert feed.store.lost_lines == 3
    assert feed.store.rank_view(0).lost_lines == 3


def test_a_replayed_stream_changes_nothing(feed: Feeder) -> None:
    events = [feed(Hello, host="host0", process_id=1)]
    for number in range(5):
        feed.now += 1
        events.append(feed(Step, step=number, share=8, global_batch=8, duration=1.0, compute=0.5, steps_total=9))
    before = feed.store.rank_view(0), len(feed.store.events)
    for event in events:
        feed.store.feed("host0", event)
    assert (feed.store.rank_view(0), len(feed.store.events)) == before
    assert feed.store.duplicate_lines == len(events)
    assert feed.store.lost_lines == 0


def test_a_new_process_starts_its_numbers_over(feed: Feeder) -> None:
    feed.hello(0)
    feed.step(0, [8], [0.5])
    feed.store.feed("host0", Hello(rank=0, seq=0, time=feed.now + 30, host="host0", process_id=99))
    assert feed.store.rank_view(0).state is RankState.WAITING_FOR_GO
    assert feed.store.duplicate_lines == 0
    feed.store.feed("host0", Step(rank=0, seq=1, time=feed.now + 31, step=1, share=8, global_batch=8, duration=1.0))
    assert feed.store.rank_view(0).state is RankState.TRAINING


def test_agents_of_two_hosts_have_numbers_of_their_own(feed: Feeder) -> None:
    for host in ("a", "b"):
        for seq in range(3):
            feed.store.feed(host, Output(rank=-1, seq=seq, time=START, text=f"{host}{seq}", source_rank=-1))
    assert (feed.store.duplicate_lines, feed.store.lost_lines) == (0, 0)
    assert len(feed.store.log) == 6


def test_output_goes_to_the_log_of_the_rank_it_came_from(feed: Feeder) -> None:
    feed.hello(3)
    feed.store.feed("host3", Output(rank=-1, seq=0, time=START, text="hi \x1b[31mthere", source_rank=3))
    assert [record.text for record in feed.store.rank_log(3).tail(5)][-1] == "hi there"


def test_the_likely_cause_of_a_failure_comes_first(feed: Feeder) -> None:
    for rank in range(3):
        feed.hello(rank)
    feed.now += 1
    feed(Failed, 0, error="RuntimeError: Connection reset by peer")
    feed(Failed, 2, error="RuntimeError: Connection closed by peer")
    feed.now += 0.2
    feed(Failed, 1, error="torch.OutOfMemoryError: CUDA out of memory", traceback="line 1\nline 2", exit_code=1)
    assert [failure.rank for failure in feed.store.failures] == [1, 0, 2]
    assert not feed.store.failures[0].consequence
    assert feed.store.cluster_view().state is RunState.FAILED
    assert feed.store.rank_view(1).error == "torch.OutOfMemoryError: CUDA out of memory"


def test_the_agent_speaks_for_a_rank_that_died_without_a_word(feed: Feeder) -> None:
    feed.hello(2)
    feed.store.feed("host2", Failed(rank=-1, seq=0, time=START + 5, error="rank 2 on host2 was ended by SIGKILL"))
    assert feed.store.rank_view(2).state is RankState.FAILED
    assert feed.store.failures[0].rank == 2


def test_survivors_finish_with_a_lost_rank(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    feed.step(0, [4, 4], [0.5, 0.5])
    feed(Membership, 0, generation=1, members=(0,), left=(1,), reason="rank 1 is gone")
    assert feed.store.rank_view(1).state is RankState.FAILED
    feed(Done, 0, state="finished")
    view = feed.store.cluster_view()
    assert view.state is RunState.FINISHED
    assert view.state_text == "finished, 1 rank failed"


@pytest.mark.parametrize("others_first", [True, False])
def test_a_rank_whose_host_was_told_to_end_has_left_and_is_no_failure(feed: Feeder, others_first: bool) -> None:
    for rank in range(3):
        feed.hello(rank)
    feed.step(0, [4, 4, 4], [0.5, 0.5, 0.5])
    for own in (False, True) if others_first else (True, False):
        if own:
            feed(Done, 1, state="left", steps=1)
        else:
            feed(Membership, 0, generation=1, members=(0, 2), left=(1,), reason="rank 1 left: host1 was told to end")
    view = feed.store.rank_view(1)
    assert (view.state, view.error) == (RankState.LEFT, "left: terminated from outside")
    assert feed.store.cluster_view().ranks_failed == 0
    assert feed.store.cluster_view().state_text.endswith(", 1 rank has left")
    assert any("the others go on" in record.text and record.level == "warning" for record in feed.store.events.tail(20))
    for rank in (0, 2):
        feed(Done, rank, state="finished")
    assert feed.store.cluster_view().state is RunState.FINISHED

    feed.hello(1)
    assert (feed.store.rank_view(1).state, feed.store.rank_view(1).error) == (RankState.WAITING_FOR_GO, "")


def test_a_rank_without_a_share_is_a_spare(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    feed.step(0, [4, 0], [0.5, 0.0])
    assert feed.store.rank_view(1).state is not RankState.SPARE  # one short batch is not a plan
    feed(Shares, step=1, shares=(8, 0))
    feed.step(1, [8, 0], [0.5, 0.0])
    assert feed.store.rank_view(1).state is RankState.SPARE
    feed(Shares, step=2, shares=(8, 0), excluded=(1,), reason="host1 excluded by anna")
    assert feed.store.rank_view(1).state is RankState.EXCLUDED
    assert feed.store.shares_history[-1].excluded == (1,)
    feed(Shares, step=3, shares=(4, 4), reason="host1 admitted again")
    assert feed.store.rank_view(1).state is RankState.WAITING


def test_shares_are_kept_with_their_reason(feed: Feeder) -> None:
    feed.hello(0)
    feed.hello(1)
    feed(Shares, step=40, shares=(94, 66), policy="dynamic", reason="rank 1 \x1b[31mslowed", speeds=(2.0, 1.0))
    (record,) = feed.store.shares_history
    assert (record.step, record.shares, record.reason) == (40, (94, 66), "rank 1 slowed")
    assert feed.store.rank_view(0).share == 94
    assert feed.store.cluster_view().policy == "dynamic"


def test_impossible_ranks_are_counted_not_kept(feed: Feeder) -> None:
    for rank in (MAX_RANKS, 10**12, -2):
        feed.store.feed("host0", Step(rank=rank, step=1))
    assert feed.store.ranks == ()
    assert feed.store.cluster_view().broken_events == 3


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, 1e300])
def test_an_impossible_clock_does_not_break_the_windows(feed: Feeder, time: float) -> None:
    feed.hello(0)
    feed.store.feed("host0", Step(rank=0, seq=1, time=time, step=0, share=8, global_batch=8, duration=1.0, compute=1.0))
    assert math.isfinite(feed.store.rank_view(0).samples_per_second)
    assert math.isfinite(feed.store.cluster_view().samples_per_second)


@given(
    st.lists(
        st.builds(
            Step,
            rank=st.integers(0, 5),
            seq=st.integers(0, 30),
            time=st.floats(allow_nan=True),
            step=st.integers(-5, 100),
            share=st.integers(-10, 10**9),
            global_batch=st.integers(-10, 10**9),
            loss=st.floats(),
            compute=st.floats(),
            wait=st.floats(),
            communication=st.floats(),
            duration=st.floats(),
        ),
        max_size=60,
    )
)
def test_any_numbers_can_be_drawn(events: list[Step]) -> None:
    feed = Feeder()
    for event in events:
        feed.store.feed("host0", event)
    feed.store.cluster_view()
    for view in feed.store.rank_views():
        assert view.samples_per_second >= 0
        assert 0 <= view.parts.compute <= 1
        assert view.parts.other >= 0


def test_nothing_grows_without_bound_with_1024_ranks(feed: Feeder) -> None:
    for rank in range(1024):
        feed.hello(rank)
    for seq in range(300):
        for rank in range(0, 1024, 8):
            feed.store.feed(f"agent{rank}", Output(rank=-1, seq=seq, time=START, text="x", source_rank=rank))
    assert len(feed.store.rank_views()) == 1024
    assert len(feed.store.rank_log(8)) <= 256
    assert len(feed.store.log) <= 50_000
    assert len(feed.store.events) <= 2_000


def test_the_log_counts_what_it_dropped() -> None:
    store = Store(log_lines=10)
    for number in range(25):
        store.feed_line("host0", str(number))
    assert (len(store.log), store.log.first, store.log.next) == (10, 15, 25)
    assert [record.text for record in store.log.tail(3)] == ["22", "23", "24"]


def test_version_moves_with_everything_that_comes_in(feed: Feeder) -> None:
    seen = {feed.store.version}
    feed.hello(0)
    seen.add(feed.store.version)
    feed.store.feed_line("host0", "text")
    seen.add(feed.store.version)
    feed.store.mark()
    seen.add(feed.store.version)
    assert len(seen) == 4

"""Ranks are lost and come back: nothing is lost or done twice, and it does not take long."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.trainer.cluster import Cluster, cluster
from trainer.events import Checkpoint, Done, Failed, Hello, Joined, Membership, Notice, Shares, Step

pytestmark = pytest.mark.slow

OPTIONS = (
    "--samples", "3000", "--global-batch", "60", "--epochs", "2", "--optimizer", "sgd", "--learning-rate", "0.0001",
    "--micro-batch", "20", "--check-every", "1", "--heartbeat-timeout", "10",
)  # fmt: skip
SPEEDS = (400.0, 300.0, 200.0)
SLOW = 20.0
"""Samples/s at which 100 steps take longer than a process needs to start again, however busy the machine is."""
ROUNDING = 5e-5
"""Shares change the order of float32 sums. At this learning rate training does not amplify that: another micro-batch
alone changes no loss by more than 3e-6 of itself. One sample lost or done twice changes all later losses by 2e-4, a
momentum that was not healed by 6e-3."""


def losses(run: Cluster) -> dict[int, float]:
    """Return the loss of each step; all ranks that did it must agree."""
    found: dict[int, set[float]] = {}
    for event in run.of(Step):
        found.setdefault(event.step, set()).add(event.loss)
    assert all(len(each) == 1 for each in found.values())
    return {step: each.pop() for step, each in found.items()}


def assert_once_each(run: Cluster, steps: int) -> None:
    """Every step was completed once by every rank that reports it, with the whole global batch."""
    assert sorted(losses(run)) == list(range(steps))
    for rank in range(3):
        mine = [event.step for event in run.of(Step, rank)]
        assert len(mine) == len(set(mine)), "a step was counted twice"
    assert not [event for event in run.of(Notice) if "drifted" in event.text]


def shares_sum(run: Cluster, step: int) -> int:
    return sum(event.share for event in run.of(Step) if event.step == step)


def assert_same_curve(found: dict[int, float], expected: dict[int, float]) -> None:
    assert found == pytest.approx(expected, rel=ROUNDING)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The loss of each step of a run in which nothing happens; the same for all that compare with it."""
    with cluster(tmp_path_factory.mktemp("alone")) as run:
        run.start([1], OPTIONS)
        assert run.wait(timeout=600) == [0]
        return losses(run)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_costs_little_comes_back_and_leaves_no_trace_in_the_losses(
    tmp_path: Path, expected: dict[int, float], victim: int
) -> None:
    with cluster(tmp_path / "together") as run:
        run.start([1, 1, 1], OPTIONS, speeds=SPEEDS)
        witness = 1
        run.wait_for(lambda: len(run.of(Step, witness)) >= 5)
        run.kill(victim)
        run.wait_for(lambda: bool(run.of(Membership)))
        first = run.of(Membership)[0]
        assert first.left == (victim,)
        assert first.members == tuple(rank for rank in range(3) if rank != victim)
        assert f"rank {victim} was lost" in first.reason
        for rank in first.members:
            run.send("simulate", hosts=[rank], samples_per_second=SLOW)
        run.wait_for(lambda: any(event.joined == (victim,) for event in run.of(Membership)))
        for rank in first.members:
            run.send("simulate", hosts=[rank], samples_per_second=SPEEDS[rank])
        assert len(run.of(Hello, victim)) == 2
        assert run.wait() == [0, 0, 0]
        assert not run.of(Failed)
        assert_once_each(run, 100)
        # The victim may have died after a reduction and before telling of it.
        assert sum(shares_sum(run, step) != 60 for step in losses(run)) <= 1
        assert_same_curve(losses(run), expected)
        assert {event.samples for event in run.of(Done)} == {6000}
        events = [event for host in run.hosts for event in host.events if event.rank == victim]
        assert [event.seq for event in events] == list(range(len(events))), "a restart must not break the numbering"


def test_a_stopped_rank_is_left_behind_and_catches_up(tmp_path: Path, expected: dict[int, float]) -> None:
    with cluster(tmp_path / "together") as run:
        run.start([1, 1, 1], [*OPTIONS, "--heartbeat-timeout", "3"], speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 0)) >= 5)
        run.kill(1, signal.SIGSTOP)
        run.wait_for(lambda: bool(run.of(Membership)))
        first = run.of(Membership)[0]
        assert first.members == (0, 2)
        assert "no sign of life" in first.reason
        behind = run.of(Step, 0)[-1].step
        run.wait_for(lambda: run.of(Step, 0)[-1].step >= behind + 3)
        for rank in first.members:
            run.send("simulate", hosts=[rank], samples_per_second=SLOW)
        run.kill(1, signal.SIGCONT)
        run.wait_for(lambda: any(event.joined == (1,) for event in run.of(Membership)))
        for rank in first.members:
            run.send("simulate", hosts=[rank], samples_per_second=SPEEDS[rank])
        assert run.wait() == [0, 0, 0]
        assert len(run.of(Hello, 1)) == 1, "it must catch up in the same process"
        assert len(run.of(Joined, 1)) == 2
        assert_once_each(run, 100)
        assert_same_curve(losses(run), expected)


def test_without_elastic_a_silent_rank_is_named_and_a_lost_one_ends_all(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1, 1], [*OPTIONS, "--no-elastic"], speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 0)) >= 3)
        run.kill(2, signal.SIGSTOP)
        run.wait_for(lambda: any("rank 2: no sign of life for " in event.text for event in run.of(Notice, -1)))
        run.kill(2, signal.SIGCONT)
        run.wait_for(lambda: any("rank 2 gives signs of life again" in event.text for event in run.of(Notice, -1)))
        behind = run.newest_step(0)
        run.wait_for_step(behind + 1, rank=0)
        run.kill(1)
        assert run.wait(timeout=60) == [1, 137, 1]
        for rank in (0, 2):
            assert "rank 1 was lost" in run.of(Failed, rank)[-1].error
        assert "SIGKILL" in run.of(Failed, -1)[0].error
        assert not run.of(Membership)


def test_two_ranks_die_at_once_and_the_restart_limit_holds(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1, 1], [*OPTIONS, "--max-restarts", "0"], speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 1)) >= 3)
        run.kill(0)
        run.kill(2)
        assert run.wait() == [137, 0, 137]
        assert run.of(Membership)[-1].members == (1,)
        assert_once_each(run, 100)
        assert run.of(Shares)[-1].shares == (0, 60, 0)
        assert [event.step for event in run.of(Checkpoint, 1)] == [100]
        assert {event.samples for event in run.of(Done)} == {6000}


def test_a_rank_lost_while_all_are_paused(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1, 1], [*OPTIONS, "--max-restarts", "0"], speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 1)) >= 3)
        run.send("pause")
        run.wait_for(lambda: any(event.text == "paused" for event in run.of(Notice)))
        run.kill(2)
        run.wait_for(lambda: bool(run.of(Membership)))
        paused_at = run.of(Step, 0)[-1].step
        run.send("resume")
        run.wait_for(lambda: run.of(Step, 0)[-1].step > paused_at + 3)
        run.send("stop")
        assert run.wait() == [0, 0, 137]
        assert {event.state for event in run.of(Done)} == {"stopped"}


def test_an_excluded_host_computes_nothing_whatever_happens_and_leaves_no_trace_in_the_losses(
    tmp_path: Path, expected: dict[int, float]
) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1, 1], [*OPTIONS, "--checkpoint-every", "1"], speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 1)) >= 3)
        for rank in (0, 2):
            run.send("simulate", hosts=[rank], samples_per_second=SLOW)
        run.send("exclude", hosts=[2], host="host1", by="anna")
        run.wait_for(lambda: run.of(Shares)[-1].reason == "host1 excluded by anna")
        plan = run.of(Shares)[-1]
        assert (plan.excluded, plan.shares[1], sum(plan.shares)) == ((1,), 0, 60)
        run.wait_for(lambda: run.of(Step, 1)[-1].step > plan.step)
        assert {step.share for step in run.of(Step, 1) if step.step >= plan.step} == {0}
        assert 0 not in {step.share for step in run.of(Step, 1) if step.step < plan.step}

        run.send("policy", policy="equal")
        run.wait_for(lambda: run.of(Shares)[-1].shares == (30, 0, 30))
        run.send("policy", policy="dynamic")
        run.send("exclude", host="host0")
        run.send("exclude", host="host2")
        refused = ("exclude-refused", "host2")
        run.wait_for(lambda: any((event.code, event.about) == refused for event in run.of(Notice)))
        run.send("admit", host="host0", by="bert")
        run.wait_for(lambda: run.of(Shares)[-1].reason == "host0 admitted again by bert")

        run.kill(1)
        run.wait_for(lambda: any(event.joined == (1,) for event in run.of(Membership)))
        run.wait_for(lambda: len(run.of(Hello, 1)) == 2 and run.of(Step, 1)[-1].step > run.of(Shares)[-1].step)
        assert (run.of(Shares)[-1].excluded, run.of(Step, 1)[-1].share) == ((1,), 0)

        run.send("stop")
        assert run.wait() == [0, 0, 0]
        stopped_at = run.of(Done)[0].steps
        assert stopped_at < 100
        assert_once_each(run, stopped_at)
        first = losses(run)
    for message in tmp_path.glob("control*/*.json"):
        message.unlink()
    with cluster(tmp_path) as again:
        again.start([1, 1, 1], [*OPTIONS, "--resume"], speeds=SPEEDS)
        assert again.wait() == [0, 0, 0]
        assert (again.of(Shares)[0].excluded, again.of(Shares)[0].shares.count(0)) == ((), 0)
        assert sorted(losses(again)) == list(range(stopped_at, 100))
        assert_same_curve(first | losses(again), expected)


def test_hosts_that_are_told_to_end_leave_and_the_others_go_on(tmp_path: Path, expected: dict[int, float]) -> None:
    with cluster(tmp_path / "together") as run:
        run.start([1, 1, 1], OPTIONS, speeds=SPEEDS)
        run.wait_for(lambda: len(run.of(Step, 1)) >= 5)
        run.hosts[2].process.send_signal(signal.SIGTERM)
        run.wait_for(lambda: bool(run.of(Membership)))
        assert run.hosts[2].process.wait(timeout=60) == 0
        run.wait_for(lambda: len(run.of(Step, 0)) > len(run.of(Step, 2)) + 3)
        run.pause()
        run.hosts[1].process.send_signal(signal.SIGTERM)
        assert run.hosts[1].process.wait(timeout=60) == 0
        run.wait_for(lambda: len(run.of(Membership)) == 2)
        run.resume()
        assert run.wait() == [0, 0, 0]
        assert [(event.left, event.members) for event in run.of(Membership)] == [((2,), (0, 1)), ((1,), (0,))]
        for number, event in zip((2, 1), run.of(Membership), strict=True):
            assert event.reason == f"rank {number} left: host{number} was told to end from outside (SIGTERM)"
            done = run.of(Done, number)[-1]
            assert (done.state, done.steps) == ("left", run.of(Step, number)[-1].step + 1)
        assert not run.of(Failed)
        assert_once_each(run, 100)
        assert all(shares_sum(run, step) == 60 for step in losses(run)), "no part of a step was lost or done again"
        assert_same_curve(losses(run), expected)
        assert [(event.state, event.samples) for event in run.of(Done, 0)] == [("finished", 6000)]
        assert [event.step for event in run.of(Checkpoint)] == [100]


def test_the_end_of_the_master_ends_a_run_that_trains_elsewhere(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1], [*OPTIONS, "--max-restarts", "0", "--epochs", "50"], speeds=SPEEDS[:2])
        run.wait_for(lambda: len(run.of(Step, 1)) >= 5)
        run.kill(0)
        run.wait_for(lambda: [event.members for event in run.of(Membership)] == [(1,)])
        behind = run.newest_step(1)
        run.wait_for_step(behind + 3, rank=1)
        run.hosts[0].process.send_signal(signal.SIGTERM)
        assert run.wait() == [137, 0]
        (done,) = run.of(Done)
        assert (done.rank, done.state) == (1, "stopped")
        assert [event.step for event in run.of(Checkpoint)] == [done.steps]

"""Whole runs of real agents and ranks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.cluster import REPOSITORY, cluster
from trainer.events import Calibrated, Done, Epoch, Event, Failed, Hello, Joined, Notice, Shares, Step, decode

SMALL = ("--samples", "1000", "--global-batch", "128", "--epochs", "3")


def test_one_machine_alone_needs_no_launcher(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HETERO_")}
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--samples", "512", "--epochs", "1", "--global-batch", "128"],
        env={**plain, "PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    events = [decode(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(events[-1], Done)
    assert events[-1].samples == 512


def test_three_ranks_on_two_hosts(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 2], SMALL)
        assert run.wait() == [0, 0]
        assert not run.of(Failed)
        for rank in range(3):
            events = [event for host in run.hosts for event in host.events if event.rank == rank]
            assert [event.seq for event in events] == list(range(len(events)))
            order = [type(event) for event in events]
            firsts = [order.index(kind) for kind in (Hello, Joined, Calibrated, Step, Done)]
            assert firsts == sorted(firsts)
        steps = [run.of(Step, rank) for rank in range(3)]
        assert [len(each) for each in steps] == [24, 24, 24]
        for together in zip(*steps, strict=True):
            assert len({event.loss for event in together}) == 1, "every rank must tell the same loss"
            assert sum(event.share for event in together) == together[0].global_batch
        assert [event.global_batch for event in steps[0]] == [*[128] * 7, 104] * 3
        assert run.of(Epoch)[-1].samples == 1000
        assert run.of(Epoch)[-1].loss < 0.85 * math.log(10), "synthetic images must be learnable"
        assert {event.samples for event in run.of(Done)} == {3000}
        assert run.of(Calibrated, 1)[0].link_bytes_per_second > 0
        assert sum(run.of(Shares, 0)[0].shares) == 128


def test_nothing_happens_before_the_go(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1], SMALL, go=False)
        run.wait_for(lambda: len(run.of(Hello)) == 2)
        assert not run.of(Joined)
        run.send("stop")
        assert run.wait() == [0, 0]
        assert [event.state for event in run.of(Done)] == ["stopped", "stopped"]
        assert not run.of(Joined)


def test_a_stop_ends_the_wait_for_a_rank_that_never_comes(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1], SMALL, go=False)
        run.wait_for(lambda: len(run.of(Hello)) == 2)
        run.hosts[1].process.kill()
        run.hosts[1].process.wait()
        run.send("go", hosts=[0])
        assert not run.of(Joined)
        run.hosts[0].process.terminate()
        assert run.hosts[0].process.wait(timeout=30) == 0
        run.wait_for(lambda: [event.state for event in run.of(Done, 0)] == ["stopped"])


def test_step_times_add_up_and_the_fast_rank_waits(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        options = ["--samples", "640", "--global-batch", "128", "--epochs", "1", "--policy", "equal"]
        run.start([1, 1], options, speeds=[4000, 40])
        assert run.wait() == [0, 0]
        for event in run.of(Step):
            parts = event.compute + event.data + event.wait + event.communication
            assert parts <= event.duration + 1e-6
        fast, slow = run.of(Step, 0)[1:], run.of(Step, 1)[1:]
        assert sum(event.wait for event in fast) > 0.5 * sum(event.duration for event in fast)
        assert sum(event.wait for event in slow) < 0.05 * sum(event.duration for event in slow)


def test_simulated_speeds_are_labelled_and_balanced(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1, 1], ["--samples", "4000", "--global-batch", "40", "--epochs", "1"], speeds=[60, 30, 10])
        run.wait_for(lambda: len(run.of(Step, 0)) >= 12)
        run.send("stop")
        assert run.wait() == [0, 0, 0]
        assert all(event.simulated for event in run.of(Hello))
        assert any("simulated" in event.text for event in run.of(Notice))
        first = run.of(Shares)[0]
        assert first.shares == pytest.approx((24, 12, 4), abs=1)
        assert first.predicted_samples_per_second == pytest.approx(100, rel=0.1)
        steps = run.of(Step, 0)[2:]
        measured = sum(event.global_batch for event in steps) / sum(event.duration for event in steps)
        assert measured > 0.8 * 100, "three ranks together must come near the sum of their speeds"


def test_a_rank_that_would_slow_the_others_gets_no_share_is_told_why_and_stays_ready(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        options = ["--samples", "30000", "--global-batch", "30", "--check-every", "1", "--heartbeat-timeout", "10"]
        run.start([1, 1, 1], options, speeds=[400, 200, 2])
        run.wait_for(lambda: len(run.of(Step, 2)) >= 10)
        first = run.of(Shares)[0]
        assert first.shares[2] == 0
        assert min(first.shares[:2]) > 0
        assert sum(first.shares) == 30
        told = [event.text for event in run.of(Notice) if "rank 2 gets no share" in event.text]
        assert len(told) == 1
        assert "one sample takes 0.5 s here" in told[0]
        assert {event.share for event in run.of(Step, 2)[:10]} == {0}
        run.send("policy", policy="equal")
        run.wait_for(lambda: run.of(Step, 2)[-1].share == 10)
        run.send("stop")
        assert run.wait() == [0, 0, 0]
        assert run.of(Shares)[-1].shares == (10, 10, 10)
        losses = [[event.loss for event in run.of(Step, rank)] for rank in range(3)]
        assert losses[0] == losses[1] == losses[2]
        assert not [event for event in run.of(Notice) if "drifted" in event.text]


def test_a_wrong_option_gives_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--global-batch", "0"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    event: Event | None = decode(done.stdout.strip())
    assert done.returncode == 2
    assert isinstance(event, Failed)
    assert "--global-batch" in event.error
    assert "Traceback" not in done.stderr

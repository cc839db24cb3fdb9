"""Commands reach hosts at different moments and take effect on all ranks after the same step."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.trainer.cluster import Cluster, cluster
from trainer.control import ControlFolder
from trainer.errors import StartError
from trainer.events import Checkpoint, Done, Failed, Notice, Shares, Step

LONG = ("--samples", "20000", "--global-batch", "48", "--epochs", "5", "--check-every", "5")


def last_steps(run: Cluster) -> list[int]:
    return [run.of(Step, rank)[-1].step for rank in range(2)]


@pytest.mark.slow
def test_pause_checkpoint_policy_resume_simulate_stop(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        run.start([1, 1], LONG, speeds=[600, 300])
        run.wait_for(lambda: len(run.of(Step, 1)) > 5)

        run.send("pause", hosts=[1])
        run.wait_for(lambda: any(event.code == "paused" for event in run.of(Notice)))
        paused_at = next(event.step for event in run.of(Notice) if event.text == "paused")
        run.send("pause", hosts=[0])
        run.send("checkpoint")
        run.wait_for(lambda: len(run.of(Checkpoint)) == 1)
        assert paused_at is not None
        assert last_steps(run) == [paused_at - 1, paused_at - 1]
        assert run.of(Checkpoint)[0].step == paused_at

        run.send("policy", policy="equal")
        run.wait_for(lambda: run.of(Shares)[-1].policy == "equal")
        assert run.of(Shares)[-1].shares == (24, 24)
        run.send("policy", policy="faster")
        run.wait_for(
            lambda: any(event.code == "policy-refused" and "unknown policy" in event.text for event in run.of(Notice))
        )
        assert last_steps(run) == [paused_at - 1, paused_at - 1]

        run.send("resume", hosts=[0])
        run.wait_for(lambda: len(run.of(Step, 1)) > paused_at + 3)
        assert {event.share for event in run.of(Step, 1) if event.step >= paused_at} == {24}

        run.send("policy", policy="dynamic", hosts=[1])
        run.wait_for(lambda: run.of(Shares)[-1].policy == "dynamic")
        changes = len(run.of(Shares))
        run.send("simulate", hosts=[0], samples_per_second=100)
        run.wait_for(lambda: len(run.of(Shares)) > changes)
        run.wait_for(lambda: run.of(Step, 0)[-1].share < 16)

        run.send("stop", hosts=[1])
        assert run.wait() == [0, 0]
        done = run.of(Done)
        assert [event.state for event in done] == ["stopped", "stopped"]
        assert done[0].steps == done[1].steps == run.of(Step, 0)[-1].step + 1
        assert not run.of(Failed)
        assert not [event for event in run.of(Notice) if "drifted" in event.text]
        assert run.of(Checkpoint)[-1].step == done[0].steps


@pytest.mark.slow
@pytest.mark.parametrize("told", ["the master", "everybody", "everybody after a stop"])
def test_the_run_stops_in_good_order_where_leaving_cannot_be(tmp_path: Path, told: str) -> None:
    with cluster(tmp_path) as run:
        run.start([2, 1], LONG, speeds=[600, 300])
        run.wait_for(lambda: len(run.of(Step, 2)) > 3)
        if told == "everybody after a stop":
            # What the launcher does: a message first, as long as it gets through.
            run.send("stop")
        for host in run.hosts[: 1 if told == "the master" else 2]:
            host.process.send_signal(signal.SIGTERM)
        assert run.wait() == [0, 0]
        assert not run.of(Failed)
        steps = {event.state: event.steps for event in run.of(Done)}
        if told != "everybody":
            assert len({event.steps for event in run.of(Done)}) == 1
            assert steps.keys() == {"stopped"}
        # Whoever is left at last writes down how far the run has come.
        assert [event.step for event in run.of(Checkpoint)] == [max(steps.values())] == [steps["stopped"]]
        told_so = [event.text for event in run.of(Notice) if event.text.startswith("the run stops: ")]
        assert len(told_so) == (told != "everybody after a stop")


def drop(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")


def read(folder: ControlFolder) -> list[str]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if found := folder.read():
            return [command.name for command in found]
    return []


def test_messages_are_read_once_in_order_and_bad_ones_are_told(tmp_path: Path) -> None:
    bad: list[str] = []
    folder = ControlFolder(tmp_path, bad.append)
    assert folder.read() == []
    drop(tmp_path, "2-pause.json", '{"command": "pause"}')
    drop(tmp_path, "1-policy.json", '{"command": "policy", "policy": "equal"}')
    drop(tmp_path, "3-bad.json", "{")
    drop(tmp_path, "4-bad.json", '{"command": "explode"}')
    drop(tmp_path, "5-bad.json", "[1]")
    drop(tmp_path, "6-bad.json", '{"command": "simulate", "samples_per_second": -3}')
    drop(tmp_path, "7-part", '{"command": "stop"}')
    assert read(folder) == ["policy", "pause"]
    assert [text.split()[2].rstrip(":") for text in bad] == ["3-bad.json", "4-bad.json", "5-bad.json", "6-bad.json"]
    drop(tmp_path, "8-resume.json", json.dumps({"command": "resume"}))
    assert read(folder) == ["resume"]


def test_no_go_ends_the_wait_with_a_reason(tmp_path: Path) -> None:
    folder = ControlFolder(tmp_path, lambda _text: None)
    with pytest.raises(StartError, match=r"no go within 0 s"):
        folder.wait_for_go(lambda: False, timeout=0.1)


def test_messages_that_come_before_the_go_are_kept(tmp_path: Path) -> None:
    drop(tmp_path, "1-policy.json", '{"command": "policy", "policy": "equal"}')
    drop(tmp_path, "2-go.json", '{"command": "go"}')
    folder = ControlFolder(tmp_path, lambda _text: None)
    assert [command.policy for command in folder.wait_for_go(lambda: False)] == ["equal"]

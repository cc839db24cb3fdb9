"""The main job on real hosts, through the real command line: check, plan, up, watch, stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.hosts import Rig
from tests.rig.machine import wait_for
from trainer.events import Hello

pytestmark = pytest.mark.rig

_NOTHING: list[list[str]] = [[], [], []]


def test_the_checklist_is_green_and_the_plan_readable(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path)
    found = client.document("check")
    assert found["ok"]
    # That the machine the tests run on is busy is true, and no fault of the hosts.
    others = [one for one in found["checks"] if one["check"] != "load"]
    assert [one for one in others if one["verdict"] not in ("ok", "skip")] == []
    assert {host["phase"] for host in found["hosts"]} == {"connected"}
    assert {one["host"] for one in found["checks"] if one["verdict"] == "ok"} >= {"h1", "h2", "h3"}
    assert client.containers() == _NOTHING, "a check leaves nothing"

    planned = client.document("plan")["plan"]
    assert (planned["world_size"], planned["backend"], planned["master_address"]) == (3, "gloo", rig.hosts[0].address)
    told = client.run("plan").stdout
    assert all(word in told for word in ("h1", "h2", "h3", "eth0", rig.image))
    assert client.containers() == _NOTHING, "a plan starts nothing"


def test_three_containers_train_and_the_loss_falls(rig: Rig, tmp_path: Path) -> None:
    epochs, samples, global_batch = 2, 1920, 96
    count = epochs * samples // global_batch
    client = Client(rig, tmp_path, epochs=epochs, samples=samples, global_batch=global_batch)
    run = client.document("up", "--detach", timeout=180)["run"]

    def ended() -> bool:
        return all(host.docker("ps", "--quiet") == "" for host in rig.hosts)

    wait_for(ended, "the end of the training", timeout=120, interval=0.3)

    # What the containers themselves wrote, read past everything this program does with it.
    steps = {host.name: client.steps(host.name) for host in rig.hosts}
    for rank, (name, own) in enumerate(steps.items()):
        (hello,) = client.events(name, Hello)
        assert (hello.rank, hello.host, hello.world_size) == (rank, name, 3)
        assert len(own) == count
        assert all(step.duration > 0 for step in own)
        assert sum(step.share for step in own) > 0
    for together in zip(*steps.values(), strict=True):
        assert sum(step.share for step in together) == global_batch
        assert len({(step.step, step.loss) for step in together}) == 1, "every rank has the loss of the global batch"
    losses = [step.loss for step in steps["h1"]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

    result = client.document("watch")
    assert (result["run"], result["state"], result["steps"], result["simulated"]) == (run, "finished", count, False)
    assert result["loss"] < result["first_loss"]
    assert [rank["host"] for rank in result["ranks"]] == ["h1", "h2", "h3"]
    assert all(rank["samples_per_second"] > 0 for rank in result["ranks"])
    assert result["lost_lines"] == 0
    assert result["checkpoints"], "the results are brought home"
    assert all((tmp_path / path).stat().st_size > 0 for path in result["checkpoints"])
    assert client.containers() == _NOTHING, "and nothing stays on the hosts"


def test_a_killed_client_changes_nothing_and_another_takes_over(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path, epochs=1000)
    with client.started("up", "--skip-checks") as process:
        client.wait_said(" go")
        client.wait_steps("h3", 3)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    client.wait_steps("h1", 3)

    status = client.document("status")
    assert [(run["host"], run["state"], run["ranks"]) for run in status["runs"]] == [
        ("h1", "running", [0]),
        ("h2", "running", [1]),
        ("h3", "running", [2]),
    ]
    (run,) = {run["run"] for run in status["runs"]}

    with client.started("watch") as process:
        client.wait_said(f"attached to run {run}")
        client.wait_said("samples/s")
        assert client.document("stop")["stopped"] == [run]
        assert client.containers() == _NOTHING
        process.wait(timeout=30)

"""The main job as plain processes on real hosts: no engine, the checkout's own Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig

pytestmark = pytest.mark.rig


def _agents(rig: Rig) -> list[str]:
    """Return the trainer's processes on all hosts; each host sees only its own."""
    return [rig.ssh(host.name, "pgrep -af '[m] trainer'", user="root", check=False).stdout for host in rig.hosts]


def test_processes_on_hosts_without_an_engine_train_and_leave_nothing(rig: Rig, tmp_path: Path) -> None:
    for host in rig.hosts:
        host.stop_engine()
    # root, because the interpreter may live in a folder only root can enter.
    text = cluster_toml(rig, user="root", each_host={"runtime": "process", "python": sys.executable})
    client = Client(rig, tmp_path, text)
    result = client.document("up", timeout=180)
    assert (result["state"], result["steps"]) == ("finished", 20)
    assert all(rank["samples_per_second"] > 0 for rank in result["ranks"])
    assert result["loss"] < result["first_loss"]
    assert [(tmp_path / path).name for path in result["checkpoints"]] == ["step-00000020.pt"]
    assert client.document("stop")["stopped"] == [], "the end of the run left nothing on the hosts"
    assert _agents(rig) == ["", "", ""]


def test_stop_ends_processes_that_train(rig: Rig, tmp_path: Path) -> None:
    text = cluster_toml(rig, {"epochs": 1000}, user="root", each_host={"runtime": "process", "python": sys.executable})
    client = Client(rig, tmp_path, text)
    run = client.document("up", "--skip-checks", "--detach", timeout=120)["run"]
    assert all(_agents(rig))
    assert client.document("stop")["stopped"] == [run]
    assert _agents(rig) == ["", "", ""]

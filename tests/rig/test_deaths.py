"""Who died, of what, and how the run goes on: named on the command line while it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import wait_for

pytestmark = pytest.mark.rig

_NOTHING: list[list[str]] = [[], [], []]
_LIMITS = "[limits]\nlost_host_seconds = 5.0\nlaunch_seconds = 240.0\n"


def test_a_run_that_is_not_elastic_ends_everywhere_and_goes_on_without_the_dead_host(rig: Rig, tmp_path: Path) -> None:
    training = {"epochs": 1000, "elastic": False, "checkpoint_every": 5}
    client = Client(rig, tmp_path, cluster_toml(rig, training) + _LIMITS)
    with client.started("up", "--skip-checks") as process:
        client.wait_said(" go", timeout=240)
        client.wait_steps("h1", 8)
        victim = rig.host("h2")
        victim.docker("kill", *victim.containers())
        client.wait_said("h2: error: ended: exited 137")
        assert process.wait(timeout=90) == 1
    said = (tmp_path / "client.log").read_text()
    assert "Traceback" not in said
    assert client.containers() == _NOTHING, "nothing is left, though nobody said stop"
    status = client.document("status")
    assert status["runs"] == []

    with client.started("up", "--skip-checks", "--resume", "--without", "h2") as process:
        client.wait_said("goes on from step ", timeout=240)
        client.wait_steps("h3", 3, timeout=240)
        assert rig.host("h2").containers() == []
        assert client.document("stop", timeout=180)["stopped"]
        process.wait(timeout=60)
    assert client.containers() == _NOTHING


def test_a_lost_host_and_a_lost_engine_are_told_apart(rig: Rig, tmp_path: Path) -> None:
    # Patient, so that a busy machine loses no rank in between: a rank that is lost already has no network to be cut.
    limits = _LIMITS + "lost_rank_seconds = 15.0\n"
    client = Client(rig, tmp_path, cluster_toml(rig, {"epochs": 1000}) + limits)
    with client.started("up", "--skip-checks"):
        client.wait_said(" go", timeout=240)
        client.wait_steps("h1", 3)
        rig.host("h2").link_down()
        client.wait_said("h2: error: no contact: host unreachable")
        rig.host("h2").link_up()
        client.wait_steps("h2", 3)
        with _deaf(rig.host("h2"), rig.host("h3")):
            # Both still reach the master: only the kernels of the two know.
            client.wait_said(" do not reach each other; the run goes on without rank ")
            client.wait_steps("h1", 5)
        client.wait_steps("h2", 3)
        client.wait_steps("h3", 3)
        rig.host("h3").kill_engine()
        client.wait_said("h3: error: no contact: its engine is gone")
        rig.host("h3").start_engine()
        rig.host("h3").wait_engine()
        # It tells the containers it finds to end, which is no word to stop the run.
        client.wait_said("rank 2 left: h3 was told to end from outside (SIGTERM)")
        client.wait_said("h3: rank 2 warning: left after ")
        client.wait_steps("h1", 3)
        assert client.document("stop", timeout=180)["stopped"]
    assert client.containers() == _NOTHING


@contextmanager
def _deaf(one: RigHost, other: RigHost) -> Iterator[None]:
    """Let no packet pass between two hosts."""
    rules = [(here, ("INPUT", "-s", there.address, "-j", "DROP")) for here, there in ((one, other), (other, one))]
    for here, rule in rules:
        here.iptables("-A", *rule)
    try:
        yield
    finally:
        for here, rule in rules:
            here.iptables("-D", *rule)


def test_a_failed_run_is_tried_again_by_itself(rig: Rig, tmp_path: Path) -> None:
    limits = _LIMITS + "restarts = 1\nrestart_wait_seconds = 0.5\n"
    training = {"epochs": 1000, "elastic": False, "checkpoint_every": 5}
    client = Client(rig, tmp_path, cluster_toml(rig, training) + limits)
    with client.started("up", "--skip-checks") as process:
        client.wait_said(" go", timeout=240)
        client.wait_steps("h1", 8)
        rig.host("h2").docker("kill", *rig.host("h2").containers())
        client.wait_said("the run failed; restart 1 of 1 in 0.5 s", timeout=120)
        client.wait_said("goes on from step ", timeout=240)
        said = tmp_path / "client.log"
        wait_for(lambda: said.read_text().count("· kept in") == 2, "the second launch", timeout=240, interval=0.3)
        client.wait_steps("h2", 3, timeout=240)
        assert client.document("stop", timeout=180)["stopped"]
        process.wait(timeout=60)
    assert client.containers() == _NOTHING

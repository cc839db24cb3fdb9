"""What goes wrong between real machines, seen from the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.rig.client import Client
from tests.rig.hosts import Rig
from tests.rig.machine import wait_for
from trainer.events import Membership

pytestmark = pytest.mark.rig

_NOTHING: list[list[str]] = [[], [], []]


def _failed(document: dict[str, Any]) -> dict[str, str]:
    """Return the reason of every failed check by ``check/host``."""
    return {f"{one['check']}/{one['host']}": one["reason"] for one in document["checks"] if one["verdict"] == "fail"}


def test_a_firewall_between_two_hosts_is_found_before_the_launch(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path)
    rig.host("h1").iptables("-A", "INPUT", "-s", rig.host("h3").address, "-p", "tcp", "--dport", "29500", "-j", "DROP")
    found = client.document("check", status=1)
    assert not found["ok"]
    failed = _failed(found)
    assert failed
    assert all(name.endswith("/h3") for name in failed), failed
    assert any("29500" in reason for reason in failed.values()), failed
    assert client.containers() == _NOTHING


def test_a_host_without_its_image_is_named_and_nothing_is_left(rig: Rig, tmp_path: Path) -> None:
    host = rig.host("h2")
    host.docker("tag", rig.image, "kept:1")
    host.docker("rmi", rig.image)
    try:
        client = Client(rig, tmp_path)
        done = client.run("up", "--skip-checks", timeout=90)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        told = done.stderr.rpartition("ranks did not come up")[2]
        assert "h2 (rank 1)" in told
        assert rig.image in told
        assert client.containers() == _NOTHING
        assert any(name.endswith("/h2") for name in _failed(client.document("check", status=1)))
    finally:
        host.docker("tag", "kept:1", rig.image)
        host.docker("rmi", "kept:1")


def test_a_dead_engine_and_a_dead_host_are_told_apart(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path)
    rig.host("h2").kill_engine()
    rig.host("h3").power_off()
    failed = _failed(client.document("check", status=1, timeout=90))
    by_host = {
        name: {check.split("/")[0] for check in failed if check.endswith(f"/{name}")} for name in ("h1", "h2", "h3")
    }
    assert by_host["h1"] == set()
    assert by_host["h2"]
    assert by_host["h3"]
    assert by_host["h2"].isdisjoint(by_host["h3"]), failed


def test_lost_connections_lose_no_line(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path, epochs=4)
    with client.started("up", "--json", "--skip-checks") as process:
        client.wait_said(" go")
        client.wait_steps("h3", 3)
        for host in rig.hosts:
            host.kill_connections()
        assert process.wait(timeout=300) == 0, client.log()
    progress, _, result = (tmp_path / "client.log").read_text().partition("{\n")
    assert "Traceback" not in progress
    document = json.loads("{" + result[: result.rindex("}") + 1])
    assert (document["state"], document["steps"], document["lost_lines"]) == ("finished", 4 * 1920 // 96, 0)
    assert client.containers() == _NOTHING


def test_training_goes_on_when_a_host_loses_its_power(rig: Rig, tmp_path: Path) -> None:
    client = Client(rig, tmp_path, epochs=1000, elastic=True)
    with client.started("up", "--skip-checks") as process:
        client.wait_said(" go")
        client.wait_steps("h1", 3)
        rig.host("h3").power_off()
        wait_for(
            lambda: any(2 in change.left for change in client.events("h1", Membership)),
            "the others' going on without rank 2",
            timeout=60,
            interval=0.3,
            detail=client.log,
        )
        client.wait_steps("h1", 3)
        assert process.poll() is None, client.log()
        process.send_signal(signal.SIGKILL)

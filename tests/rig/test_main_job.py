"""The main job on real hosts, through the real command line: check, plan, up, watch, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig.clusters import cluster_toml, write_cluster
from tests.rig.hosts import Rig
from tests.rig.machine import wait_for
from tests.rig.places import REPOSITORY
from trainer.events import Event, Hello, Step, decode

pytestmark = pytest.mark.rig

_EPOCHS, _SAMPLES, _GLOBAL_BATCH = 2, 1920, 96
_STEPS = _EPOCHS * _SAMPLES // _GLOBAL_BATCH


def _command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "hetero_tui", *argv]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder)}


def _hetero(folder: Path, *argv: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person in a folder of their own would."""
    return subprocess.run(
        _command(*argv),
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def _started(folder: Path, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command line in the background, its output in ``client.log``; it is dead afterwards."""
    with (folder / "client.log").open("a") as log:
        process = subprocess.Popen(
            _command(*argv), cwd=folder, env=_environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)


def _events(rig: Rig, name: str) -> list[Event]:
    """Read the events in the log of the run's only container on a host."""
    host = rig.host(name)
    (container,) = host.containers("label=hetero-tui.run")
    lines = host.docker("logs", container).splitlines()
    return [event for line in lines if (event := decode(line)) is not None]


def _steps(rig: Rig, name: str) -> list[Step]:
    return [event for event in _events(rig, name) if isinstance(event, Step)]


def test_the_checklist_is_green_and_the_plan_readable(rig: Rig, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, cluster_toml(rig, epochs=_EPOCHS, samples=_SAMPLES, global_batch=_GLOBAL_BATCH))
    checked = _hetero(tmp_path, "check", "--json", str(cluster))
    assert checked.returncode in (0, 1), checked.stderr
    found = json.loads(checked.stdout)
    bad = [one for one in found["checks"] if one["verdict"] in ("fail", "unknown")]
    assert bad == []
    assert checked.returncode == 0
    assert found["ok"]
    assert {host["phase"] for host in found["hosts"]} == {"connected"}
    assert {one["host"] for one in found["checks"] if one["verdict"] == "ok"} >= {"h1", "h2", "h3"}
    assert [host.containers() for host in rig.hosts] == [[], [], []], "a check changes nothing"

    planned = _document(_hetero(tmp_path, "plan", "--json", str(cluster)))["plan"]
    assert (planned["world_size"], planned["backend"], planned["master_address"]) == (3, "gloo", rig.hosts[0].address)
    told = _hetero(tmp_path, "plan", str(cluster)).stdout
    assert all(word in told for word in ("h1", "h2", "h3", "eth0", rig.image))
    assert [host.containers() for host in rig.hosts] == [[], [], []], "a plan changes nothing"


def test_three_containers_train_and_the_loss_falls(rig: Rig, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, cluster_toml(rig, epochs=_EPOCHS, samples=_SAMPLES, global_batch=_GLOBAL_BATCH))
    result = _document(_hetero(tmp_path, "up", "--json", str(cluster), timeout=180))
    assert (result["state"], result["steps"], result["simulated"]) == ("finished", _STEPS, False)
    assert result["loss"] < result["first_loss"]
    assert [rank["host"] for rank in result["ranks"]] == ["h1", "h2", "h3"]
    assert all(rank["samples_per_second"] > 0 for rank in result["ranks"])
    assert [(host["state"], host["exit_code"]) for host in result["hosts"]] == [("exited", 0)] * 3
    assert result["lost_lines"] == 0

    # What the containers themselves wrote, read past everything this program does with it.
    steps = {host.name: _steps(rig, host.name) for host in rig.hosts}
    for name, position in zip(steps, range(3), strict=True):
        (hello,) = [event for event in _events(rig, name) if isinstance(event, Hello)]
        assert (hello.rank, hello.host, hello.world_size) == (position, name, 3)
        assert len(steps[name]) == _STEPS
        assert all(step.duration > 0 for step in steps[name])
        assert sum(step.share for step in steps[name]) > 0
    for together in zip(*steps.values(), strict=True):
        assert sum(step.share for step in together) == _GLOBAL_BATCH
        assert len({(step.step, step.loss) for step in together}) == 1, "every rank has the loss of the global batch"
    losses = [step.loss for step in steps["h1"]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

    stopped = _document(_hetero(tmp_path, "stop", "--json", str(cluster)))
    assert stopped["stopped"] == [result["run"]]
    assert [host.containers() for host in rig.hosts] == [[], [], []]
    kept = Path(tmp_path, result["folder"])
    assert any(kept.iterdir()), "the results outlive the containers"


def test_a_killed_client_changes_nothing_and_another_takes_over(rig: Rig, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, cluster_toml(rig, epochs=1000, samples=_SAMPLES, global_batch=_GLOBAL_BATCH))

    def client_log() -> str:
        return (tmp_path / "client.log").read_text()[-4000:]

    def count(name: str) -> int:
        return len(_steps(rig, name)) if rig.host(name).containers("label=hetero-tui.run") else 0

    with _started(tmp_path, "up", "--skip-checks", str(cluster)) as client:
        wait_for(lambda: count("h3") > 3 or client.poll() is not None, "the first steps", timeout=90, detail=client_log)
        assert client.poll() is None, client_log()
        client.send_signal(signal.SIGKILL)
        client.wait(timeout=10)
    seen = count("h1")
    wait_for(lambda: count("h1") > seen + 3, "steps without a client", timeout=30)

    status = _document(_hetero(tmp_path, "status", "--json", str(cluster)))
    assert [(run["host"], run["state"], run["ranks"]) for run in status["runs"]] == [
        ("h1", "running", [0]),
        ("h2", "running", [1]),
        ("h3", "running", [2]),
    ]
    (run,) = {run["run"] for run in status["runs"]}

    with _started(tmp_path, "watch", str(cluster)) as watcher:
        wait_for(lambda: f"attached to run {run}" in client_log(), "reattaching", timeout=30, detail=client_log)
        wait_for(
            lambda: "samples/s" in client_log().rpartition("attached")[2],
            "throughput after reattaching",
            timeout=30,
            detail=client_log,
        )
        stopped = _document(_hetero(tmp_path, "stop", "--json", str(cluster)))
        assert stopped["stopped"] == [run]
        assert [host.containers() for host in rig.hosts] == [[], [], []]
        watcher.wait(timeout=30)

"""The main job on real hosts, through the real command line: check, plan, up, watch, stop."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from hetero_tui import exit_codes, run_to_end
from hetero_tui.stored_runs import find_run
from hetero_tui.views import RunState
from tests.rig.client import Client
from tests.rig.hosts import Rig
from tests.rig.machine import wait_for
from tests.rig.replayed import (
    as_it_was,
    assert_no_line_is_lost_or_doubled,
    attached,
    recorded_lines,
    replayed,
    replayed_on_the_screen,
)
from tests.ssh.waiting import until
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
    written = {host.name: client.written(host.name) for host in rig.hosts}

    result = client.document("watch")
    assert (result["run"], result["state"], result["steps"], result["simulated"]) == (run, "finished", count, False)
    assert result["loss"] < result["first_loss"]
    assert [rank["host"] for rank in result["ranks"]] == ["h1", "h2", "h3"]
    assert all(rank["samples_per_second"] > 0 for rank in result["ranks"])
    assert result["lost_lines"] == 0
    assert result["checkpoints"], "the results are brought home"
    assert all((tmp_path / path).stat().st_size > 0 for path in result["checkpoints"])
    assert client.containers() == _NOTHING, "and nothing stays on the hosts"

    # The recording has every line as it was written, and played back it comes to the same result.
    stored = find_run("latest", tmp_path / "experiments")
    assert recorded_lines(stored.run_dir) == written
    *_, last = map(json.loads, client.replay(run).splitlines())
    assert last["result"] == {key: result[key] for key in last["result"]}


async def test_a_killed_client_changes_nothing_another_takes_over_and_all_of_it_replays(
    rig: Rig, tmp_path: Path
) -> None:
    client = Client(rig, tmp_path, epochs=1000)
    with client.started("up", "--skip-checks") as process:
        client.wait_said(" go")
        client.wait_steps("h3", 3)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    client.wait_steps("h1", 3)

    status = client.document("status")
    assert [(run["host"], run["state"], run["ranks"]) for run in status["runs"]] == [
        ("h1", "running", [0]),
        ("h2", "running", [1]),
        ("h3", "running", [2]),
    ]
    (run,) = {run["run"] for run in status["runs"]}

    stored = find_run(run, tmp_path / "experiments")
    known = stored.run_dir.positions()
    assert set(known) == {"h1", "h2", "h3"}, "the killed client has kept what it saw"
    async with attached(client, run) as session:
        store = session.store
        killed_at = store.cluster_view().step
        well = (RunState.FINISHED, RunState.STOPPED)
        watching = asyncio.create_task(run_to_end.follow(session, as_json=True, well=well))
        await until(lambda: store.cluster_view().step > killed_at + 3, 180)
        await session.control({"command": "policy", "policy": "equal"})
        await until(lambda: store.cluster_view().policy == "equal", 180)
        written = {host.name: await asyncio.to_thread(client.written, host.name) for host in rig.hosts}
        assert (await asyncio.to_thread(client.document, "stop", timeout=180))["stopped"] == [run]
        assert client.containers() == _NOTHING
        async with asyncio.timeout(180):
            assert await watching == exit_codes.OK

    recorded = recorded_lines(stored.run_dir)
    assert {host: lines[: len(written[host])] for host, lines in recorded.items()} == written
    assert_no_line_is_lost_or_doubled(recorded)
    live = as_it_was(store, stored)
    assert len(live["rank_views"]) == 3
    assert len(live["shares_history"]) >= 2, "balanced, then told to share equally"
    assert live["loss_history"]
    assert (await replayed(stored)) == live
    assert (await replayed_on_the_screen(stored, killed_at)) == live

"""What a run on a host hands over and takes, as streams; and that one run of a cluster at a time has a host."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import random
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from remote.embedded import RunningHost
from remote.errors import CommandFailed, HostBusy, ResultsError
from remote.local import LocalRunner
from remote.plan import HostPlan, RankPlan
from remote.plan_contract import LABEL_BY, LABEL_CLUSTER
from remote.process_runtime import PIECE, ProcessRuntime
from remote.runner import Runner
from remote.runtime import State, StoredCheckpoint
from remote.ssh import connect
from tests.unit.launching import RUN, Reports

OTHER = "20260101-120000-ef01"
LARGE = 5 * PIECE + 12345


@pytest.fixture(params=["local", "ssh"])
async def any_runner(
    request: pytest.FixtureRequest, host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Runner]:
    if request.param == "ssh":
        runner: Runner = await connect(host.inventory_host())
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        runner = LocalRunner("alpha")
    yield runner
    await runner.close()


@pytest.fixture
async def runtime(any_runner: Runner) -> AsyncIterator[ProcessRuntime]:
    runtime = ProcessRuntime("alpha", any_runner, sys.executable)
    yield runtime
    for run_id in (RUN, OTHER):
        await runtime.stop(run_id, grace=0.1)


def plan(script: str, by: str = "anna@desk") -> HostPlan:
    return HostPlan(
        host="alpha",
        runtime="process",
        ranks=(RankPlan(0, 0, "cpu"),),
        container_name="",
        image="",
        argv=("sh", "-c", script),
        env=(),
        labels=((LABEL_CLUSTER, "home"), (LABEL_BY, by)),
    )


def large_checkpoint(folder: Path) -> StoredCheckpoint:
    content = random.Random(7).randbytes(LARGE)
    path = folder / "step-00000020.pt"
    path.write_bytes(content)
    return StoredCheckpoint(path, 20, hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.slow
async def test_a_large_checkpoint_goes_there_and_comes_back_without_being_held_in_memory(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    checkpoint = large_checkpoint(tmp_path)
    await runtime.create(plan("true"), RUN)
    tracemalloc.start()
    try:
        await runtime.place(RUN, checkpoint, Reports())
        _, placing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        reports = Reports()
        report = await runtime.fetch(RUN, tmp_path / "run", reports)
        _, fetching = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (arrived,) = report.checkpoints
    assert (arrived.size, arrived.sha256) == (LARGE, checkpoint.sha256)
    assert arrived.path.read_bytes() == checkpoint.path.read_bytes()
    assert placing < 4 * PIECE
    assert fetching < 2 * PIECE
    assert "step-00000020.pt, 42.0 MB" in [each.detail for each in reports]


async def test_a_checkpoint_that_arrives_otherwise_is_refused_by_the_host(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    path = tmp_path / "step-00000020.pt"
    path.write_bytes(b"x")
    await runtime.create(plan("true"), RUN)
    with pytest.raises(CommandFailed, match=r"step-00000020\.pt did not arrive as it was sent"):
        await runtime.place(RUN, StoredCheckpoint(path, 20, "0" * 64, 1), Reports())
    assert (await runtime.fetch(RUN, tmp_path / "run", Reports())).checkpoints == ()


async def test_older_checkpoints_stay_and_what_a_script_wrote_comes(runtime: ProcessRuntime, tmp_path: Path) -> None:
    script = """
    mkdir -p $HETERO_OUTPUT/checkpoints $HETERO_OUTPUT/own; cd $HETERO_OUTPUT
    echo mine > own/file; ln -s /etc/passwd own/link; mkfifo own/pipe
    cd checkpoints
    for step in 00000020 00000100 99999999; do echo $step > step-$step.pt; done
    for step in 00000020 00000100; do sha256sum step-$step.pt > step-$step.pt.sha256; done
    """
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    async for _ in runtime.logs(RUN):
        continue
    newest = await runtime.fetch(RUN, tmp_path / "run", Reports())
    assert [each.path.name for each in newest.checkpoints] == ["step-00000100.pt"]
    assert [each.path.relative_to(tmp_path) for each in newest.others] == [Path("run/output/alpha/own/file")]
    assert set(newest.refused) == {"own/link", "own/pipe"}
    everything = await runtime.fetch(RUN, tmp_path / "all", Reports(), everything=True)
    assert [each.path.name for each in everything.checkpoints] == ["step-00000020.pt", "step-00000100.pt"]
    assert "its digest is missing" in everything.refused["checkpoints/step-99999999.pt"]


async def test_what_the_host_says_instead_of_an_archive_is_told(runtime: ProcessRuntime, tmp_path: Path) -> None:
    await runtime.create(plan("true"), RUN)
    script = Path(await runtime._folder(RUN)) / "host_process.py"
    script.write_text("print('welcome to this machine' * 100)")
    with pytest.raises(ResultsError, match="what came is no tar archive"):
        await runtime.fetch(RUN, tmp_path / "run", Reports())
    script.write_text("import sys; sys.exit('the disk is gone')")
    with pytest.raises((ResultsError, CommandFailed)):
        await runtime.fetch(RUN, tmp_path / "run", Reports())
    assert not (tmp_path / "run").exists()


async def test_a_second_run_is_refused_while_the_first_lives(runtime: ProcessRuntime) -> None:
    await runtime.create(plan("exec sleep 1000"), RUN)
    with pytest.raises(HostBusy, match=f"run {RUN} of this cluster is there, launched by anna@desk, being launched"):
        await runtime.create(plan("true", "bert@sofa"), OTHER)
    await runtime.stop(OTHER)
    await runtime.start(RUN)
    with pytest.raises(HostBusy, match=r"launched by anna@desk, training since 20\d\d-") as raised:
        await runtime.create(plan("true", "bert@sofa"), OTHER)
    assert "hetero-tui stop" in raised.value.next_step
    assert {each.run_id for each in await runtime.runs("home")} == {RUN}
    await runtime.stop(OTHER)
    await runtime.end(RUN, grace=0.1)
    await runtime.create(plan("true", "bert@sofa"), OTHER)
    assert [each.started_by for each in await runtime.runs("home")] == ["bert@sofa", "anna@desk"]


async def test_another_cluster_is_not_in_the_way(runtime: ProcessRuntime) -> None:
    await runtime.create(plan("exec sleep 1000"), RUN)
    other = dataclasses.replace(plan("true"), labels=((LABEL_CLUSTER, "office"),))
    await runtime.create(other, OTHER)


async def test_what_is_gone_without_a_trace_holds_nothing(runtime: ProcessRuntime) -> None:
    await runtime.create(plan("exec sleep 1000"), RUN)
    record = {"agent": [1, "1@before"], "supervisor": [1, "1@before"], "started_at": 1.0}
    (Path(await runtime._folder(RUN)) / "pid").write_text(json.dumps(record))
    await runtime.create(plan("true", "bert@sofa"), OTHER)


@pytest.mark.parametrize(
    ("change", "is_held"),
    [
        pytest.param({"since_boot": -700.0, "wall": -700.0}, False, id="given up"),
        pytest.param({"since_boot": -700.0, "wall": 3600.0}, False, id="given up, then the clock was set back"),
        pytest.param({"wall": -3600.0}, True, id="on its way, and the clock was set forward"),
        pytest.param({"wall": 3600.0}, True, id="on its way, and the clock was set back"),
        pytest.param({"boot": "of another boot"}, False, id="the machine was restarted"),
        pytest.param({"boot": "", "wall": -700.0}, False, id="given up where nothing tells boots apart"),
        pytest.param({"boot": "", "wall": 700.0}, False, id="so much ahead that the clock was set back since"),
        pytest.param({"boot": ""}, True, id="on its way where nothing tells boots apart"),
    ],
)
async def test_what_was_never_started_holds_the_host_for_a_while_whatever_its_clock_says(
    runtime: ProcessRuntime, change: dict[str, float | str], is_held: bool
) -> None:
    """A launcher that was killed must not keep a host from the next run, and one that launches must."""
    await runtime.create(plan("exec sleep 1000"), RUN)
    path = Path(await runtime._folder(RUN)) / "plan.json"
    record = json.loads(path.read_text())
    for name, value in change.items():
        record["clocks"][name] = value if isinstance(value, str) else record["clocks"][name] + value
    path.write_text(json.dumps(record))
    with pytest.raises(HostBusy) if is_held else nullcontext():
        await runtime.create(plan("true", "bert@sofa"), OTHER)


async def test_of_many_launches_at_once_exactly_one_goes_on(any_runner: Runner) -> None:
    runtimes = [ProcessRuntime("alpha", any_runner, sys.executable) for _ in range(4)]
    run_ids = [f"20260101-120000-000{number}" for number in range(4)]

    async def one(runtime: ProcessRuntime, run_id: str) -> bool:
        try:
            await runtime.create(plan("exec sleep 1000"), run_id)
        except HostBusy:
            return False
        return True

    went = await asyncio.gather(*map(one, runtimes, run_ids))
    assert sum(went) == 1
    known = await runtimes[0].runs("home")
    assert [(each.run_id, each.state) for each in known] == [(run_ids[went.index(True)], State.CREATED)]
    for run_id in run_ids:
        await runtimes[0].stop(run_id, grace=0.1)

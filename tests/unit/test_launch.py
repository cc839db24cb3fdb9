"""The launch with real processes on this machine: who comes up, who does not and why, and what is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from remote.errors import CommandFailed, LaunchError
from remote.launch import RanksMissing, launch, send, stop_run
from remote.local import LocalRunner
from remote.plan_model import HostPlan, LaunchPlan
from remote.process_runtime import ProcessRuntime
from remote.progress import LaunchProgress
from remote.runtime import State
from tests.unit.launching import GOOD, RUN, Reports, launch_plan, living_agents, run_folders

SETTLE = 1.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    assert living_agents() == []


def runtimes_of(plan: LaunchPlan) -> dict[str, ProcessRuntime]:
    return {host.host: ProcessRuntime(host.host, LocalRunner(host.host), host.argv[0]) for host in plan.hosts}


async def missing(scripts: Mapping[str, str], timeout: float = 20.0) -> tuple[RanksMissing, Reports]:
    """Launch what cannot come up and return the error; it must leave nothing."""
    plan, reports = launch_plan(scripts), Reports()
    with pytest.raises(RanksMissing) as raised:
        await launch(plan, runtimes_of(plan), reports, timeout=timeout, settle=SETTLE)
    assert living_agents() == []
    return raised.value, reports


async def test_everybody_is_released_once_everybody_is_there(cache: Path) -> None:
    plan, reports = launch_plan({"a": GOOD, "b": GOOD}, ranks_each=2), Reports()
    runtimes = runtimes_of(plan)
    launched = await launch(plan, runtimes, reports, timeout=20)
    assert sorted(launched.hellos) == [0, 1, 2, 3]
    assert launched.hellos[2].host == "b"
    assert launched.notes == ()
    assert 0 < launched.seconds < 20
    names = set()
    for host in ("a", "b"):
        assert reports.phases(host) == ["creating", "created", "starting", "importing", "ready", "go"]
        texts = []
        async for batch in runtimes[host].logs(RUN):
            texts += [line.text for line in batch]
            if "gone" in texts:
                break
        names |= {path.name for path in (cache / "hetero-tui" / "runs" / RUN / host / "control").iterdir()}
    assert len(names) == 1, "the go has the same name on every host"
    last_ready = max(index for index, each in enumerate(reports) if each.phase == "ready")
    first_go = min(index for index, each in enumerate(reports) if each.phase == "go")
    assert last_ready < first_go
    stopped = await stop_run(RUN, runtimes, reports)
    assert stopped.stopped == ("a", "b")
    assert stopped.unreachable == {}
    assert run_folders(cache) == []
    assert await stop_run(RUN, runtimes, reports) == stopped, "ending a run twice does no harm"


async def test_a_host_that_fails_is_named_with_the_cause_and_nothing_is_left(cache: Path) -> None:
    started = time.monotonic()
    script = "sys.exit('ModuleNotFoundError: No module named torch')"
    error, reports = await missing({"good": GOOD, "bad": script})
    assert time.monotonic() - started < 10
    (only,) = error.missing
    assert only.host == "bad"
    assert only.ranks == (1,)
    assert only.reason == "there is no torch in the image or virtual environment (exited 1)"
    assert only.last_lines == ("ModuleNotFoundError: No module named torch",)
    text = str(error)
    assert "1 of 2 ranks did not come up" in text
    assert "bad (rank 1): there is no torch" in text
    assert "install torch into the python of this host" in text
    assert "stopped and removed again" in text
    assert reports.phases("good")[-1] == "stopped"
    assert reports.phases("bad")[-2:] == ["failed", "stopped"]
    assert run_folders(cache) == []


async def test_hosts_that_fail_for_the_same_reason_are_named_together_causes_first(cache: Path) -> None:
    error, _ = await missing(
        {
            "echo": "sys.exit('RuntimeError: Connection reset by peer')",
            "full": "time.sleep(0.3); sys.exit('OSError: [Errno 28] No space left on device')",
            "gone": "os.kill(os.getpid(), 9)",
        }
    )
    assert [each.host for each in error.missing][-1] == "echo"
    reasons = {each.host: each.reason for each in error.missing}
    assert reasons["full"] == "the disk is full (exited 1)"
    assert reasons["gone"].startswith("exited 137: killed (SIGKILL)")
    assert reasons["echo"] == "another rank went away or stopped answering (exited 1)"


async def test_a_host_that_stays_silent_is_named_at_the_deadline(cache: Path) -> None:
    started = time.monotonic()
    error, _ = await missing(
        {"good": GOOD, "slow": "print('still loading', flush=True); time.sleep(1000)"}, timeout=2.0
    )
    assert time.monotonic() - started < 10
    (only,) = error.missing
    assert (only.host, only.last_lines) == ("slow", ("still loading",))
    assert only.reason == "no hello of rank 1 within 2 s, though it is running"
    assert run_folders(cache) == []


async def test_one_silent_rank_of_a_host_is_named(cache: Path) -> None:
    plan = launch_plan({"a": "emit(ranks[0], 'hello', **hello); time.sleep(1000)"}, ranks_each=2)
    with pytest.raises(RanksMissing) as raised:
        await launch(plan, runtimes_of(plan), Reports(), timeout=1.0)
    assert raised.value.missing[0].ranks == (1,)


async def test_what_a_rank_says_of_its_failure_is_the_reason(cache: Path) -> None:
    script = "emit(1, 'failed', error='ValueError: no such workload: \\x1b[2Jnope', traceback='…'); time.sleep(1000)"
    error, _ = await missing({"good": GOOD, "bad": script})
    assert error.missing[0].reason == "ValueError: no such workload: �[2Jnope", "control characters are taken out"


async def test_a_rank_that_dies_after_its_hello_is_noticed_before_the_go(cache: Path) -> None:
    error, _ = await missing({"slow": "time.sleep(1000)", "dies": "emit(1, 'hello', **hello); sys.exit(3)"})
    assert [(each.host, each.reason) for each in error.missing] == [("dies", "ended before the go (exited 3)")]


async def test_a_command_that_is_not_the_trainer(cache: Path) -> None:
    error, _ = await missing({"a": "print('hello')"})
    assert error.missing[0].reason == "exited 0 before the go"
    assert error.missing[0].last_lines == ("hello",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("hello['device'] = 'cuda:0'", "device of rank 1 is cuda:0, planned was cpu"),
        ("hello['world_size'] = 3", "world size of rank 1 is 3, planned was 2"),
        ("hello['backend'] = 'nccl'", "backend of rank 1 is nccl, planned was gloo"),
        ("hello['host'] = 'other'", "host of rank 1 is other, planned was odd"),
        ("emit(0, 'hello', **hello)", "rank 0 runs here, which the plan does not say"),
    ],
)
async def test_what_runs_must_be_what_was_planned(cache: Path, change: str, reason: str) -> None:
    error, _ = await missing({"good": GOOD, "odd": f"{change}\n{GOOD}"})
    assert [(each.host, each.reason) for each in error.missing] == [("odd", reason)]


async def test_unlike_versions_of_torch_are_noted(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": f"hello['torch_version'] = '2.9.0+cu128'\n{GOOD}"})
    runtimes = runtimes_of(plan)
    launched = await launch(plan, runtimes, Reports(), timeout=20)
    await stop_run(RUN, runtimes, Reports(), grace=1)
    assert launched.notes == ("the ranks have different versions of torch: 2.13.0 on rank 0; 2.9.0 on rank 1",)


@pytest.mark.parametrize("phase", ["creating", "created", "starting", "importing", "ready"])
async def test_cancelled_in_any_phase_it_leaves_nothing(cache: Path, phase: str) -> None:
    plan = launch_plan({"a": GOOD, "b": "time.sleep(1000)"})
    task: asyncio.Task[object]

    def cancel(progress: LaunchProgress) -> None:
        if progress.phase == phase:
            task.cancel()

    task = asyncio.create_task(launch(plan, runtimes_of(plan), cancel, timeout=20))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert living_agents() == []
    assert run_folders(cache) == []


async def test_cancelled_twice_it_still_leaves_nothing(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": "time.sleep(1000)"})
    task: asyncio.Task[object]

    def cancel(progress: LaunchProgress) -> None:
        if progress.phase == "ready":
            task.cancel()
            asyncio.get_running_loop().call_later(0.05, task.cancel)

    task = asyncio.create_task(launch(plan, runtimes_of(plan), cancel, timeout=20))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert living_agents() == []
    assert run_folders(cache) == []


async def test_a_second_launch_of_the_same_run_does_not_touch_the_first(cache: Path) -> None:
    plan = launch_plan({"a": GOOD})
    runtimes = runtimes_of(plan)
    await launch(plan, runtimes, Reports(), timeout=20)
    with pytest.raises(LaunchError, match="already there on a"):
        await launch(plan, runtimes_of(plan), Reports(), timeout=20)
    assert (await runtimes["a"].inspect(RUN)).state is State.RUNNING
    await stop_run(RUN, runtimes, Reports(), grace=1)


class Broken(ProcessRuntime):
    """A runtime on a host whose connection is lost at some moment."""

    def __init__(self, host: str, python: str, *broken: str) -> None:
        super().__init__(host, LocalRunner(host), python)
        self.broken = broken

    async def create(self, plan: HostPlan, run_id: str) -> None:
        await super().create(plan, run_id)
        if "create" in self.broken:
            raise CommandFailed("the connection broke", host=self.host, next_step="look at the cable")

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        if "stop" in self.broken:
            raise CommandFailed("the connection broke", host=self.host)
        await super().stop(run_id, grace=grace)

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        if "control" in self.broken:
            raise CommandFailed("the connection broke", host=self.host)
        await super().control(run_id, message)


async def test_a_host_that_fails_half_way_through_creation_is_cleaned_up_too(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": GOOD})
    runtimes = runtimes_of(plan) | {"b": Broken("b", plan.hosts[1].argv[0], "create")}
    with pytest.raises(RanksMissing, match=r"b \(rank 1\): the connection broke\n  → look at the cable"):
        await launch(plan, runtimes, Reports(), timeout=20)
    assert run_folders(cache) == []


async def test_a_host_that_cannot_be_cleaned_up_is_named(cache: Path) -> None:
    plan = launch_plan({"a": "sys.exit(1)", "b": GOOD})
    runtimes = runtimes_of(plan) | {"b": Broken("b", plan.hosts[1].argv[0], "stop")}
    with pytest.raises(RanksMissing) as raised:
        await launch(plan, runtimes, Reports(), timeout=20, settle=SETTLE)
    assert raised.value.left_behind == {"b": "the connection broke"}
    assert "could not be cleaned up: b: the connection broke" in str(raised.value)
    assert RUN in raised.value.next_step
    await runtimes_of(plan)["b"].stop(RUN, grace=1)


async def test_a_go_that_does_not_arrive_ends_the_launch(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": GOOD})
    runtimes = runtimes_of(plan) | {"b": Broken("b", plan.hosts[1].argv[0], "control")}
    with pytest.raises(RanksMissing, match="the go did not arrive: the connection broke"):
        await launch(plan, runtimes, Reports(), timeout=20)
    assert run_folders(cache) == []


async def test_stop_names_hosts_it_cannot_reach_and_stops_the_others(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": GOOD})
    runtimes = runtimes_of(plan)
    await launch(plan, runtimes, Reports(), timeout=20)
    reports = Reports()
    stopped = await stop_run(RUN, runtimes | {"b": Broken("b", plan.hosts[1].argv[0], "stop")}, reports)
    assert stopped.stopped == ("a",)
    assert stopped.unreachable == {"b": "the connection broke"}
    assert reports.phases("b") == ["failed"]
    await stop_run(RUN, runtimes, Reports())


async def test_send_names_the_hosts_that_did_not_get_it(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": GOOD})
    runtimes = runtimes_of(plan)
    await launch(plan, runtimes, Reports(), timeout=20)
    broken = runtimes | {"b": Broken("b", plan.hosts[1].argv[0], "control")}
    assert await send(RUN, broken, {"command": "pause"}, clock=lambda: 12) == {"b": "the connection broke"}
    assert (cache / "hetero-tui" / "runs" / RUN / "a" / "control" / f"{12:020d}-pause.json").exists()
    await stop_run(RUN, runtimes, Reports(), grace=1)


async def test_a_host_whose_part_cannot_start(cache: Path) -> None:
    plan = launch_plan({"a": GOOD, "b": GOOD})
    bad = replace(plan.hosts[1], argv=("/no/such/python", "-m", "trainer"))
    plan = replace(plan, hosts=(plan.hosts[0], bad))
    runtimes = runtimes_of(plan) | {"b": ProcessRuntime("b", LocalRunner("b"), plan.hosts[0].argv[0])}
    with pytest.raises(RanksMissing, match=r"b \(rank 1\): .*/no/such/python: No such file or directory"):
        await launch(plan, runtimes, Reports(), timeout=20, settle=SETTLE)
    assert run_folders(cache) == []

"""Runs as plain processes, over SSH and on this machine; both take the same path."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from remote.embedded import RunningHost
from remote.errors import CommandFailed, ConnectionDropped
from remote.local import LocalRunner
from remote.plan import HostPlan, RankPlan
from remote.plan_contract import LABEL_CLUSTER
from remote.process_runtime import ProcessRuntime
from remote.runner import Runner
from remote.runtime import HostRunState, LogLine, State
from remote.ssh import SshRunner, connect

RUN = "20260101-120000-abcd"


@pytest.fixture(params=["local", "ssh"])
async def any_runner(
    request: pytest.FixtureRequest, host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Runner]:
    if request.param == "ssh":
        runner: Runner = await connect(host.inventory_host())
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        runner = LocalRunner("alpha")
    yield runner
    await runner.close()


@pytest.fixture
async def runtime(host: RunningHost, any_runner: Runner) -> AsyncIterator[ProcessRuntime]:
    runtime = ProcessRuntime("alpha", any_runner, sys.executable)
    yield runtime
    await runtime.stop(RUN, grace=0.1)


def plan(script: str, **env: str) -> HostPlan:
    return HostPlan(
        host="alpha",
        runtime="process",
        ranks=(RankPlan(2, 0, "cpu"), RankPlan(3, 1, "cpu")),
        container_name="unused",
        image="",
        argv=("sh", "-c", script),
        env=tuple(sorted(env.items())),
        labels=((LABEL_CLUSTER, "home"),),
    )


async def collect(runtime: ProcessRuntime, after: str = "") -> list[LogLine]:
    return [line async for batch in runtime.logs(RUN, after) for line in batch]


async def first_line(runtime: ProcessRuntime) -> str:
    """Return the first line of the log; the run is up when it has come."""
    lines = runtime.logs(RUN)
    try:
        async for batch in lines:
            return batch[0].text
    finally:
        await lines.aclose()
    pytest.fail("the log ended without a line")


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - the condition is on a host
            await asyncio.sleep(0.02)


async def test_a_run_from_creation_to_removal(runtime: ProcessRuntime) -> None:
    assert (await runtime.inspect(RUN)).state is State.MISSING
    script = """
    echo "rank $RANK word $WORD"; echo to-stderr >&2
    until ls "$HETERO_CONTROL" | grep -q -- -go.json; do sleep 0.02; done
    cat "$HETERO_CONTROL"/*-go.json; echo; echo saved > "$HETERO_OUTPUT/file"; printf unfinished; exit 5
    """
    await runtime.create(plan(script, RANK="2", WORD='it\'s "$HOME"\nand more'), RUN)
    assert await runtime.inspect(RUN) == HostRunState("alpha", RUN, State.CREATED, ranks=(2, 3))
    before = time.time()
    await runtime.start(RUN)
    state = await runtime.inspect(RUN)
    assert state.state is State.RUNNING
    assert before - 1 < state.started_at < time.time() + 1
    following = asyncio.create_task(collect(runtime))
    await runtime.control(RUN, {"command": "go", "sent_ns": 7})
    lines = await asyncio.wait_for(following, 20)
    assert [line.text for line in lines] == [
        'rank 2 word it\'s "$HOME"',
        "and more",
        "to-stderr",
        '{"command": "go", "sent_ns": 7}',
        "unfinished",
    ]
    state = await runtime.inspect(RUN)
    assert (state.state, state.exit_code, state.out_of_memory) == (State.EXITED, 5, False)
    assert await runtime.runs("home") == (state,)
    assert await runtime.runs("other") == ()
    assert await collect(runtime, lines[2].position) == lines[3:]
    assert await collect(runtime, lines[-1].position) == []
    for _ in range(2):
        await runtime.stop(RUN)
    assert (await runtime.inspect(RUN)).state is State.MISSING
    assert await runtime.runs("home") == ()


async def test_no_variable_shows_on_a_command_line_and_the_files_are_private(runtime: ProcessRuntime) -> None:
    await runtime.create(plan("echo up; exec sleep 1000", SECRET_TOKEN="hunter2-hunter2"), RUN)
    await runtime.start(RUN)
    await first_line(runtime)
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"hunter2" not in command_line.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    folder = Path(await runtime._folder(RUN))
    assert (folder / "plan.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_it_survives_the_connection(runtime: ProcessRuntime, host: RunningHost) -> None:
    await runtime.create(plan("echo one; until [ -e $HETERO_OUTPUT/../more ]; do sleep 0.02; done; echo two"), RUN)
    await runtime.start(RUN)
    lines = []
    drop = isinstance(runtime.runner, SshRunner)
    following = runtime.logs(RUN)
    async for batch in following:
        lines += batch
        break
    if drop:
        host.drop_connections()
        with pytest.raises(ConnectionDropped):
            await anext(following)
        runtime.runner = await connect(host.inventory_host())
    else:
        await following.aclose()
    assert (await runtime.inspect(RUN)).state is State.RUNNING
    Path(await runtime._folder(RUN), "more").touch()
    lines += await asyncio.wait_for(collect(runtime, lines[-1].position), 20)
    assert [line.text for line in lines] == ["one", "two"]
    if drop:
        await runtime.stop(RUN)
        await runtime.runner.close()
        runtime.runner = await connect(host.inventory_host())


async def test_stop_says_so_before_it_lets_the_agent_end_in_good_order(runtime: ProcessRuntime) -> None:
    """A signal alone would mean that this host leaves."""
    saved = "cat $HETERO_CONTROL/*-stop.json > $HETERO_OUTPUT/../../kept"
    script = f"trap '{saved}; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    await first_line(runtime)
    folder = Path(await runtime._folder(RUN))
    await runtime.stop(RUN, grace=10)
    assert json.loads((folder.parent / "kept").read_text()) == {"command": "stop"}
    assert not folder.exists()
    (folder.parent / "kept").unlink()
    folder.parent.rmdir()


async def test_stop_kills_what_ignores_it_with_every_child(runtime: ProcessRuntime) -> None:
    """A grandchild in a session of its own would keep its GPU."""
    script = (
        f"trap '' TERM; {sys.executable} -c 'import os, time; os.setsid(); print(os.getpid(), flush=True); "
        "time.sleep(1000)' & while :; do sleep 0.02; done"
    )
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    grandchild = int(await first_line(runtime))
    assert Path(f"/proc/{grandchild}").exists()
    started = time.monotonic()
    await runtime.stop(RUN, grace=0.2)
    assert time.monotonic() - started < 8
    assert not _lives(grandchild)


async def test_what_an_agent_leaves_behind_ends_with_it(runtime: ProcessRuntime) -> None:
    script = f"{sys.executable} -c 'import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(1000)' & "
    await runtime.create(plan(script + "read line < /dev/zero; wait"), RUN)
    await runtime.start(RUN)
    grandchild = int(await first_line(runtime))
    folder = Path(await runtime._folder(RUN))
    agent, _ = json.loads((folder / "pid").read_text())["agent"]
    os.kill(agent, signal.SIGKILL)

    async def exited() -> bool:
        return (await runtime.inspect(RUN)).state is State.EXITED

    await until(exited)
    assert (await runtime.inspect(RUN)).exit_code == 137
    assert not _lives(grandchild)


async def test_a_reused_process_id_is_not_taken_for_the_run(runtime: ProcessRuntime) -> None:
    """As after a restart of the machine: the recorded ids belong to strangers now, and nobody touches those."""
    await runtime.create(plan("exec sleep 1000"), RUN)
    stranger = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    folder = Path(await runtime._folder(RUN))
    record = {"agent": [stranger.pid, "1@before"], "supervisor": [stranger.pid, "1@before"], "started_at": 1.0}
    (folder / "pid").write_text(json.dumps(record))
    state = await runtime.inspect(RUN)
    assert (state.state, state.exit_code) == (State.EXITED, None)
    assert "without a trace" in state.detail
    assert await asyncio.wait_for(collect(runtime), 10) == []
    await runtime.stop(RUN)
    assert stranger.returncode is None
    stranger.kill()
    assert await stranger.wait() == -signal.SIGKILL


async def test_a_command_that_does_not_exist(runtime: ProcessRuntime) -> None:
    missing = HostPlan("alpha", "process", (RankPlan(0, 0, "cpu"),), "", "", ("/no/such/python", "-m", "t"), (), ())
    await runtime.create(missing, RUN)
    with pytest.raises(CommandFailed, match="/no/such/python: No such file or directory"):
        await runtime.start(RUN)
    state = await runtime.inspect(RUN)
    assert (state.state, state.exit_code) == (State.EXITED, 127)


async def test_a_python_that_does_not_exist_says_what_to_do(any_runner: Runner, host: RunningHost) -> None:
    runtime = ProcessRuntime("alpha", any_runner, "~/no venv/bin/python")
    with pytest.raises(CommandFailed) as raised:
        await runtime.create(plan("true"), RUN)
    assert "no venv/bin/python" in str(raised.value)
    assert "set python of this host" in raised.value.next_step
    await ProcessRuntime("alpha", any_runner, sys.executable).stop(RUN)


async def test_nothing_starts_or_is_created_twice(runtime: ProcessRuntime) -> None:
    await runtime.create(plan("exec sleep 1000"), RUN)
    with pytest.raises(CommandFailed, match=r"making .* failed"):
        await runtime.create(plan("exec sleep 1000"), RUN)
    await runtime.start(RUN)
    with pytest.raises(CommandFailed, match="started before"):
        await runtime.start(RUN)


async def test_control_of_a_run_that_is_gone_says_so(runtime: ProcessRuntime) -> None:
    with pytest.raises(CommandFailed):
        await runtime.control(RUN, {"command": "pause"})
    assert (await runtime.inspect(RUN)).state is State.MISSING


async def test_many_lines_and_a_very_long_one_arrive_as_they_are(runtime: ProcessRuntime) -> None:
    script = "seq 1 20000; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    lines = await asyncio.wait_for(collect(runtime), 30)
    assert [line.text for line in lines[:20000]] == [str(number) for number in range(1, 20001)]
    assert sum(line.text.count("x") for line in lines) == 3_000_000
    assert max(len(line.text) for line in lines) < 1_300_000
    assert lines[-1].text == "end"
    assert await collect(runtime, lines[-2].position) == lines[-1:]


@pytest.mark.parametrize("run_id", ["../other", "a/b", "", "-rf", "a b", "."])
async def test_names_that_are_no_names_never_reach_the_host(runtime: ProcessRuntime, run_id: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        await runtime.stop(run_id)


def _lives(process_id: int) -> bool:
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    return fields[0] not in "ZX"

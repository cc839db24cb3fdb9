"""One host's part of a run as a real container."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from remote.claim import SinceBoot
from remote.container import ContainerSpec
from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.errors import ConnectionDropped, EngineError
from remote.launch import RanksMissing, launch, stop_run
from remote.plan_contract import LABEL_CLOCK, LABEL_CLUSTER, LABEL_HOST, LABEL_RANKS, LABEL_RUN
from remote.plan_model import HostPlan, LaunchPlan, RankPlan
from remote.runtime import HostRunState, LogLine, State
from remote.stream import Backoff, LinkChange, follow
from tests.docker.conftest import IMAGE

pytestmark = pytest.mark.rig

RUN = "20260101-120000-abcd"


@pytest.fixture
def runtime(engine: Engine) -> DockerRuntime:
    return DockerRuntime("alpha", engine)


def plan(script: str, host: str = "alpha", **env: str) -> HostPlan:
    return HostPlan(
        host=host,
        runtime="docker",
        ranks=(RankPlan(2, 0, "cpu"), RankPlan(3, 1, "cpu")),
        container_name=f"hetero-home-{RUN}-{host}",
        image=IMAGE,
        argv=("sh", "-c", script),
        env=tuple(sorted(env.items())),
        labels=((LABEL_CLUSTER, "home"),),
        shm_size=48 << 20,
    )


async def collect(runtime: DockerRuntime, after: str = "") -> list[LogLine]:
    return [line async for batch in runtime.logs(RUN, after) for line in batch]


async def test_a_run_from_creation_to_removal(runtime: DockerRuntime) -> None:
    assert (await runtime.inspect(RUN)).state is State.MISSING
    script = """
    echo "rank $RANK word $WORD"
    until ls /hetero/control 2>/dev/null | while read name; do case $name in *-go.json) exit 7;; esac; done; [ $? = 7 ]
    do sleep 0.05; done
    cat /hetero/control/*-go.json; echo; df -k /dev/shm; printf unfinished; exit 5
    """
    await runtime.create(plan(script, RANK="2", WORD="it's"), RUN)
    assert await runtime.inspect(RUN) == HostRunState("alpha", RUN, State.CREATED, ranks=(2, 3))
    before = time.time()
    await runtime.start(RUN)
    state = await runtime.inspect(RUN)
    assert state.state is State.RUNNING
    assert before - 1 < state.started_at < time.time() + 1
    following = asyncio.create_task(collect(runtime))
    await runtime.control(RUN, {"command": "go", "sent_ns": 7})
    lines = await asyncio.wait_for(following, 20)
    texts = [line.text for line in lines]
    assert texts[:2] == ["rank 2 word it's", '{"command": "go", "sent_ns": 7}']
    assert texts[-1] == "unfinished"
    assert "49152" in texts[-2]
    state = await runtime.inspect(RUN)
    assert (state.state, state.exit_code, state.out_of_memory) == (State.EXITED, 5, False)
    assert await runtime.runs("home") == (state,)
    assert await runtime.runs("other") == ()
    for index, line in enumerate(lines):
        assert await collect(runtime, line.position) == lines[index + 1 :]
    for _ in range(2):
        await runtime.stop(RUN)
    assert (await runtime.inspect(RUN)).state is State.MISSING


async def test_the_container_is_what_the_plan_says(runtime: DockerRuntime, engine: Engine) -> None:
    planned = dataclasses.replace(plan("sleep 1000"), mounts=(("/usr", "/hetero/data", "ro"),))
    await runtime.create(planned, RUN)
    (summary,) = await engine.list({LABEL_RUN: RUN})
    record = await engine.inspect(str(summary["Id"]))
    assert record is not None
    labels = record["Config"]["Labels"]
    assert SinceBoot.parse(labels.pop(LABEL_CLOCK)) is not None
    assert labels == {LABEL_RUN: RUN, LABEL_HOST: "alpha", LABEL_RANKS: "2,3", LABEL_CLUSTER: "home"}
    host = record["HostConfig"]
    assert host["NetworkMode"] == "host"
    assert host["Init"] is True
    assert host["AutoRemove"] is False
    assert host["RestartPolicy"]["Name"] in {"", "no"}
    assert host["LogConfig"]["Type"] == "local"
    assert "max-size" in host["LogConfig"]["Config"]
    assert host["ShmSize"] == 48 << 20
    assert {each["Name"]: (each["Soft"], each["Hard"]) for each in host["Ulimits"]} == {
        "memlock": (-1, -1),
        "stack": (64 << 20, 64 << 20),
        "nofile": (65536, 65536),
    }
    assert [(each["Source"], each["Target"], each["ReadOnly"]) for each in host["Mounts"]] == [
        ("/usr", "/hetero/data", True)
    ]
    assert record["Config"]["Tty"] is False
    assert record["Name"] == f"/hetero-home-{RUN}-alpha"


async def test_gpus_are_asked_for_by_their_ids(runtime: DockerRuntime, engine: Engine) -> None:
    await runtime.create(dataclasses.replace(plan("true"), gpu_uuids=("GPU-1", "GPU-2")), RUN)
    (summary,) = await engine.list({LABEL_RUN: RUN})
    record = await engine.inspect(str(summary["Id"]))
    assert record is not None
    (request,) = record["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-1", "GPU-2"]
    assert request["Capabilities"] == [["gpu"]]
    assert request["Count"] == 0
    with pytest.raises(EngineError, match="the engine cannot hand out GPUs"):
        await runtime.start(RUN)


async def test_end_says_stop_gives_the_agent_its_grace_and_touches_no_other_container(
    runtime: DockerRuntime, engine: Engine
) -> None:
    """A signal without the message would mean that this host leaves."""
    other_host = DockerRuntime("beta", engine)
    await other_host.create(plan("sleep 1000", host="beta"), RUN)
    await other_host.start(RUN)
    stranger = await engine.create(ContainerSpec(image=IMAGE, argv=("sleep", "1000"), labels=((LABEL_RUN, "other"),)))
    await runtime.create(
        plan("trap 'cat /hetero/control/*-stop.json; echo; exit 0' TERM; echo up; while :; do sleep 0.05; done"), RUN
    )
    await runtime.start(RUN)
    lines: list[str] = []

    async def read() -> None:
        async for batch in runtime.logs(RUN):
            lines.extend(line.text for line in batch)

    reading = asyncio.create_task(read())
    while not lines:  # noqa: ASYNC110 - the lines come from the container
        await asyncio.sleep(0.02)
    started = time.monotonic()
    await runtime.end(RUN, grace=10)
    assert time.monotonic() - started < 5
    await reading
    assert lines == ["up", '{"command": "stop"}']
    await runtime.stop(RUN)
    assert (await runtime.inspect(RUN)).state is State.MISSING
    assert (await other_host.inspect(RUN)).state is State.RUNNING
    assert await engine.inspect(stranger) is not None


async def test_long_lines_and_many_lines_arrive_as_they_are(runtime: DockerRuntime) -> None:
    """The engine cuts at 16 KiB; the same log read from any position gives the same rest."""
    script = "seq 1 3000; for n in 16383 16384 16385 40000; do printf %${n}s x; echo; done; echo err >&2; echo end"
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    lines = [line for line in await collect(runtime) if line.stream == "stdout"]
    assert [line.text for line in lines[:3000]] == [str(number) for number in range(1, 3001)]
    assert [len(line.text) for line in lines[3000:]] == [16383, 16384, 16385, 40000, 3]
    whole = await collect(runtime)
    for index in (0, 1500, 2999, 3000, 3001, 3002, 3003):
        assert await collect(runtime, whole[index].position) == whole[index + 1 :]


async def test_every_line_comes_once_though_the_engine_is_followed_in_pieces(
    runtime: DockerRuntime, engine: Engine
) -> None:
    """The stream is broken off again and again while the container writes on both of its outputs."""
    script = "for n in $(seq 1 400); do echo out $n; echo err $n >&2; [ $((n % 100)) = 0 ] && sleep 0.1; done; exit 0"
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    changes: list[LinkChange] = []

    async def quick(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    cut = Cutting("alpha", engine)

    async def connect() -> DockerRuntime:
        return cut

    lines = []
    async for batch in follow(
        RUN, connect, report=lambda change, _: changes.append(change), backoff=Backoff(), sleep=quick
    ):
        lines += batch
    for stream in ("out", "err"):
        assert [line.text for line in lines if line.text.startswith(stream)] == [f"{stream} {n}" for n in range(1, 401)]
    assert len(lines) == 800
    assert changes.count("lost") >= 5
    assert changes.count("again") == changes.count("lost")


class Cutting(DockerRuntime):
    """Loses its log stream after a few batches, ten times."""

    cuts = 0

    async def logs(self, run_id: str, after: str = "", *, follow: bool = True):  # type: ignore[no-untyped-def]
        batches = 0
        async for batch in super().logs(run_id, after, follow=follow):
            batches += 1
            half = batch[: len(batch) // 2 + 1]
            yield half
            if Cutting.cuts < 10:
                Cutting.cuts += 1
                raise ConnectionDropped("cut", host=self.host)
            if rest := batch[len(half) :]:
                yield rest


async def test_a_launch_in_containers_from_hello_to_go(runtime: DockerRuntime, engine: Engine) -> None:
    launched = await launch(job("; sleep 1000"), {"alpha": runtime, "beta": DockerRuntime("beta", engine)}, ignore)
    assert sorted(launched.hellos) == [0, 1]
    assert {each.host for each in launched.hellos.values()} == {"alpha", "beta"}
    await stop_run(RUN, {"alpha": runtime, "beta": DockerRuntime("beta", engine)}, ignore)
    assert await engine.list({}) == ()


async def test_a_launch_with_a_command_that_is_missing_in_the_image(runtime: DockerRuntime, engine: Engine) -> None:
    good = job("; sleep 1000")
    bad = dataclasses.replace(good.hosts[1], argv=("python3", "-m", "trainer"))
    broken = dataclasses.replace(good, hosts=(good.hosts[0], bad))
    with pytest.raises(RanksMissing) as raised:
        await launch(broken, {"alpha": runtime, "beta": DockerRuntime("beta", engine)}, ignore, settle=1)
    (missing,) = raised.value.missing
    assert (missing.host, missing.ranks) == ("beta", (1,))
    assert missing.reason == "there is no command python3 (exited 127)"
    assert await engine.list({}) == ()


async def test_a_launch_cancelled_while_creating_leaves_no_container(runtime: DockerRuntime, engine: Engine) -> None:
    task: asyncio.Task[object]

    def cancel(progress: object) -> None:
        asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(
        launch(job("; sleep 1000"), {"alpha": runtime, "beta": DockerRuntime("beta", engine)}, cancel)
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await engine.list({}) == ()


def ignore(progress: object) -> None:
    """Take a report and do nothing with it."""


def job(then: str) -> LaunchPlan:
    """Return a plan of two hosts with one rank each that say hello and do something then."""
    hosts = []
    for rank, name in enumerate(("alpha", "beta")):
        hello = f'{{"ht":1,"kind":"hello","rank":{rank},"host":"{name}","world_size":2,"device":"cpu"}}'
        hosts.append(dataclasses.replace(plan(f"echo '{hello}'{then}", host=name), ranks=(RankPlan(rank, 0, "cpu"),)))
    return LaunchPlan(
        run_id=RUN,
        cluster="home",
        master="alpha",
        master_address="127.0.0.1",
        master_port=29500,
        backend="gloo",
        world_size=2,
        hosts=tuple(hosts),
        global_batch=64,
        policy="equal",
    )

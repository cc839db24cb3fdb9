"""What a container has written comes out of it, what it shall go on from goes in, and one run at a time has a host."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import tarfile
import uuid
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from remote.checkpoints import newest_good
from remote.claim import SinceBoot, since_boot
from remote.container import spec_of
from remote.docker_files import output_archives
from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.errors import HostBusy, LaunchError, ResultsError
from remote.launch import launch
from remote.plan_contract import LABEL_BY, LABEL_CLOCK, LABEL_CLUSTER
from remote.plan_model import HostPlan, LaunchPlan, RankPlan
from remote.progress import LaunchProgress
from remote.results import Archive, HomeReport, bring_home
from remote.runtime import FetchReport, State, StoredCheckpoint
from tests.docker.conftest import IMAGE
from tests.docker.test_docker_runtime import RUN, ignore, job
from tests.unit.launching import Reports

pytestmark = pytest.mark.rig

OTHER = "20260101-120000-ef01"
OUTPUT = "/hetero/output"


@pytest.fixture
def runtime(engine: Engine) -> DockerRuntime:
    return DockerRuntime("alpha", engine)


def plan(script: str, run_id: str = RUN, by: str = "anna@desk") -> HostPlan:
    return HostPlan(
        host="alpha",
        runtime="docker",
        ranks=(RankPlan(0, 0, "cpu"),),
        container_name=f"hetero-home-{run_id}-alpha",
        image=IMAGE,
        argv=("sh", "-c", script),
        env=(),
        labels=((LABEL_CLUSTER, "home"), (LABEL_BY, by)),
        shm_size=48 << 20,
    )


def saved(tmp_path: Path, step: int, content: bytes) -> StoredCheckpoint:
    path = tmp_path / f"step-{step:08d}.pt"
    path.write_bytes(content)
    return StoredCheckpoint(path, step, hashlib.sha256(content).hexdigest(), len(content))


async def ended(runtime: DockerRuntime, run_id: str = RUN) -> None:
    async with asyncio.timeout(20):
        while (await runtime.inspect(run_id)).state is not State.EXITED:  # noqa: ASYNC110 - the engine's state
            await asyncio.sleep(0.05)


def writing(*checkpoints: tuple[int, str], more: str = "") -> str:
    """Return a script that writes checkpoints as the trainer does."""
    lines = [f"mkdir -p {OUTPUT}/checkpoints; cd {OUTPUT}/checkpoints"]
    for step, content in checkpoints:
        digest = hashlib.sha256(content.encode()).hexdigest()
        name = f"step-{step:08d}.pt"
        lines.append(f"printf %s {content} > {name}; echo '{digest}  {name}' > {name}.sha256")
    return "\n".join([*lines, more])


async def test_the_newest_checkpoint_comes_home_alone_and_then_the_container_goes(
    runtime: DockerRuntime, engine: Engine, tmp_path: Path
) -> None:
    await runtime.create(plan(writing((20, "old"), (100, "new")) + "\n: > step-00000101.pt.part"), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    home = await bring_home(RUN, {"alpha": runtime}, tmp_path, ignore)
    assert (home.kept, home.unreachable) == ({}, {})
    found, _ = newest_good(tmp_path / "checkpoints")
    assert found is not None
    assert (found.step, found.path.read_bytes()) == (100, b"new")
    assert sorted(each.name for each in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000100.pt",
        "step-00000100.pt.sha256",
    ]
    assert home.states["alpha"].exit_code == 0
    assert await engine.list({}) == ()


async def test_a_watcher_and_a_stop_may_end_the_same_run(
    runtime: DockerRuntime, engine: Engine, tmp_path: Path
) -> None:
    removed = asyncio.Event()

    class Late(DockerRuntime):
        """Comes to the results when somebody else has brought them home and removed the container."""

        async def fetch(
            self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
        ) -> FetchReport:
            await removed.wait()
            return await super().fetch(run_id, folder, report, everything=everything)

    async def first() -> HomeReport:
        home = await bring_home(RUN, {"alpha": runtime}, tmp_path, ignore)
        removed.set()
        return home

    await runtime.create(plan(writing((20, "old"))), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    late = bring_home(RUN, {"alpha": Late("alpha", engine)}, tmp_path, ignore)
    for home in await asyncio.gather(first(), late):
        assert (home.kept, home.unreachable) == ({}, {})
    assert (tmp_path / "checkpoints" / "step-00000020.pt").read_bytes() == b"old"
    assert await engine.list({}) == ()


async def test_large_older_checkpoints_do_not_even_leave_the_engine(runtime: DockerRuntime, engine: Engine) -> None:
    await runtime.create(plan(writing((20, "old"), (100, "new"))), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    (container,) = [str(each["Id"]) for each in await engine.list({})]

    async def bytes_of(archives: AsyncGenerator[Archive, None]) -> bytes:
        return b"".join([chunk async for archive in archives async for chunk in archive.chunks])

    narrow = await bytes_of(output_archives(engine, container, whole=False, little=1000))
    little = await bytes_of(output_archives(engine, container, whole=False))
    whole = await bytes_of(output_archives(engine, container, whole=True))
    assert b"step-00000100.pt" in narrow
    assert b"step-00000020.pt" not in narrow
    assert b"step-00000020.pt" in whole
    assert little == whole, "so little is not worth asking what may be left out"


async def test_the_last_checkpoint_is_written_while_it_ends(runtime: DockerRuntime, tmp_path: Path) -> None:
    script = f"trap '{writing((7, 'last'))}; exit 0' TERM; echo up; while :; do sleep 0.05; done".replace("'%s", "%s")
    script = script.replace("echo '", 'echo "').replace("' > step-00000007.pt.sha256", '" > step-00000007.pt.sha256')
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    async for batch in runtime.logs(RUN):
        assert batch[0].text == "up"
        break
    await bring_home(RUN, {"alpha": runtime}, tmp_path, ignore)
    assert (tmp_path / "checkpoints" / "step-00000007.pt").read_bytes() == b"last"


async def test_a_damaged_checkpoint_keeps_the_container(runtime: DockerRuntime, engine: Engine, tmp_path: Path) -> None:
    await runtime.create(plan(writing((20, "old"), more="echo more >> step-00000020.pt")), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    reports = Reports()
    home = await bring_home(RUN, {"alpha": runtime}, tmp_path / "run", reports)
    assert "does not match its digest" in home.kept["alpha"]
    assert reports.phases("alpha") == ["kept"]
    assert len(await engine.list({})) == 1
    with pytest.raises(ResultsError):
        await runtime.fetch(RUN, tmp_path / "run", ignore)
    await bring_home(RUN, {"alpha": runtime}, tmp_path / "run", ignore, discard=True)
    assert await engine.list({}) == ()
    assert not (tmp_path / "run").exists()


async def test_links_in_the_output_lead_nowhere(runtime: DockerRuntime, tmp_path: Path) -> None:
    script = f"mkdir -p {OUTPUT}/logs; ln -s /etc/shadow {OUTPUT}/key; echo said > {OUTPUT}/logs/out"
    await runtime.create(plan(script), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    report = await runtime.fetch(RUN, tmp_path, ignore)
    assert [each.path.read_text() for each in report.others] == ["said\n"]
    assert report.others[0].path == tmp_path / "output" / "alpha" / "logs" / "out"
    assert list(report.refused.values()) == ["it is a link or a device"]


async def test_a_run_that_wrote_nothing_leaves_nothing(runtime: DockerRuntime, tmp_path: Path) -> None:
    await runtime.create(plan("exit 0"), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    report = await runtime.fetch(RUN, tmp_path / "run", ignore)
    assert (report.checkpoints, report.others, report.refused) == ((), (), {})
    assert not (tmp_path / "run").exists()


async def test_what_is_written_to_a_folder_of_the_persons_stays_there(runtime: DockerRuntime, tmp_path: Path) -> None:
    lasting = tmp_path / "lasting"
    lasting.mkdir()
    planned = dataclasses.replace(plan(writing((20, "old"))), mounts=((str(lasting), OUTPUT, "rw"),))
    await runtime.create(planned, RUN)
    await runtime.start(RUN)
    await ended(runtime)
    await bring_home(RUN, {"alpha": runtime}, tmp_path / "run", ignore)
    assert (lasting / "checkpoints" / "step-00000020.pt").read_text() == "old"
    assert not (tmp_path / "run").exists()


async def test_a_checkpoint_is_there_before_the_start_and_comes_back_as_it_was(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10_000
    reports = Reports()
    await runtime.create(plan(f"ls -ln {OUTPUT}/checkpoints"), RUN)
    await runtime.place(RUN, saved(tmp_path, 20, content), reports)
    await runtime.start(RUN)
    await ended(runtime)
    report = await runtime.fetch(RUN, tmp_path / "run", ignore)
    assert [each.path.read_bytes() for each in report.checkpoints] == [content]
    assert "step-00000020.pt, 2.6 of 2.6 MB sent" in reports[-1].detail


async def test_a_placed_checkpoint_belongs_to_who_owns_the_output_folder(
    runtime: DockerRuntime, engine: Engine, tmp_path: Path
) -> None:
    """The image's trainer is no root: it must be able to write its own checkpoints beside the one it goes on from."""
    await runtime.create(plan(f"mkdir -p {OUTPUT}; cd {OUTPUT} && busybox chown 123:456 . ; exit 0"), RUN)
    await runtime.start(RUN)
    await ended(runtime)
    await runtime.place(RUN, saved(tmp_path, 20, b"x"), ignore)
    (container,) = [str(each["Id"]) for each in await engine.list({})]
    members = b"".join([
        chunk async for each in output_archives(engine, container, whole=True) async for chunk in each.chunks
    ])  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(members)) as archive:
        owners = {each.name: (each.uid, each.gid) for each in archive}
    assert owners == {
        "output": (123, 456),
        "output/checkpoints": (123, 456),
        "output/checkpoints/step-00000020.pt": (123, 456),
        "output/checkpoints/step-00000020.pt.sha256": (123, 456),
    }


async def test_a_launch_puts_the_checkpoint_onto_the_host_of_rank_0_only(
    runtime: DockerRuntime, engine: Engine, tmp_path: Path
) -> None:
    beta = DockerRuntime("beta", engine)
    runtimes = {"alpha": runtime, "beta": beta}
    await launch(job("; sleep 1000"), runtimes, ignore, checkpoint=saved(tmp_path, 20, b"x"))
    home = await bring_home(RUN, runtimes, tmp_path / "run", ignore, grace=1)
    assert [len(home.fetched[name].checkpoints) for name in ("alpha", "beta")] == [1, 0]


async def test_a_second_run_of_the_cluster_is_refused_while_the_first_lives(
    runtime: DockerRuntime, engine: Engine
) -> None:
    await runtime.create(plan("sleep 1000"), RUN)
    second = DockerRuntime("alpha", engine)
    with pytest.raises(HostBusy, match=f"run {RUN} of this cluster is there, launched by anna@desk, being launched"):
        await second.create(plan("true", OTHER, "bert@sofa"), OTHER)
    await second.stop(OTHER)
    await runtime.start(RUN)
    with pytest.raises(HostBusy, match=r"launched by anna@desk, training since 20\d\d-") as raised:
        await second.create(plan("true", OTHER, "bert@sofa"), OTHER)
    assert "hetero-tui stop" in raised.value.next_step
    await second.stop(OTHER)
    assert (await runtime.inspect(RUN)).state is State.RUNNING
    await runtime.end(RUN, grace=1)
    await second.create(plan("true", OTHER, "bert@sofa"), OTHER)


@pytest.mark.parametrize(
    ("boot", "age", "is_held"),
    [("this", 700.0, False), ("this", 500.0, True), ("another", 1.0, False)],
    ids=["given up", "on its way", "the machine was restarted"],
)
async def test_what_was_never_started_holds_the_host_by_a_clock_that_nobody_sets(
    engine: Engine, boot: str, age: float, is_held: bool
) -> None:
    """By the engine's own stamp, which is of the clock on the wall, each of them was created this second."""
    here = await since_boot(engine.runner)
    assert here is not None
    then = SinceBoot(here.boot if boot == "this" else str(uuid.uuid4()), here.seconds - age)
    spec = spec_of(plan("sleep 1000"), RUN)
    await engine.create(dataclasses.replace(spec, labels=(*spec.labels, (LABEL_CLOCK, str(then)))))
    with pytest.raises(HostBusy) if is_held else contextlib.nullcontext():
        await DockerRuntime("alpha", engine).create(plan("true", OTHER, "bert@sofa"), OTHER)


async def test_of_two_launches_at_once_at_most_one_goes_on(engine: Engine) -> None:
    async def one(run_id: str) -> bool:
        try:
            await DockerRuntime("alpha", engine).create(plan("sleep 1000", run_id), run_id)
        except HostBusy:
            return False
        return True

    went = await asyncio.gather(*(one(f"20260101-120000-000{number}") for number in range(4)))
    assert sum(went) <= 1


async def test_another_cluster_on_the_same_engine_is_not_in_the_way(runtime: DockerRuntime, engine: Engine) -> None:
    await runtime.create(plan("sleep 1000"), RUN)
    await runtime.start(RUN)
    other = dataclasses.replace(plan("true", OTHER), labels=((LABEL_CLUSTER, "office"),))
    await DockerRuntime("alpha", engine).create(other, OTHER)


async def test_a_launch_beside_a_living_run_is_refused_and_leaves_it_alone(
    runtime: DockerRuntime, engine: Engine
) -> None:
    await runtime.create(plan("sleep 1000", OTHER), OTHER)
    await runtime.start(OTHER)
    planned: LaunchPlan = job("; sleep 1000")
    with pytest.raises(LaunchError, match=f"run {OTHER} of this cluster is there"):
        await launch(planned, {"alpha": runtime, "beta": DockerRuntime("beta", engine)}, ignore, settle=1)
    assert (await runtime.inspect(OTHER)).state is State.RUNNING
    assert len(await engine.list({})) == 1

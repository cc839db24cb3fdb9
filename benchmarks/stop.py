"""How soon a run is ended when hosts misbehave: ``python -m benchmarks.stop [--quick] [--json FILE]``.

Real runs on the rig (three machines of Linux namespaces, each with its own sshd and engine). In each state a run
trains, one worker is harmed, and the run is ended by ``hetero-tui stop`` or by Ctrl-C of ``hetero-tui up``. Measured is
what a person waits: from the request to the exit of the command, Python's start included, less what the command waited
for a core, for all hosts share this machine's. Whoever could not be reached must be named. Then the host is healed,
``stop`` is measured again, and nothing may be left anywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.report import Figure, Options, at_most, failed, main, skipped
from remote.run_dir import RunDir
from tests.rig.chaos.driver import CLUSTER
from tests.rig.chaos.invariants import step_in
from tests.rig.chaos.world import Runtime, World, temporary_files
from tests.rig.client import Client
from tests.rig.conftest import missing
from tests.rig.hosts import Rig, RigHost
from tests.rig.image import prepare_image
from tests.rig.machine import wait_for
from tests.rig.places import RigError, cache_folder

GOAL: Final = 15.0
START_SECONDS: Final = 240.0
BROKEN_SECONDS: Final = 120.0
"""A command that takes so long counts as hung."""
LOOK_SECONDS: Final = 0.05
STEPS: Final = 3
"""So many steps of every rank show that the run trains."""
STOPPED_WELL, INTERRUPTED, NOT_EVERYWHERE = 0, 130, 1
Way = Literal["stop", "interrupt"]
WAYS: Final[tuple[Way, ...]] = ("stop", "interrupt")
RUNTIMES: Final[tuple[Runtime, ...]] = ("docker", "process")
# Docker's data on a disk of its own, small enough to fill; the layers of the image stay where they are.
_SMALL_DISK: Final = """
set -e
mkdir -p /srv/small && mount -t tmpfs -o size=128m,mode=755 small /srv/small
cd /var/lib/docker
for each in *; do
    case "$each" in
        shared) mkdir /srv/small/shared && mount --rbind shared /srv/small/shared ;;
        *) cp -a "$each" /srv/small/ ;;
    esac
done
cd / && mount --move /srv/small /var/lib/docker && rmdir /srv/small
"""
_DISK: Final[dict[Runtime, str]] = {"docker": "/var/lib/docker", "process": "/srv/root/.cache"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that trains, and the worker that is harmed."""

    world: World
    client: Client

    @property
    def host(self) -> RigHost:
        """The harmed worker."""
        return self.world.rig.host("h3")

    @property
    def experiments(self) -> Path:
        """Where the client keeps runs."""
        return self.client.folder / "experiments"

    def run_id(self) -> str:
        """Return the id of the newest run the client has begun."""
        newest = RunDir.latest(self.experiments, CLUSTER)
        return newest.run_id if newest else ""

    def trains(self) -> bool:
        """Whether every host's own log holds some steps."""
        run = self.run_id()
        return all(
            sum(step_in(line) is not None for line in self.world.own_log(host, run)) >= STEPS
            for host in self.world.rig.hosts
        )

    def wait_trains(self) -> None:
        """Return when the run trains.

        Raises:
            RigError: it does not.
        """
        wait_for(self.trains, "steps on every host", timeout=START_SECONDS, interval=0.5, detail=self.client.log)

    def signal(self, number: signal.Signals, pids: list[int]) -> None:
        """Send a signal to processes of the harmed worker."""
        if not pids:
            raise RigError(f"nothing there to send {number.name} to")
        self.host.run("kill", f"-{number.name.removeprefix('SIG')}", *map(str, pids))

    def pids(self, *pattern: str) -> list[int]:
        """Return the ids of the harmed worker's processes that ``pgrep`` finds."""
        return [int(pid) for pid in self.host.run("pgrep", *pattern, check=False).stdout.split()]


Heal = Callable[[], object]


@dataclass(frozen=True, slots=True)
class State:
    """What is wrong with a worker while the run is to end."""

    name: str
    harm: Callable[[Stage], Heal]
    """Returns what takes it back."""
    hides: bool = False
    """Whether the worker cannot be asked: then it must be named, and the second stop finishes the job."""
    runtimes: tuple[Runtime, ...] = RUNTIMES


def _healthy(_: Stage) -> Heal:
    return lambda: None


def _cable_out(stage: Stage) -> Heal:
    stage.host.link_down()
    return stage.host.link_up


def _frozen(stage: Stage, pids: list[int]) -> Heal:
    stage.signal(signal.SIGSTOP, pids)

    def thaw() -> None:
        alive = set(stage.pids(".")) & set(pids)  # what ended meanwhile needs no waking
        if alive:
            stage.signal(signal.SIGCONT, sorted(alive))

    return thaw


def _rank_frozen(stage: Stage) -> Heal:
    return _frozen(stage, stage.world.ranks(stage.host))


def _agent_frozen(stage: Stage) -> Heal:
    return _frozen(stage, stage.world.agents(stage.host))


def _engine_frozen(stage: Stage) -> Heal:
    return _frozen(stage, stage.pids("-x", "dockerd|containerd"))


def _sshd_frozen(stage: Stage) -> Heal:
    return _frozen(stage, stage.pids("-x", "sshd"))


def _disk_full(stage: Stage) -> Heal:
    disk = _DISK[stage.world.runtime]
    stage.host.run("sh", "-c", f"cat /dev/zero > {disk}/filler 2>/dev/null; true")
    return lambda: stage.host.run("rm", "-f", f"{disk}/filler")


STATES: Final = (
    State("healthy", _healthy),
    State("cable_out", _cable_out, hides=True),
    State("rank_frozen", _rank_frozen),
    State("agent_frozen", _agent_frozen),
    State("engine_frozen", _engine_frozen, hides=True, runtimes=("docker",)),
    State("sshd_frozen", _sshd_frozen, hides=True),
    State("disk_full", _disk_full),
)


def _ids(runtime: Runtime, way: Way, state: State) -> tuple[str, str]:
    """Return the names of the figures for the end and for the stop after healing."""
    return f"{way}_{runtime}_{state.name}_s", f"{way}_{runtime}_{state.name}_again_s"


def figures(options: Options) -> Iterator[Figure]:
    """Yield two figures for each runtime, state and way to end a run; a quick run shows healthy hosts only."""
    wanted = {
        runtime: [
            (way, state)
            for state in STATES
            for way in WAYS
            if runtime in state.runtimes and options.wants(*_ids(runtime, way, state))
            if not options.quick or state.name == "healthy"
        ]
        for runtime in RUNTIMES
    }
    if reason := missing():
        for runtime, cases in wanted.items():
            yield from (skipped(each, reason, "s") for way, state in cases for each in _ids(runtime, way, state))
        return
    # A shell that starts this in the background has it ignore Ctrl-C, and so would everything that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Rig(hosts=3, image=prepare_image(cache_folder())) as rig:
        for runtime, cases in wanted.items():
            if cases:
                yield from _of_runtime(World(rig, runtime), cases)


def _of_runtime(world: World, cases: list[tuple[Way, State]]) -> Iterator[Figure]:
    world.prepare()
    if world.runtime == "docker" and any(state.name == "disk_full" for _, state in cases):
        _put_on_small_disk(world.rig.host("h3"))
    for way, state in cases:
        with _own_folder() as folder:
            stage = Stage(world, Client(world.rig, folder, world.inventory()))
            try:
                measured = _one(stage, way, state)
            except (AssertionError, RigError, subprocess.TimeoutExpired) as error:
                reason = str(error)[:400]
                measured = tuple(failed(each, reason, "s") for each in _ids(world.runtime, way, state))
            yield from measured
            if any(figure.failed for figure in measured):
                stage.client.run("stop", "--discard", timeout=BROKEN_SECONDS)


def _put_on_small_disk(host: RigHost) -> None:
    host.stop_engine()
    host.run("sh", "-c", _SMALL_DISK)
    host.start_engine()
    host.wait_engine()


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Give a folder for the client, with its temporary files, and nobody else's, in it."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="stop-", dir="/tmp") as folder:
        temporary = Path(folder) / "t"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def _one(stage: Stage, way: Way, state: State) -> tuple[Figure, ...]:
    """Measure one state.

    Raises:
        AssertionError, RigError, subprocess.TimeoutExpired: the run could not be brought so far, or did not end.
    """
    first_id, again_id = _ids(stage.world.runtime, way, state)
    with stage.client.started("up", "--skip-checks", *(["--detach"] if way == "stop" else [])) as up:
        if way == "stop":
            up.wait(timeout=START_SECONDS)
        stage.wait_trains()
        heal = state.harm(stage)
        try:
            taken = _stopped(stage) if way == "stop" else _interrupted(stage, up)
        finally:
            heal()
    first = _judged(first_id, taken, _complaints(stage, state, way, taken))
    taken = _stopped(stage)
    complaints = [] if taken.status == STOPPED_WELL else [f"exited {taken.status}: {taken.said[-400:]}"]
    return first, _judged(again_id, taken, complaints + _leftovers(stage))


@dataclass(frozen=True, slots=True)
class Taken:
    """How a command ended."""

    seconds: float
    waited: float
    """Seconds of these in which its main thread could have run and another process had the core."""
    status: int
    said: str


def _stopped(stage: Stage) -> Taken:
    began = time.monotonic()
    with stage.client.started("stop") as process:
        return _to_the_end(stage, process, began)


def _interrupted(stage: Stage, process: subprocess.Popen[str]) -> Taken:
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    return _to_the_end(stage, process, began)


def _to_the_end(stage: Stage, process: subprocess.Popen[str], began: float) -> Taken:
    """Wait for the end of a command.

    Raises:
        RigError: it hangs.
    """
    before = waited = _waited_for_a_core(process)
    while (status := process.poll()) is None:
        waited = max(waited, _waited_for_a_core(process))
        if time.monotonic() - began > BROKEN_SECONDS:
            raise RigError(f"did not end within {BROKEN_SECONDS:g} s: {stage.client.log()[-400:]}")
        time.sleep(LOOK_SECONDS)
    return Taken(time.monotonic() - began, waited - before, status, stage.client.log())


def _waited_for_a_core(process: subprocess.Popen[str]) -> float:
    """Return the seconds for which a process could have run and did not (Linux, sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0  # it has ended


def _judged(name: str, taken: Taken, complaints: list[str]) -> Figure:
    """Return a figure less the wait for a core: all hosts and the client share one machine, which may be busy."""
    if complaints:
        return failed(name, f"after {taken.seconds:.1f} s: {'; '.join(complaints)}", "s")
    note = f"{taken.seconds:.1f} s by the clock, in {taken.waited:.1f} s of which the command waited for a core"
    return at_most(name, taken.seconds - taken.waited, GOAL, anchor="request to exit of the command", note=note)


def _complaints(stage: Stage, state: State, way: Way, taken: Taken) -> list[str]:
    """Return what is wrong with how the command ended."""
    status, said = taken.status, taken.said
    expected = NOT_EVERYWHERE if state.hides else STOPPED_WELL if way == "stop" else INTERRUPTED
    found = [] if status == expected else [f"exited {status}, not {expected}: {said[-400:]}"]
    if "Traceback" in said:
        found.append(f"a traceback: {said[-1500:]}")
    if state.hides:
        named = f"may still be alive on {stage.host.name}: "
        return found if named in said else [*found, f"{stage.host.name} is not named: {said[-400:]}"]
    return found + _leftovers(stage)


def _leftovers(stage: Stage) -> list[str]:
    """Return what is left on the hosts and at the client."""
    left = stage.world.leftovers() + [str(path) for path in temporary_files(stage.experiments)]
    left += [str(path) for path in (stage.client.folder / "t").iterdir()]
    return [f"left behind: {each}" for each in left]


if __name__ == "__main__":
    sys.exit(main("stop", figures))

"""How soon a run is ended when hosts misbehave: ``python -m benchmarks.stop [--quick] [--json FILE]``.

Real runs on the rig (three machines of Linux namespaces, each with its own sshd and engine). In each state a run
trains, one worker is harmed, and the run is ended by ``hetero-tui stop`` or by Ctrl-C of ``hetero-tui up``. Measured is
what a person waits: from the request to the exit of the command, Python's start included. Whoever could not be reached
must be named. Then the host is healed, ``stop`` is measured again, and nothing may be left anywhere.
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
from tests.rig.chaos.driver import CLUSTER, IDLE_SECONDS
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
                yield from _one(stage, way, state)
            except (AssertionError, RigError, subprocess.TimeoutExpired) as error:
                first, again = _ids(world.runtime, way, state)
                reason = str(error)[:400]
                yield from (failed(first, reason, "s"), failed(again, reason, "s"))
            finally:
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


def _one(stage: Stage, way: Way, state: State) -> Iterator[Figure]:
    with stage.client.started("up", "--skip-checks", *(["--detach"] if way == "stop" else [])) as up:
        if way == "stop":
            up.wait(timeout=START_SECONDS)
        stage.wait_trains()
        heal = state.harm(stage)
        try:
            began = time.monotonic()
            if way == "stop":
                stopped = stage.client.run("stop", timeout=BROKEN_SECONDS)
                status, said = stopped.returncode, stopped.stderr
            else:
                up.send_signal(signal.SIGINT)
                status, said = up.wait(timeout=BROKEN_SECONDS), ""
            first = time.monotonic() - began
            said = said or stage.client.log()
        finally:
            heal()
    complaints = _complaints(stage, state, way, status, said)
    again, complaints_again = _stopped_again(stage)
    complaints_again += _leftovers(stage)
    idle, complaints_idle = _stopped_again(stage)
    first_id, again_id = _ids(stage.world.runtime, way, state)
    yield _judged(first_id, first, idle, complaints)
    yield _judged(again_id, again, idle, complaints_again + complaints_idle)


def _stopped_again(stage: Stage) -> tuple[float, list[str]]:
    """Run ``stop`` on healed hosts; return its seconds and what is wrong with how it ended."""
    began = time.monotonic()
    stopped = stage.client.run("stop", timeout=BROKEN_SECONDS)
    seconds = time.monotonic() - began
    return seconds, [] if stopped.returncode == 0 else [f"exited {stopped.returncode}: {stopped.stderr[-400:]}"]


def _judged(name: str, seconds: float, idle: float, complaints: list[str]) -> Figure:
    """Return a figure beside what a stop costs that has nothing to end: all hosts and the client share one machine."""
    if complaints:
        return failed(name, f"after {seconds:.1f} s: {'; '.join(complaints)}", "s")
    note = f"a stop with nothing to end took {idle:.1f} s beside it; {IDLE_SECONDS:g} s on an idle machine"
    return at_most(name, seconds, GOAL, anchor="request to exit of the command", note=note)


def _complaints(stage: Stage, state: State, way: Way, status: int, said: str) -> list[str]:
    """Return what is wrong with how the command ended."""
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

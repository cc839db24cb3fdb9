"""Rounds of faults over real training through the real command line, and what is checked after each."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from remote.checkpoints import checkpoints_in, newest_good
from remote.run_dir import RunDir
from tests.rig.chaos.away import Away
from tests.rig.chaos.faults import Outcome, Scene, choose, healed
from tests.rig.chaos.invariants import every_line_once, loss_is_continuous, sequences_without_gap, step_in
from tests.rig.chaos.world import World, temporary_files
from tests.rig.client import Client
from tests.rig.machine import wait_for
from tests.rig.places import RigError

ROUNDS_PER_RUN: Final = 12
"""So often the run is stopped and resumed although nothing ended it."""
RECOVERY_SECONDS: Final = 240.0
"""Long, because a rank that starts again imports torch first, which a busy machine takes a minute for."""
STOP_SECONDS: Final = 15.0
"""What a person is promised: every host has ended the run by then."""
IDLE_SECONDS: Final = 2.0
"""What ``stop`` takes where nothing runs, on a machine with nothing else to do; mostly the start of Python."""
CLUSTER: Final = "rig"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be."""

    round: int
    faults: str
    what: str


@dataclass(slots=True)
class Summary:
    """What a series of rounds found."""

    seed: int
    rounds: int = 0
    launches: int = 0
    lines: int = 0
    slowest_stop: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    @property
    def failed_seeds(self) -> list[int]:
        """Each of them alone strikes the same faults: ``--seed SEED --rounds 1``."""
        return sorted({self.seed + each.round for each in self.violations})


class Chaos:
    """One cluster with a client, and faults."""

    def __init__(self, world: World, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        """``folder`` is the client's; ``say`` is told one line a round."""
        self._world = world
        self._client = Client(world.rig, folder, world.inventory())
        self._experiments = folder / "experiments"
        self._say = say
        self._process: subprocess.Popen[str] | None = None
        self._run: RunDir | None = None
        self._last_stop = 0.0
        self.summary = Summary(seed)

    def play(self, rounds: int) -> Summary:
        """Strike ``rounds`` times and return what was found. At the end the run is stopped."""
        in_this_run = 0
        for number in range(rounds):
            if self._run is None:
                self._launch_or_complain(number)
                in_this_run = 0
            began = time.monotonic()
            source = random.Random(self.summary.seed + number)
            found, outcomes = self._round(source)
            in_this_run += 1
            text = "; ".join(outcome.text for outcome in outcomes)
            is_over = found or any(each.ended or each.run_over for each in outcomes) or in_this_run == ROUNDS_PER_RUN
            if is_over or number == rounds - 1:
                found += self._finish()
            self.summary.rounds += 1
            self.summary.violations += [Violation(number, text, each) for each in found]
            verdict = "; ".join(found) or "good"
            seed = self.summary.seed + number
            self._say(f"round {number} (seed {seed}): {text} · {time.monotonic() - began:.1f} s · {verdict}")
        return self.summary

    def _round(self, source: random.Random) -> tuple[list[str], list[Outcome]]:
        assert self._process is not None
        scene = Scene(self._world, self._process, source)
        outcomes: list[Outcome] = []
        with healed(self._world):
            for fault in choose(self._world.runtime, source):
                outcomes.append(fault(scene))
                if outcomes[-1].client_killed:
                    self._watch()
                    scene.client = self._process
                if outcomes[-1].run_over:
                    break
        ended = {host for outcome in outcomes for host in outcome.ended}
        if any(outcome.run_over for outcome in outcomes):
            return self._check(), outcomes
        found = []
        try:
            self._wait_recovered(ended)
        except RigError as error:
            found.append(f"no recovery: {error}")
        return found + self._check(), outcomes

    def play_away(self, away: Away) -> None:
        """Launch, take the client away for a while, let it catch up, stop the run; ``away`` learns what was seen."""
        self._launch()
        assert self._process is not None
        assert self._run is not None
        run_id = self._run.run_id
        before, began = self._newest_steps(), time.time()
        with healed(self._world):
            self._say(away.fault(Scene(self._world, self._process, random.Random(self.summary.seed))).text)
        back = time.monotonic()
        own = {host.name: self._world.own_log(host, run_id) for host in self._world.rig.hosts}
        last = {host: next(step for line in reversed(lines) if (step := step_in(line))) for host, lines in own.items()}
        away.steps_meanwhile = {host: step.step - before[host] for host, step in last.items()}
        wait_for(
            lambda: all(len(kept) >= len(own[host]) for host, kept in self._stored().items()),
            "every line that was missed",
            timeout=RECOVERY_SECONDS,
            interval=0.3,
            detail=self._client.log,
        )
        away.caught_up_after = round(time.monotonic() - back, 1)
        self._wait_recovered(set())
        away.violations += self._check()
        away.judge(self._run, began)
        self._say(self._client.log())
        away.violations += self._finish()
        away.lines = self.summary.lines

    # ------------------------------------------------------------------ the client

    def _launch_or_complain(self, number: int) -> None:
        """Launch; a launch that fails on healthy hosts is a violation, and tried once more.

        Raises:
            AssertionError: it failed again.
        """
        try:
            self._launch()
        except (AssertionError, RigError) as error:
            self.summary.violations.append(Violation(number, "launch on healthy hosts", str(error)[-1500:]))
            self._say(f"launch before round {number} failed: {error}")
            self._end_client()
            self._client.run("stop", "--discard", timeout=120)
            self._launch()

    def _launch(self) -> None:
        for options in (["--resume"], []):
            before = set(RunDir.run_ids(self._experiments, CLUSTER))
            self._start("up", "--skip-checks", *options)
            try:
                self._client.wait_said("kept in", timeout=RECOVERY_SECONDS)
            except AssertionError:
                if options and "there is no good checkpoint" in self._client.log():
                    continue
                raise
            (run_id,) = set(RunDir.run_ids(self._experiments, CLUSTER)) - before
            self._run = RunDir.open(self._experiments, CLUSTER, run_id)
            self.summary.launches += 1
            self._wait_recovered(set())
            return

    def _watch(self) -> None:
        assert self._run is not None
        self._start("watch", "--run", self._run.run_id)

    def _start(self, name: str, *options: str) -> None:
        self._end_client()
        self._starting = self._client.started(name, *options)
        self._process = self._starting.__enter__()

    def _end_client(self) -> None:
        if self._process is not None:
            self._starting.__exit__(None, None, None)
            self._process = None

    def _wait_recovered(self, ended: set[str]) -> None:
        """Wait until new steps of every survivor have reached the client's folder.

        Raises:
            RigError: they have not.
        """
        survivors = {host.name for host in self._world.rig.hosts if host.name not in ended}
        before = self._newest_steps()

        def settled() -> bool:
            if self._process is not None and self._process.poll() is not None:
                return True
            after = self._newest_steps()
            return all(after.get(name, -1) > before.get(name, -1) for name in survivors)

        wait_for(settled, "new steps", timeout=RECOVERY_SECONDS, interval=0.3, detail=self._client.log)
        if self._process is not None and self._process.poll() is not None:
            raise RigError(f"the client ended: {self._client.log()}")

    # ------------------------------------------------------------------ what is known

    def _stored(self) -> dict[str, list[str]]:
        """Return the lines that are kept, host by host."""
        lines: dict[str, list[str]] = {host.name: [] for host in self._world.rig.hosts}
        if self._run is not None:
            for line in self._run.lines():
                lines[line.host].append(line.text)
        return lines

    def _newest_steps(self) -> dict[str, int]:
        newest: dict[str, int] = {}
        for host, lines in self._stored().items():
            for line in reversed(lines):
                if (step := step_in(line)) is not None:
                    newest[host] = step.step
                    break
        return newest

    def _check(self) -> list[str]:
        assert self._run is not None
        stored = self._stored()
        found = []
        for host in self._world.rig.hosts:
            own = self._world.own_log(host, self._run.run_id)
            found += every_line_once(host.name, stored[host.name], own)
            found += sequences_without_gap(host.name, stored[host.name])
        return found + loss_is_continuous(stored)

    # ------------------------------------------------------------------ the end of a run

    def _finish(self) -> list[str]:
        """Stop the run, and check that everything is home and nothing is left."""
        assert self._run is not None
        run, self._run = self._run, self._run
        began = time.monotonic()
        stopped = self._client.run("stop", timeout=120)
        seconds = time.monotonic() - began
        self.summary.slowest_stop = max(self.summary.slowest_stop, seconds)
        found = [] if stopped.returncode == 0 else [f"stop exited {stopped.returncode}: {stopped.stderr[-600:]}"]
        found += self._slowness(seconds)
        if "Traceback" in stopped.stderr + self._client.log():
            found.append(f"a traceback: {stopped.stderr[-1500:]}{self._client.log()[-1500:]}")
        try:
            wait_for(self._client_ended, "end of the client", timeout=40, interval=0.2, detail=self._client.log)
        except RigError as error:
            found.append(str(error))
        self._end_client()
        found += [f"left behind: {each}" for each in self._world.leftovers()]
        found += [f"left behind: {path}" for path in temporary_files(self._experiments)]
        for host, lines in self._stored().items():
            self.summary.lines += len(lines)
            found += sequences_without_gap(host, lines)
        found += _checkpoints_are_good(run)
        self._run = None
        return found

    def _slowness(self, seconds: float) -> list[str]:
        """Hold a stop to its promise, less what all hosts and this program sharing one busy machine costs.

        That is measured, not guessed: another stop has nothing to end, and takes so much longer than it should.
        """
        began = time.monotonic()
        again = self._client.run("stop", timeout=120)
        busy = max(0.0, time.monotonic() - began - IDLE_SECONDS)
        found = [] if again.returncode == 0 else [f"stop again exited {again.returncode}: {again.stderr[-600:]}"]
        if seconds > STOP_SECONDS + busy:
            found.append(f"stop took {seconds:.1f} s, with {busy:.1f} s for a busy machine")
        return found

    def _client_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def _checkpoints_are_good(run: RunDir) -> list[str]:
    """Every checkpoint that came home has its digest's content and loads without running any code."""
    import torch

    folder = run.path / "checkpoints"
    if not checkpoints_in(folder):
        return []
    newest, refused = newest_good(folder)
    found = [f"a checkpoint came home damaged: {reason}" for reason in refused]
    if newest is not None:
        loaded = torch.load(newest.path, map_location="cpu", weights_only=True)
        found += [] if loaded["model"] else [f"{newest.path} holds no model"]
    return found


@contextmanager
def chaos(world: World, folder: Path, seed: int, say: Callable[[str], None]) -> Iterator[Chaos]:
    """Prepare the hosts; end the client whatever happens."""
    world.prepare()
    playing = Chaos(world, folder, seed, say)
    try:
        yield playing
    finally:
        playing._end_client()

"""A person with a ``cluster.toml`` in a folder of their own and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.rig.clusters import PATIENT, TomlValue, cluster_toml, write_cluster
from tests.rig.hosts import Rig
from tests.rig.machine import wait_for
from tests.rig.places import REPOSITORY, RigError
from trainer.events import Event, Step, decode

_EventType = TypeVar("_EventType", bound=Event)
_RUN = "label=hetero-tui.run"


class Client:
    """Runs ``hetero-tui COMMAND cluster.toml`` and looks past it at what the containers wrote."""

    def __init__(self, rig: Rig, folder: Path, text: str = "", **training: TomlValue) -> None:
        """Write the cluster file: ``text``, or one with these keys in its table ``training``."""
        self.rig = rig
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.cluster = write_cluster(folder, text or cluster_toml(rig, training) + PATIENT)

    def _command(self, name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "hetero_tui", name, *options, str(self.cluster)]

    @property
    def _environment(self) -> dict[str, str]:
        # A home of its own: what this machine's ~/.ssh says is no part of the tests.
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.folder)}

    def run(self, name: str, *options: str, timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self._run(self._command(name, *options), timeout)

    def replay(self, run: str) -> str:
        """Play the recording of a run, and return what was printed: one JSON document a line."""
        done = self._run([sys.executable, "-m", "hetero_tui", "replay", "--json", run], 60.0)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def document(self, name: str, *options: str, status: int = 0, timeout: float = 180.0) -> dict[str, Any]:
        """Run a command with ``--json``, expect an exit status, and return what it printed."""
        done = self.run(name, "--json", *options, timeout=timeout)
        assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        parsed: dict[str, Any] = json.loads(done.stdout)
        return parsed

    @contextmanager
    def started(self, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command; its output goes to ``log``. It is dead afterwards."""
        with (self.folder / "client.log").open("w") as log:
            process = subprocess.Popen(
                self._command(name, *options),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        self._process = process
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=60)
            self._process = None

    def log(self) -> str:
        """Return what the command started last has printed."""
        return (self.folder / "client.log").read_text()[-4000:]

    def wait_said(self, text: str, *, timeout: float = 180.0) -> None:
        """Wait until the command started last has printed ``text``."""
        self._wait(lambda: text in self.log(), f"{text!r} on the client's output", timeout)

    def wait_steps(self, host: str, count: int, *, timeout: float = 180.0) -> None:
        """Wait until the rank on a host has made ``count`` steps more than now."""
        before = len(self.steps(host))
        self._wait(lambda: len(self.steps(host)) >= before + count, f"{count} steps on {host}", timeout)

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for a condition, but no longer than the command started last runs."""

        def settled() -> bool:
            return condition() or (self._process is not None and self._process.poll() is not None)

        # Asking costs the cores that train.
        wait_for(settled, what, timeout=timeout, interval=0.3, detail=self.log)
        assert condition(), f"the client ended before {what}:\n{self.log()}"

    def containers(self) -> list[list[str]]:
        """Return the names of all containers, host by host."""
        return [host.containers() for host in self.rig.hosts]

    def written(self, name: str) -> list[str]:
        """Read the log of the run's container on a host; no lines without a container."""
        host = self.rig.host(name)
        found = host.containers(_RUN)
        if not found:
            return []
        assert len(found) == 1, f"{name} has several containers of a run: {found}"
        try:
            return host.docker("logs", found[0]).splitlines()
        except RigError as error:
            # A start that fails takes its containers back; what it says of that is worth more than this.
            if "marked for removal" in str(error) or "No such container" in str(error):
                return []
            raise

    def events(self, name: str, kind: type[_EventType]) -> list[_EventType]:
        """Read the events of one kind from the log of the run's container on a host; none without a container."""
        return [event for event in map(decode, self.written(name)) if isinstance(event, kind)]

    def steps(self, name: str) -> list[Step]:
        """Read the steps of the rank on a host."""
        return self.events(name, Step)

"""The app as it is, on a run whose log lines come from :mod:`benchmarks.monitor_load` through a pipe.

``python -m benchmarks.monitor_app FOLDER ARGUMENTS_OF_THE_LOAD…``: what comes in is written to ``FOLDER`` as a run of
its own is, and goes through the real ingest into the real store.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path

from benchmarks.monitor_load import HOST, host_of
from hetero_tui import garbage
from hetero_tui.app import HeteroApp
from hetero_tui.recording import recorded_store
from hetero_tui.session import CheckInfo, ConfirmHostKey, HostStatus, LaunchProgress
from remote.checks.model import CheckProgress
from remote.inventory import Cluster, Host, Inventory
from remote.local import LocalRunner
from remote.plan import LaunchPlan
from remote.process_runtime import ProcessRuntime
from remote.run_dir import RunDir, new_run_id
from remote.runtime import HostRunState, LogLine, closing


class _LoadRunner(LocalRunner):
    """This machine, where whatever writes a log is the load."""

    def __init__(self, load: tuple[str, ...]) -> None:
        super().__init__(HOST)
        self._command = shlex.join([sys.executable, "-m", "benchmarks.monitor_load", *load])

    def stream(self, command: str) -> AsyncGenerator[bytes, None]:  # noqa: ARG002
        """Start the load."""
        return super().stream(f"exec {self._command}")


class StreamSession:
    """A run that is watched only. Satisfies ``SessionProtocol``."""

    simulated = False
    checks: tuple[CheckInfo, ...] = ()

    def __init__(self, load: tuple[str, ...], folder: Path) -> None:
        """``load`` are the arguments of the load; ``folder`` takes the run."""
        self._load = load
        names = sorted({host_of(rank) for rank in range(int(load[1]))})
        self.inventory = Inventory(cluster=Cluster(name="benchmark"), hosts=tuple(Host(name=name) for name in names))
        self.hosts: Mapping[str, HostStatus] = {name: HostStatus(name, "connected") for name in names}
        self.run_id = new_run_id(time.time)
        self._folder = folder
        self._run_dir = RunDir.create(folder, "benchmark", self.run_id)
        self.store, self._ingest = recorded_store(self._run_dir)
        self._told = os.open(folder / "lines", os.O_CREAT | os.O_WRONLY)
        self.lines = 0

    async def connect(self, confirm: ConfirmHostKey) -> None:
        """Nothing to connect to."""

    async def run_checks(
        self,
        only: frozenset[str] | None = None,  # noqa: ARG002
        hosts: frozenset[str] | None = None,  # noqa: ARG002
    ) -> AsyncIterator[CheckProgress]:
        nothings: tuple[CheckProgress, ...] = ()
        for nothing in nothings:
            yield nothing

    def plan(self) -> LaunchPlan:
        raise NotImplementedError

    async def launch(self, report: Callable[[LaunchProgress], None]) -> None:
        raise NotImplementedError

    async def find_runs(self) -> tuple[HostRunState, ...]:
        return ()

    async def attach(self, run_id: str) -> None:
        """The run is there already."""

    async def follow(self) -> None:
        """Read the load as a host's log is read, keep it and feed the store."""
        async with closing(self._batches()) as batches:
            async for host, lines in batches:
                self.lines += len(lines)
                os.pwrite(self._told, b"%d" % self.lines, 0)
                await self._ingest.feed(host, lines)

    async def _batches(self) -> AsyncGenerator[tuple[str, list[LogLine]], None]:
        runner = _LoadRunner(self._load)
        try:
            if self._load[0] == "lines":
                async for lines in ProcessRuntime(HOST, runner).logs(self.run_id):
                    yield HOST, lines
                return
            pending = b""
            async for chunk in runner.stream(""):
                *complete, pending = (pending + chunk).split(b"\n")
                for each in _by_host(complete).items():
                    yield each
        finally:
            await runner.close()

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        """Nobody listens."""

    async def stop(self, report: Callable[[LaunchProgress], None]) -> None:
        """Nothing to stop."""

    async def close(self) -> None:
        """Write down what came, for the benchmark to compare."""
        self._run_dir.close()
        os.close(self._told)
        counts = {"lines": self.lines, "not_shown": self.store.skipped_lines}
        (self._folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def _by_host(lines: list[bytes]) -> dict[str, list[LogLine]]:
    """Sort lines by their host; a position is where the host's own log would be."""
    found: dict[str, list[LogLine]] = {}
    for line in lines:
        host, _, text = line.decode(errors="replace").partition("\t")
        found.setdefault(host, []).append(LogLine(text, "0"))
    return found


def main() -> None:
    """Run until the terminal is closed or q is pressed."""
    garbage.started()  # as the program does once it has been imported
    folder, *load = sys.argv[1:]
    HeteroApp(StreamSession(tuple(load), Path(folder)), start="monitor", run_ends_with_app=True).run()


if __name__ == "__main__":
    main()

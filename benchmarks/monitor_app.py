"""The app as it is, on a run whose log lines come from :mod:`benchmarks.monitor_load` through a pipe.

``python -m benchmarks.monitor_app FOLDER ARGUMENTS_OF_THE_LOAD…``: what comes in is written to ``FOLDER`` as a run of
its own is, and goes through the real ingest into the real store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.monitor_load import host_of
from hetero_tui.app import HeteroApp
from hetero_tui.ingest import Ingest
from hetero_tui.session import CheckInfo, ConfirmHostKey, HostStatus, LaunchProgress
from hetero_tui.store import Store
from remote.checks.model import CheckProgress
from remote.inventory import Cluster, Host, Inventory
from remote.plan import LaunchPlan
from remote.run_dir import RunDir, new_run_id
from remote.runtime import HostRunState, LogLine

CHUNK_BYTES: Final = 1 << 18


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
        self.store = Store()
        self.run_id = "benchmark"
        self._ingest = Ingest(self.store)
        self._folder = folder
        # A flood goes to a plain file: what the compressed recording costs is its own business.
        self._plain = (folder / "lines.log").open("wb") if load[0] == "lines" else None
        self._run_dir = RunDir.create(folder, "benchmark", new_run_id(time.time))
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
        """Read the load, keep it and feed the store."""
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.monitor_load", *self._load,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, limit=CHUNK_BYTES,
        )  # fmt: skip
        assert load.stdout is not None
        pending = b""
        try:
            while chunk := await load.stdout.read(CHUNK_BYTES):
                *complete, pending = (pending + chunk).split(b"\n")
                if self._plain is not None:
                    self._plain.write(chunk)
                self.lines += len(complete)
                os.pwrite(self._told, b"%d" % self.lines, 0)
                for host, lines in _by_host(complete).items():
                    if self._plain is None:
                        self._run_dir.append(host, lines)
                    await self._ingest.feed(host, lines)
        finally:
            with contextlib.suppress(ProcessLookupError):
                load.kill()
            await load.wait()

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        """Nobody listens."""

    async def stop(self, report: Callable[[LaunchProgress], None]) -> None:
        """Nothing to stop."""

    async def close(self) -> None:
        """Write down what came, for the benchmark to compare."""
        self._run_dir.close()
        os.close(self._told)
        counts = {"lines": self.lines, "not_shown": self.store.skipped_lines, "stored": self.lines}
        if self._plain is not None:
            self._plain.close()
            with (self._folder / "lines.log").open("rb") as stored:
                counts["stored"] = sum(line.endswith(b"\n") for line in stored)
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
    folder, *load = sys.argv[1:]
    HeteroApp(StreamSession(tuple(load), Path(folder)), start="monitor", run_ends_with_app=True).run()


if __name__ == "__main__":
    main()

"""The seam between a launch plan and what executes it on one host: a container or a process group."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

from remote.plan_model import HostPlan
from remote.progress import LaunchProgress

_T = TypeVar("_T")


DETAIL_LENGTH: Final = 2000
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LATEST: Final = 1e11
"""Seconds since the epoch that no clock shows, and that the calendar's arithmetic still bears."""


def checked_run_id(run_id: str) -> str:
    """Return what a host calls a run, which becomes part of paths, commands and messages.

    Raises:
        ValueError: no run of this program has such an id.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"{run_id[:80]!r} is no id of a run")
    return run_id


def checked_time(seconds: float) -> float:
    """Return seconds since the epoch as a host tells them; 0 for what is no time."""
    return seconds if 0 <= seconds < _LATEST else 0.0


class State(StrEnum):
    """Where one host's part of a run stands."""

    MISSING = "missing"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class HostRunState:
    """One host's part of one run."""

    host: str
    run_id: str
    state: State
    exit_code: int | None = None
    out_of_memory: bool = False
    detail: str = ""
    """Anything the engine said, such as why a container could not start."""
    ranks: tuple[int, ...] = ()
    started_at: float = 0.0
    started_by: str = ""
    """Who launched it: ``account@machine``; empty when that was not noted."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file that came home."""

    path: Path
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a host's output folder held and what became of it."""

    host: str
    checkpoints: tuple[Fetched, ...] = ()
    """Whole ones, equal to the digest that the trainer wrote, oldest first."""
    others: tuple[Fetched, ...] = ()
    """What else the run had written, such as a script's own files."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """What was not kept, by name, with the reason: damaged checkpoints, links, devices."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint on this machine whose content matches its digest."""

    path: Path
    step: int
    sha256: str
    size: int
    """Bytes."""


class LogLine(NamedTuple):
    """One line of a host's log. ``position`` after the last handled line resumes without loss or repetition.

    A named tuple, for a hundred thousand may come in a second: a frozen dataclass takes twice as long to make.
    """

    text: str
    position: str
    """Opaque; give it back to ``logs`` to go on behind this line."""
    stream: str = "stdout"


@asynccontextmanager
async def closing(stream: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """End what feeds a stream when its reader stops early, not when the stream is collected as garbage."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


@dataclass(slots=True)
class ControlFiles:
    """Names control messages so that sorting the names gives the order in which they were sent."""

    clock: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch; may stand still or go back between calls."""
    _last: int = 0

    def next(self, message: Mapping[str, object]) -> tuple[str, bytes]:
        """Return file name and content of a message.

        A message with ``sent_ns`` is named after that moment, so that it has the same name on every host.

        Raises:
            ValueError: its ``command`` is not a plain word, or ``sent_ns`` no number of nanoseconds.
        """
        command = message.get("command")
        if not isinstance(command, str) or not re.fullmatch(r"[a-z][a-z_]{0,31}", command):
            raise ValueError(f"not a control message: {message!r}")
        sent = message.get("sent_ns")
        if sent is not None and not (isinstance(sent, int) and 0 <= sent < 10**20):
            raise ValueError(f"not a moment in nanoseconds: {sent!r}")
        if sent is None:
            sent = max(self.clock(), self._last + 1)
        self._last = max(self._last, sent)
        return f"{sent:020d}-{command}.json", json.dumps(dict(message), allow_nan=False).encode()


class HostRuntime(Protocol):
    """Runs one host's part of a plan. ``remote.docker_runtime`` and ``remote.process_runtime`` implement it.

    Everything is addressed by run id, so a new instance of this program can take over an old run.
    """

    @property
    def host(self) -> str: ...

    async def create(self, plan: HostPlan, run_id: str) -> None:
        """Prepare the container; nothing runs yet. It also claims the host for this run of the cluster.

        Raises:
            EngineError: the engine refused, with its reason and what to do.
            HostBusy: another run of the cluster lives here.
        """
        ...

    async def start(self, run_id: str) -> None:
        """Start it. The ranks import torch, say hello and wait for ``go``.

        Raises:
            EngineError: it could not be started (no GPU runtime, no such command, …).
        """
        ...

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        """Drop one JSON message into the run's control folder on this host, for example ``{"command": "go"}``."""
        ...

    async def inspect(self, run_id: str) -> HostRunState: ...

    def logs(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncIterator[list[LogLine]]:
        """Yield batches of lines from the beginning, or behind position ``after``, and follow until it ends.

        With ``follow`` off, stop at what there is now.

        Raises:
            ConnectionDropped: reconnect and call again with the last position.
        """
        ...

    async def place(self, run_id: str, checkpoint: StoredCheckpoint, report: Callable[[LaunchProgress], None]) -> None:
        """Put a checkpoint into a created run's output folder, where ranks that resume look for it.

        Raises:
            EngineError, CommandFailed: it could not be written there.
        """
        ...

    async def end(self, run_id: str, *, grace: float = 10.0) -> None:
        """End the run here, and by that everywhere, and keep all that it left.

        The ranks are told ``stop`` before the signal: all of them stop after the same step and one writes a last
        checkpoint. A signal alone would mean that this host leaves while the others go on.
        """
        ...

    async def fetch(
        self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
    ) -> FetchReport:
        """Bring the output folder home: checkpoints to ``folder/checkpoints``, the rest to ``folder/output/HOST``.

        What the run wrote to a folder of the person's (``training.checkpoint_dir``) stays there.

        Args:
            run_id: which run; it may have ended.
            folder: the run's folder on this machine; made when there is something to put there.
            report: told what is on its way.
            everything: every good checkpoint instead of only the newest.

        Raises:
            ResultsError: no checkpoint is good though there are some; also HostileArchive and NoRoom.
            ConnectionDropped: the connection was lost meanwhile.
        """
        ...

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        """End this run on this host and remove what it left. Harmless when it is already gone."""
        ...

    async def runs(self, cluster: str) -> tuple[HostRunState, ...]:
        """Everything of this cluster that this program started on this host, found by label."""
        ...

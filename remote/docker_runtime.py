"""One host's part of a run as a container."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from remote.answers import understood
from remote.claim import WAYS_OUT, SinceBoot, is_being_launched, occupied_by, since_boot
from remote.container import ContainerSpec, spec_of
from remote.decode_errors import decode
from remote.docker_files import output_archives, place_checkpoint
from remote.docker_logs import LineAssembler, Position
from remote.engine import Engine
from remote.errors import EngineError, HostBusy, PositionLost
from remote.plan_contract import (
    CONTROL_FOLDER,
    LABEL_BY,
    LABEL_CLOCK,
    LABEL_CLUSTER,
    LABEL_HOST,
    LABEL_RANKS,
    LABEL_RUN,
    OUTPUT_FOLDER,
)
from remote.plan_model import HostPlan
from remote.progress import LaunchProgress
from remote.results import Archive, fetch_output
from remote.runtime import (
    DETAIL_LENGTH,
    ControlFiles,
    FetchReport,
    HostRunState,
    LogLine,
    State,
    StoredCheckpoint,
    checked_run_id,
    checked_time,
)
from remote.text import printable

MESSAGE_TIMEOUT: Final = 3.0
"""Seconds for the word that the run is to stop; the signal comes in any case."""
_STATES = {"created": State.CREATED, "exited": State.EXITED, "dead": State.EXITED}
"""The engine's words; running, paused, restarting and removing all still hold the devices."""


@dataclass(slots=True)
class DockerRuntime:
    """Runs the ranks of one host in one container, found by the labels of run and host.

    ``host`` is the inventory name: two hosts of an inventory may share one engine.
    """

    host: str
    engine: Engine
    _control_files: ControlFiles = field(default_factory=ControlFiles)
    _created: dict[str, ContainerSpec] = field(default_factory=dict)
    _placed: dict[str, StoredCheckpoint] = field(default_factory=dict)

    async def create(self, plan: HostPlan, run_id: str) -> None:
        now = await since_boot(self.engine.runner)
        noted = dataclasses.replace(plan, labels=(*plan.labels, (LABEL_CLOCK, str(now)))) if now else plan
        spec = spec_of(noted, run_id)
        container = await self.engine.create(spec)
        self._created[run_id] = spec
        await self._refuse_if_occupied(container, dict(plan.labels).get(LABEL_CLUSTER, ""), now)

    async def _refuse_if_occupied(self, container: str, cluster: str, now: SinceBoot | None) -> None:
        """Look for other runs of the cluster after the own container is there: of two launches, one sees the other.

        Raises:
            HostBusy: another run lives here. Of two launches in the same moment both may be refused, never none.
        """
        own = await self.engine.inspect(container)
        moment = self._created_at(own or {})[0], now
        for summary in await self.engine.list({LABEL_CLUSTER: cluster, LABEL_HOST: self.host}):
            identity, run_id = self._named(summary)
            record = await self.engine.inspect(identity) if identity != container else None
            if record is None:
                continue
            other = self._state_of(run_id or "unknown", record)
            is_waiting = other.state is State.CREATED and not other.detail
            is_launching = is_waiting and is_being_launched(self._created_at(record), moment)
            if other.state is State.RUNNING or is_launching:
                raise HostBusy(occupied_by(other), host=self.host, next_step=WAYS_OUT)

    async def start(self, run_id: str) -> None:
        container = await self._container(run_id)
        try:
            await self.engine.start(container)
        except EngineError as error:
            spec = self._created.get(run_id)
            if spec is None or not _limits_denied(error):
                raise
        else:
            return
        # Rootless and sandboxed engines may not raise limits above their own. Training runs without that too.
        await self.engine.remove(container)
        container = await self.engine.create(dataclasses.replace(spec, raises_limits=False))
        if (placed := self._placed.get(run_id)) is not None:
            await place_checkpoint(self.engine, container, placed, lambda _sent: None)
        await self.engine.start(container)

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        name, data = self._control_files.next(message)
        await self.engine.put_file(await self._container(run_id), f"{CONTROL_FOLDER}/{name}", data)

    async def inspect(self, run_id: str) -> HostRunState:
        container = await self._find(run_id)
        record = await self.engine.inspect(container) if container else None
        if record is None or self._is_being_removed(record):
            return HostRunState(self.host, run_id, State.MISSING)
        return self._state_of(run_id, record)

    async def logs(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncGenerator[list[LogLine], None]:
        container = await self._container(run_id)
        position = after
        # An engine may end a stream that it follows before the container's last messages, so it is asked once more.
        for follows in (True, False) if follow else (False,):
            try:
                async with aclosing(self._lines(container, position, follow=follows)) as batches:
                    async for lines in batches:
                        position = lines[-1].position
                        yield lines
            except EngineError:
                # Whoever stopped the run may be removing its container, or has: nothing is left to read.
                if follows or not await self._is_going(container):
                    raise

    async def _is_going(self, container: str) -> bool:
        """Whether a container is gone or being removed."""
        record = await self.engine.inspect(container)
        return record is None or self._is_being_removed(record)

    async def _lines(self, container: str, after: str, *, follow: bool) -> AsyncGenerator[list[LogLine], None]:
        try:
            position = Position.parse(after) if after else None
            since = position.since if position else ""
        except ValueError as error:
            raise PositionLost(after, host=self.host) from error
        assembler = LineAssembler(position)
        async with self.engine.logs(container, since=since, follow=follow) as batches:
            async for frames in batches:
                if lines := assembler.feed(frames):
                    yield lines
        if lines := assembler.finish():
            yield lines

    async def place(self, run_id: str, checkpoint: StoredCheckpoint, report: Callable[[LaunchProgress], None]) -> None:
        self._placed[run_id] = checkpoint

        def sent(count: int) -> None:
            if count % (64 << 20) == 0 or count == checkpoint.size:
                detail = f"sending {checkpoint.path.name}, {count / 1e6:.1f} of {checkpoint.size / 1e6:.1f} MB sent"
                report(LaunchProgress(self.host, "created", detail))

        await place_checkpoint(self.engine, await self._container(run_id), checkpoint, sent)

    async def fetch(
        self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
    ) -> FetchReport:
        container = await self._container(run_id)
        record = await self.engine.inspect(container) or {}
        with self._understood():
            mounted = [mount.get("Destination") for mount in record.get("Mounts") or () if _is_bind(mount)]
        if OUTPUT_FOLDER in mounted:
            return FetchReport(self.host)

        def archives(whole: bool) -> AsyncGenerator[Archive, None]:
            return output_archives(self.engine, container, whole=whole)

        return await fetch_output(archives, self.host, folder, report, everything=everything)

    async def end(self, run_id: str, *, grace: float = 10.0) -> None:
        container = await self._own(run_id)
        if container is None:
            return
        # A container that has just ended takes no message, and one with a full disk neither. By the signal alone its
        # ranks leave the run one host after the other, and the last one writes the checkpoint.
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(MESSAGE_TIMEOUT):
                await self.control(run_id, {"command": "stop"})
        await self.engine.stop(container, grace=grace)

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        container = await self._own(run_id)
        if container is None:
            return
        await self.engine.stop(container, grace=grace)
        await self.engine.remove(container)

    async def _own(self, run_id: str) -> str | None:
        """Return the container of a run, with a second look at its labels: what is ended must be this run's.

        Raises:
            EngineError: the engine gave another run's.
        """
        container = await self._find(run_id)
        if container is None:
            return None
        record = await self.engine.inspect(container)
        if record is None:
            return None
        with self._understood():
            labels = (record.get("Config") or {}).get("Labels") or {}
            is_own = labels.get(LABEL_RUN) == run_id and labels.get(LABEL_HOST) == self.host
        if not is_own:
            raise EngineError(
                f"container {container[:12]} does not carry the labels of run {run_id}: left alone", host=self.host
            )
        return container

    async def runs(self, cluster: str) -> tuple[HostRunState, ...]:
        found = await self.engine.list({LABEL_CLUSTER: cluster, LABEL_HOST: self.host})
        states = []
        for summary in found:
            identity, run_id = self._named(summary)
            record = await self.engine.inspect(identity) if run_id else None
            if record is not None:
                states.append(self._state_of(run_id, record))
        return tuple(sorted(states, key=lambda state: state.started_at))

    async def _find(self, run_id: str) -> str | None:
        """Return the id of this host's container of a run."""
        found = await self.engine.list({LABEL_RUN: run_id, LABEL_HOST: self.host})
        return self._named(found[0])[0] if found else None

    def _understood(self) -> AbstractContextManager[None]:
        return understood(self.host, "docker inspect", EngineError)

    def _named(self, summary: Mapping[str, Any]) -> tuple[str, str]:
        """Return a container's id and the id of its run, which is empty where it has none."""
        with self._understood():
            return str(summary["Id"]), str((summary.get("Labels") or {}).get(LABEL_RUN) or "")

    def _state_of(self, run_id: str, record: Mapping[str, Any]) -> HostRunState:
        with self._understood():
            return _state_of(self.host, run_id, record)

    def _created_at(self, record: Mapping[str, Any]) -> tuple[float, SinceBoot | None]:
        with self._understood():
            labels = (record.get("Config") or {}).get("Labels") or {}
            return _seconds(str(record.get("Created") or "")), SinceBoot.parse(str(labels.get(LABEL_CLOCK) or ""))

    def _is_being_removed(self, record: Mapping[str, Any]) -> bool:
        with self._understood():
            return _is_being_removed(record)

    async def _container(self, run_id: str) -> str:
        container = await self._find(run_id)
        if container is None:
            raise EngineError(
                f"there is no container of run {run_id}",
                host=self.host,
                next_step=f"docker ps -a --filter label={LABEL_RUN} on that host shows what is there",
            )
        return container


def _limits_denied(error: EngineError) -> bool:
    decoded = decode(error.message)
    return decoded is not None and decoded.name == "limit-denied"


def _state_of(host: str, run_id: str, record: Mapping[str, Any]) -> HostRunState:
    engine_state = record.get("State") or {}
    state = _STATES.get(str(engine_state.get("Status")), State.RUNNING)
    labels = (record.get("Config") or {}).get("Labels") or {}
    detail = str(engine_state.get("Error") or "")
    decoded = decode(detail) if detail else None
    return HostRunState(
        host=host,
        run_id=checked_run_id(run_id),
        state=state,
        exit_code=int(engine_state.get("ExitCode") or 0) if state is State.EXITED else None,
        out_of_memory=bool(engine_state.get("OOMKilled")),
        detail=printable(f"{decoded.cause}: {detail}" if decoded else detail, DETAIL_LENGTH),
        ranks=tuple(int(rank) for rank in str(labels.get(LABEL_RANKS) or "").split(",") if rank.isdecimal()),
        started_at=checked_time(_seconds(str(engine_state.get("StartedAt") or ""))),
        started_by=printable(str(labels.get(LABEL_BY) or "")),
    )


def _is_being_removed(record: Mapping[str, Any]) -> bool:
    """Whether a container is on its way out: what it has written is no longer to be had.

    The engine's word is ``dead`` where it could not finish a removal.
    """
    return (record.get("State") or {}).get("Status") in ("removing", "dead")


def _is_bind(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "bind"


def _seconds(stamp: str) -> float:
    """Return the engine's RFC 3339 stamp as seconds since the epoch; 0 for its zero time, the year 1."""
    if not stamp or stamp.startswith("0001-"):
        return 0.0
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(f"{seconds}+00:00")
    return moment.timestamp() + float(f"0.{fraction or 0}")

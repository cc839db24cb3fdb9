"""One host's part of a run as a container."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from remote.container import ContainerSpec, spec_of
from remote.decode_errors import decode
from remote.docker_logs import LineAssembler, Position
from remote.engine import Engine
from remote.errors import EngineError
from remote.plan_contract import CONTROL_FOLDER, LABEL_CLUSTER, LABEL_HOST, LABEL_RANKS, LABEL_RUN
from remote.plan_model import HostPlan
from remote.runtime import ControlFiles, HostRunState, LogLine, State

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

    async def create(self, plan: HostPlan, run_id: str) -> None:
        spec = spec_of(plan, run_id)
        await self.engine.create(spec)
        self._created[run_id] = spec

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
        await self.engine.start(await self.engine.create(dataclasses.replace(spec, raises_limits=False)))

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        name, data = self._control_files.next(message)
        await self.engine.put_file(await self._container(run_id), f"{CONTROL_FOLDER}/{name}", data)

    async def inspect(self, run_id: str) -> HostRunState:
        container = await self._find(run_id)
        record = await self.engine.inspect(container) if container else None
        if record is None:
            return HostRunState(self.host, run_id, State.MISSING)
        return _state_of(self.host, run_id, record)

    async def logs(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncGenerator[list[LogLine], None]:
        container = await self._container(run_id)
        position = after
        # An engine may end a stream that it follows before the container's last messages, so it is asked once more.
        for follows in (True, False) if follow else (False,):
            async with aclosing(self._lines(container, position, follow=follows)) as batches:
                async for lines in batches:
                    position = lines[-1].position
                    yield lines

    async def _lines(self, container: str, after: str, *, follow: bool) -> AsyncGenerator[list[LogLine], None]:
        position = Position.parse(after) if after else None
        assembler = LineAssembler(position)
        since = position.since if position else ""
        async with self.engine.logs(container, since=since, follow=follow) as batches:
            async for frames in batches:
                if lines := assembler.feed(frames):
                    yield lines
        if lines := assembler.finish():
            yield lines

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        container = await self._find(run_id)
        if container is None:
            return
        record = await self.engine.inspect(container)
        if record is None:
            return
        labels = (record.get("Config") or {}).get("Labels") or {}
        if labels.get(LABEL_RUN) != run_id or labels.get(LABEL_HOST) != self.host:
            raise EngineError(
                f"container {container[:12]} does not carry the labels of run {run_id}: left alone", host=self.host
            )
        await self.engine.stop(container, grace=grace)
        await self.engine.remove(container)

    async def runs(self, cluster: str) -> tuple[HostRunState, ...]:
        found = await self.engine.list({LABEL_CLUSTER: cluster, LABEL_HOST: self.host})
        states = []
        for summary in found:
            run_id = (summary.get("Labels") or {}).get(LABEL_RUN)
            record = await self.engine.inspect(str(summary["Id"])) if run_id else None
            if record is not None:
                states.append(_state_of(self.host, str(run_id), record))
        return tuple(sorted(states, key=lambda state: state.started_at))

    async def _find(self, run_id: str) -> str | None:
        """Return the id of this host's container of a run."""
        found = await self.engine.list({LABEL_RUN: run_id, LABEL_HOST: self.host})
        return str(found[0]["Id"]) if found else None

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
        run_id=run_id,
        state=state,
        exit_code=int(engine_state.get("ExitCode") or 0) if state is State.EXITED else None,
        out_of_memory=bool(engine_state.get("OOMKilled")),
        detail=f"{decoded.cause}: {detail}" if decoded else detail,
        ranks=tuple(int(rank) for rank in str(labels.get(LABEL_RANKS) or "").split(",") if rank.isdigit()),
        started_at=_seconds(str(engine_state.get("StartedAt") or "")),
    )


def _seconds(stamp: str) -> float:
    """Return the engine's RFC 3339 stamp as seconds since the epoch; 0 for its zero time, the year 1."""
    if not stamp or stamp.startswith("0001-"):
        return 0.0
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(f"{seconds}+00:00")
    return moment.timestamp() + float(f"0.{fraction or 0}")

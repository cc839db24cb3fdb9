"""A run's log, from every host into the store and the run's folder, until it has ended everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hetero_tui.formats import duration
from hetero_tui.ingest import Ingest
from hetero_tui.progress_watch import watch_progress
from hetero_tui.store import Store
from remote.decode_errors import decode_exit
from remote.errors import RemoteError
from remote.inventory import Limits
from remote.run_dir import RunDir
from remote.runtime import HostRunState, HostRuntime, State, closing
from remote.stream import follow
from remote.text import one_line

if TYPE_CHECKING:
    from remote.hosts import Hosts


@dataclass(slots=True)
class Following:
    """Follows one run and names every end. Several may follow the same run; only one writes its folder."""

    hosts: Hosts
    run_dir: RunDir
    store: Store
    ingest: Ingest
    limits: Limits
    elastic: bool
    """Whether the run goes on without a host; otherwise the first bad end ends it everywhere."""
    readonly: bool = False
    _bad: set[str] = field(default_factory=set)
    _lost: dict[str, float] = field(default_factory=dict)
    """Since when a host is out of contact, on the monotonic clock."""

    async def to_the_end(self, names: Sequence[str], positions: Mapping[str, str]) -> None:
        """Follow every host to its end; a lost host is given up once the ranks on all others have ended without it.

        Args:
            names: the hosts of the run.
            positions: behind which line to begin, by host; from the beginning where there is none.

        Raises:
            HostKeyChanged: also the other refusals where trying again cannot help.
            RunDirError: another instance of this program writes the run's folder.
        """
        following = {name: asyncio.create_task(self._one(name, positions.get(name, ""))) for name in names}

        def is_heard() -> bool:
            return any(name not in self._lost for name, task in following.items() if not task.done())

        patience = self.limits.no_progress_seconds
        watching = asyncio.create_task(watch_progress(self.store, patience, is_heard=is_heard))
        try:
            await self._until_ended(following)
        finally:
            tasks = [*following.values(), watching]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_ended(self, following: Mapping[str, asyncio.Task[None]]) -> None:
        pending = set(following.values())
        told_to_end = False
        while pending:
            must_end = bool(self._bad) and not self.elastic and not self.readonly and not told_to_end
            patience = self.limits.lost_host_seconds if len(pending) < len(following) else None
            done, pending = await asyncio.wait(
                pending,
                timeout=self.limits.stop_seconds if must_end else patience,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                task.result()
            waited_for = [name for name, task in following.items() if task in pending]
            if done:
                continue
            if must_end:
                told_to_end = True
                await asyncio.gather(*(self._end(name) for name in waited_for))
                continue
            statuses = self.hosts.statuses
            if all(statuses[name].phase != "connected" for name in waited_for):
                for name in waited_for:
                    self.store.note("given up: the run has ended everywhere else", "error", host=name)
                return

    async def _one(self, name: str, after: str) -> None:
        def told(change: str, detail: str) -> None:
            if change == "again":
                away = time.monotonic() - self._lost.pop(name)
                self.store.note(f"in contact again after {duration(away)}; reading what was missed", host=name)
                return
            self._lost[name] = time.monotonic()
            is_reached = self.hosts.statuses[name].phase == "connected"
            text = lost_text(detail, is_reached=is_reached, runtime=self.hosts.inventory.host(name).runtime)
            self.store.note(text, "error", host=name)

        run_id = self.run_dir.run_id
        async for lines in follow(run_id, lambda: self.hosts.runtime(name), after=after, report=told):
            await self.ingest.feed(name, lines)
        await self._tell_end(name)

    async def _tell_end(self, name: str) -> None:
        """Name a bad end with its cause."""
        try:
            state = await (await self.hosts.runtime(name)).inspect(self.run_dir.run_id)
        except (RemoteError, TimeoutError, OSError) as error:
            self.store.note(f"cannot tell how it ended: {one_line(error)}", "warning", host=name)
            return
        if cause := why_ended(state):
            self._bad.add(name)
            self.store.note(f"ended: {cause}", "error", host=name)
            self.store.note_launch(name, "failed")

    async def _end(self, name: str) -> None:
        """End the ranks of a host in a run that cannot go on; what they left stays until it is brought home."""
        why = f"the run cannot go on without {', '.join(sorted(self._bad))}, and it is not elastic"
        try:
            runtime = await self.hosts.runtime(name)
            self.store.note(f"ending the ranks: {why}", "warning", host=name)
            await runtime.end(self.run_dir.run_id, grace=self.limits.stop_seconds)
        except (RemoteError, TimeoutError, OSError) as error:
            self.store.note(f"could not be ended: {one_line(error)}", "error", host=name)


async def catch_up(
    run_id: str, runtimes: Mapping[str, HostRuntime], store: Store, ingest: Ingest, positions: Mapping[str, str]
) -> dict[str, str]:
    """Feed once what the hosts have told of a run by now, behind ``positions``, and return those behind it.

    What cannot be read from a host is noted: the run may have lost it and go on.
    """
    behind = dict(positions)

    async def one(name: str, runtime: HostRuntime) -> None:
        try:
            async with closing(runtime.logs(run_id, behind.get(name, ""), follow=False)) as batches:
                async for lines in batches:
                    await ingest.feed(name, lines)
                    behind[name] = lines[-1].position if lines else behind.get(name, "")
        except (RemoteError, TimeoutError, OSError) as error:
            store.note(f"cannot tell what the ranks said there: {one_line(error)}", "warning", host=name)

    async with asyncio.TaskGroup() as tasks:
        for name, runtime in runtimes.items():
            tasks.create_task(one(name, runtime))
    return behind


def lost_text(detail: str, *, is_reached: bool, runtime: str) -> str:
    """Return in words what was lost: the host, its engine, or only the stream. Training may go on in each case."""
    what = "host unreachable"
    if is_reached:
        what = "its engine is gone" if runtime == "docker" else "its log broke off"
    return f"no contact: {what}; training may go on there; trying again every few seconds ({detail})"


def why_ended(state: HostRunState) -> str:
    """Return in words why a host's part of a run ended badly; empty when it ended well or has not ended."""
    if state.state is State.MISSING:
        return "nothing of the run is there any more: somebody removed it"
    if state.state is not State.EXITED or state.exit_code == 0:
        return ""
    if state.exit_code is None:
        return state.detail or "it ended without a trace"
    decoded = decode_exit(state.exit_code, out_of_memory=state.out_of_memory)
    cause = decoded.cause if decoded else f"exited {state.exit_code}"
    return f"{cause} ({state.detail})" if state.detail else cause

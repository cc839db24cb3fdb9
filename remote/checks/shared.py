"""What several checks do alike: find a value out once, reach a host from this machine by hand, judge facts."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from remote.checks.model import Finding, Probe, skip
from remote.inventory import Host

if TYPE_CHECKING:
    from remote.checks.context import CheckContext

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def between_hosts(probe: Probe) -> Probe:
    """Ask only where there are several hosts: what lies between them does not apply to one."""

    async def of_several(context: CheckContext, hosts: tuple[str, ...], /) -> Mapping[str, Finding]:
        if len(context.host_names) == 1:
            return dict.fromkeys(hosts, skip("one host only"))
        return await probe(context, hosts)

    return of_several


def destination(host: Host) -> str:
    """Return what ``ssh`` and ``rsync`` call the host: ``user@address``, or its alias in ``~/.ssh/config``."""
    return f"{host.user}@{host.ssh_address}" if host.user else host.ssh_address


def over_ssh(host: Host, command: str) -> str:
    """Return a shell line that runs ``command`` on the host, typed on this machine."""
    if host.is_local:
        return command
    port = f" -p {host.port}" if host.port else ""
    jump = f" -J {shlex.quote(host.jump_host)}" if host.jump_host else ""
    return f"ssh{port}{jump} {shlex.quote(destination(host))} {shlex.quote(command)}"


class Shared(Generic[K, V]):
    """Computes a value once for each key and gives it (or what was raised) to everyone who asks."""

    def __init__(self, compute: Callable[[K], Awaitable[V]]) -> None:
        self._compute = compute
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Return the value of ``key``; a caller who gives up does not stop the others' waiting."""
        task = self._tasks.get(key)
        if task is None or task.cancelled():
            task = asyncio.create_task(self._run(key))
            self._tasks[key] = task
        return await asyncio.shield(task)

    async def _run(self, key: K) -> V:
        return await self._compute(key)

    def ready(self, key: K) -> V | None:
        """Return the value if it is there, else None."""
        task = self._tasks.get(key)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def forget(self, key: K) -> None:
        """Drop the value of ``key``; the next ``get`` computes it afresh."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        """End what is still being computed; what is there stays."""
        running = [(key, task) for key, task in self._tasks.items() if not task.done()]
        for key, task in running:
            del self._tasks[key]
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        # A failure nobody waited for any more has been told by its check; asking for it keeps asyncio quiet.
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.exception()

"""The output of all ranks of a run, merged as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Final

from hetero_tui.ingest import Ingest
from hetero_tui.store import Store
from hetero_tui.views import LogRecord
from remote.run_dir import RunDir
from remote.runtime import HostRuntime, State

WAITING_LINES: Final = 1000
"""Lines that may wait for their reader before the hosts are made to wait."""


class _Reader:
    """Turns lines of hosts into records."""

    def __init__(self) -> None:
        self._store = Store(every_line=True)
        self._ingest = Ingest(self._store)

    def records(self, host: str, text: str, stream: str) -> Iterator[LogRecord]:
        before = self._store.log.next
        self._ingest.feed_line(host, text, stream)
        for number in range(before, self._store.log.next):
            yield self._store.log[number]


def stored_log(run_dir: RunDir) -> Iterator[LogRecord]:
    """Yield the output that is kept in a run's folder."""
    reader = _Reader()
    for line in run_dir.lines():
        yield from reader.records(line.host, line.text, line.stream)


async def merged_log(
    stored: RunDir | None,
    names: Sequence[str],
    runtime: Callable[[str], Awaitable[HostRuntime]],
    run_id: str,
    *,
    go_on: bool,
) -> AsyncGenerator[LogRecord, None]:
    """Yield the output of all ranks of a run from its beginning, merged as it arrives.

    Args:
        stored: the run's folder on this machine; of a run that has ended it holds everything, and no host is asked.
        names: the hosts.
        runtime: returns what runs things on a host.
        run_id: which run.
        go_on: follow until the run has ended, instead of stopping at what there is now.

    Raises:
        RemoteError: a host could not be asked.
    """
    if stored is not None and stored.read_ended() is not None:
        for record in stored_log(stored):
            yield record
        return
    arrived: asyncio.Queue[LogRecord] = asyncio.Queue(maxsize=WAITING_LINES)
    reader = _Reader()

    async def read(name: str) -> None:
        host = await runtime(name)
        if (await host.inspect(run_id)).state is State.MISSING:
            return
        async for lines in host.logs(run_id, follow=go_on):
            for line in lines:
                for record in reader.records(name, line.text, line.stream):
                    await arrived.put(record)

    readers = asyncio.gather(*(read(name) for name in names))
    try:
        while not (readers.done() and arrived.empty()):
            waiting = asyncio.ensure_future(arrived.get())
            await asyncio.wait((waiting, readers), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
        await readers
    finally:
        readers.cancel()
        await asyncio.gather(readers, return_exceptions=True)  # no reader outlives the one it reads for

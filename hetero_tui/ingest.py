"""From the hosts' log lines to the store, in portions small enough that keys stay quick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from hetero_tui.store import Store
from trainer.events import EventError, decode

if TYPE_CHECKING:
    from remote.runtime import LogLine

BATCH_LINES: Final = 500
BATCH_SECONDS: Final = 0.005


class Ingest:
    """Feeds one store. A line that can not be read is counted and shown, never raised."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """``clock`` returns seconds; it decides when to let others run."""
        self._store = store
        self._clock = clock

    async def feed(self, host: str, lines: Iterable[LogLine]) -> None:
        """Take in a batch of lines of one host, yielding to the event loop as time goes by."""
        started = self._clock()
        count = 0
        for line in lines:
            self.feed_line(host, line.text, line.stream)
            count += 1
            if count >= BATCH_LINES or self._clock() - started > BATCH_SECONDS:
                await asyncio.sleep(0)
                started = self._clock()
                count = 0

    def feed_line(self, host: str, text: str, stream: str = "stdout") -> None:
        """Take in one line."""
        try:
            event = decode(text)
        except EventError as error:
            self._store.feed_broken(host, text, str(error))
            return
        if event is None:
            self._store.feed_line(host, text, stream)
        else:
            self._store.feed(host, event)

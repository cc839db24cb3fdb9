"""From the hosts' log lines to the store, in portions small enough that keys stay quick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from hetero_tui.store import Store
from trainer.events import EventError, decode

if TYPE_CHECKING:
    from remote.runtime import LogLine

BATCH_LINES: Final = 500
BATCH_SECONDS: Final = 0.005


class Ingest:
    """Feeds one store. A line that can not be read is counted and shown, never raised."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.perf_counter,
        keep: Callable[[str, Sequence[LogLine], float], None] | None = None,
        held: Callable[[], AbstractContextManager[float]] = lambda: nullcontext(0.0),
    ) -> None:
        """``clock`` returns seconds; it decides when to let others run.

        ``keep`` is given each host, each portion of its lines and the time they were taken in, in exactly the order in
        which the store took them in. ``held`` lets the store's clock stand still for a portion and tells its time.
        """
        self._store = store
        self._clock = clock
        self._keep = keep
        self._held = held

    async def feed(self, host: str, lines: Sequence[LogLine]) -> None:
        """Take in a batch of lines of one host, yielding to the event loop as time goes by."""
        begin = 0
        while begin < len(lines):
            with self._held() as at:
                end = self._feed_portion(host, lines, begin)
                if self._keep is not None:
                    self._keep(host, lines[begin:end], at)
            begin = end
            await asyncio.sleep(0)

    def _feed_portion(self, host: str, lines: Sequence[LogLine], begin: int) -> int:
        started = self._clock()
        for at in range(begin, min(begin + BATCH_LINES, len(lines))):
            self.feed_line(host, lines[at].text, lines[at].stream)
            if self._clock() - started > BATCH_SECONDS:
                return at + 1
        return min(begin + BATCH_LINES, len(lines))

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

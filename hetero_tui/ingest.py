"""From the hosts' log lines to the store, in portions small enough that keys stay quick."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from hetero_tui.store import Store
from trainer.events import EventError, decode

if TYPE_CHECKING:
    from remote.runtime import LogLine

EVENT_START: Final = '{"ht":'
RELAYED: Final = '{"ht":1,"kind":"output","rank":-1,"seq":'
"""How a line of output that an agent relays begins, as ``trainer.events.encode`` writes it."""
NUMBER: Final = re.compile(re.escape(RELAYED) + r"(\d{1,18}),")
BATCH_LINES: Final = 2_000
CLOCK_LINES: Final = 16
"""How many lines are taken in between two looks at the clock."""
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
        store = self._store
        end = min(begin + BATCH_LINES, len(lines))
        skipped, last = 0, ""
        for at in range(begin, end):
            text = lines[at].text
            if (text.startswith(RELAYED) or not text.startswith(EVENT_START)) and not store.has_room():
                # A relayed line has a number, plain output has none.
                if skipped and text.startswith(RELAYED) != last.startswith(RELAYED):
                    self._skip(host, skipped, last)
                    skipped = 0
                skipped, last = skipped + 1, text
            else:
                if skipped:
                    self._skip(host, skipped, last)
                    skipped = 0
                self._take(host, text, lines[at].stream)
            if at % CLOCK_LINES == 0 and self._clock() - started > BATCH_SECONDS:
                end = at + 1
                break
        if skipped:
            self._skip(host, skipped, last)
        return end

    def _skip(self, host: str, count: int, last: str) -> None:
        """Count lines in a row that are not looked at; of relayed ones the last tells how many there should be."""
        number = NUMBER.match(last)
        self._store.skip_output(host, count, int(number[1]) if number else None)

    def feed_line(self, host: str, text: str, stream: str = "stdout") -> None:
        """Take in one line. Output that comes faster than it can be shown is counted and not looked at."""
        if (text.startswith(RELAYED) or not text.startswith(EVENT_START)) and not self._store.has_room():
            self._skip(host, 1, text)
        else:
            self._take(host, text, stream)

    def _take(self, host: str, text: str, stream: str) -> None:
        try:
            event = decode(text)
        except EventError as error:
            self._store.feed_broken(host, text, str(error))
            return
        if event is None:
            self._store.feed_line(host, text, stream)
        else:
            self._store.feed(host, event)

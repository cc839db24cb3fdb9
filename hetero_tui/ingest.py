"""From the hosts' log lines to the store, in portions small enough that keys stay quick."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from hetero_tui.step_rows import STEP_START, step_rows
from hetero_tui.store import Store
from trainer.events import MAX_EVENT_BYTES, EventError, decode

if TYPE_CHECKING:
    from remote.runtime import LogLine

EVENT_START: Final = '{"ht":'
RELAYED: Final = '{"ht":1,"kind":"output","rank":-1,"seq":'
"""How a line of output that an agent relays begins, as ``trainer.events.encode`` writes it."""
NUMBER: Final = re.compile(re.escape(RELAYED) + r"(\d{1,18}),")
BATCH_LINES: Final = 2_000
CLOCK_LINES: Final = 16
"""How many lines are shown between two looks at the clock."""
BATCH_SECONDS: Final = 0.005
STEPS_AT_ONCE: Final = 64
FEWEST_STEPS: Final = 4
"""Steps in a row from which on they are read together."""


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

    def feed_texts(self, host: str, texts: Sequence[str], stream: str = "stdout") -> None:
        """Take in lines of one stream that came at one time."""
        at = 0
        while at < len(texts):
            if steps := self._feed_steps(host, texts, at):
                at += steps
                continue
            self.feed_line(host, texts[at], stream)
            at += 1

    def _feed_portion(self, host: str, lines: Sequence[LogLine], begin: int) -> int:
        started = self._clock()
        texts = [line.text for line in lines[begin : begin + BATCH_LINES]]
        taken, at = 0, 0
        while at < len(texts):
            text = texts[at]
            if _is_output(text) and not self._store.has_room():
                at = self._skip_output(host, texts, at)
                continue
            if not (steps := self._feed_steps(host, texts, at)):
                self._take(host, text, lines[begin + at].stream)
            at += steps or 1
            taken += 1
            if (steps or taken % CLOCK_LINES == 0) and self._clock() - started > BATCH_SECONDS:
                break
        return begin + at

    def _feed_steps(self, host: str, texts: Sequence[str], begin: int) -> int:
        """Take in the steps that begin there, if there are several, and return how many."""
        end = begin
        while end < len(texts) and end - begin < STEPS_AT_ONCE and _is_step(texts[end]):
            end += 1
        if end - begin < FEWEST_STEPS:
            return 0
        rows = step_rows(texts[begin:end])
        if rows is None:
            for text in texts[begin:end]:
                self._take(host, text, "stdout")
            return end - begin
        while rows:
            done = self._store.feed_steps(host, rows)
            for row in rows[done : done + 1]:
                self._store.feed(host, row.event())
            rows = rows[done + 1 :]
        return end - begin

    def _skip_output(self, host: str, texts: Sequence[str], begin: int) -> int:
        """Count the output up to the next event without looking at it; return where that is.

        There is no room now, and within a portion, whose time stands still, none is made.
        """
        relayed, last, at = 0, "", begin
        for at in range(begin, len(texts)):
            text = texts[at]
            if text.startswith(RELAYED):
                relayed, last = relayed + 1, text
            elif text.startswith(EVENT_START):
                break
        else:
            at = len(texts)
        if relayed:
            self._skip(host, relayed, last)
        if at - begin > relayed:
            self._skip(host, at - begin - relayed, "")
        return at

    def _skip(self, host: str, count: int, last: str) -> None:
        """Count lines that are not shown; of relayed ones the last tells how many there should be."""
        number = NUMBER.match(last)
        self._store.skip_output(host, count, int(number[1]) if number else None)

    def feed_line(self, host: str, text: str, stream: str = "stdout") -> None:
        """Take in one line. Output that comes faster than it can be shown is counted and not looked at."""
        if _is_output(text) and not self._store.has_room():
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


def _is_output(text: str) -> bool:
    """Tell what somebody printed from what a rank tells; output that comes too fast can go unseen."""
    return text.startswith(RELAYED) or not text.startswith(EVENT_START)


def _is_step(text: str) -> bool:
    return text.startswith(STEP_START) and len(text) <= MAX_EVENT_BYTES

"""Plays a recording into a store in its own time: faster, slower, paused, from any step. No Textual here."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from hetero_tui.ingest import BATCH_LINES, BATCH_SECONDS, Ingest
from hetero_tui.recording import apply_record, record_time
from hetero_tui.store import Store

SPEEDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
AS_FAST_AS_POSSIBLE: Final = math.inf
NAP_SECONDS: Final = 0.05
_STEP: Final = re.compile(r'^\{"ht":\d+,"kind":"step",.*?"step":(\d{1,18})\b')

Record = Mapping[str, Any]


def step_of(record: Record) -> int | None:
    """Return the optimizer step that a record tells of, or None."""
    line = record.get("line")
    found = _STEP.match(line) if isinstance(line, str) else None
    return int(found[1]) if found else None


class Playback:
    """One recording and the store it has filled up to the present position.

    Positions are seconds since the epoch, as recorded. Going back begins again with a new store: ``generation`` counts
    them.
    """

    def __init__(self, records: Callable[[], Iterable[Record]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """``records`` opens the recording at its beginning; ``clock`` returns seconds that never go back."""
        self._open = records
        self._clock = clock
        self.begin = self.end = self._at = self._base_at = 0.0
        self._base_clock = 0.0
        self._speed = 1.0
        self._feeding = False
        self.paused = False
        self.generation = 0
        self.seeking = False
        """On the way to another position; the store is not complete meanwhile."""
        self._target: tuple[str, float] | None = None
        self._changed = asyncio.Event()
        self.store = Store(clock=self.now, wall_clock=self.now)
        self._restart()

    async def load(self) -> None:
        """Read through the recording once, to know where it begins and ends."""
        at = 0.0
        begin: float | None = None
        for number, record in enumerate(self._open()):
            at = record_time(record, at)
            begin = at if begin is None else begin
            if number % 2000 == 1999:
                await asyncio.sleep(0)
        self.begin, self.end = begin or 0.0, at
        self._rebase(self.begin)

    def _restart(self) -> None:
        version = self.store.version + 1  # so that whoever draws by version draws anew
        self.store = Store(clock=self.now, wall_clock=self.now)
        self.store.version = version
        self.ingest = Ingest(self.store)
        self.generation += 1
        self._records: Iterator[Record] = iter(self._open())
        self._next: Record | None = next(self._records, None)
        self._at = 0.0

    def now(self) -> float:
        """Return the present position, which is what the store takes for the time."""
        if self._at and (self._feeding or self.seeking):
            return self._at
        if self.paused or self._speed == AS_FAST_AS_POSSIBLE:
            return max(self._base_at, self._at)
        ahead = (self._clock() - self._base_clock) * self._speed
        return min(max(self._base_at + ahead, self._at), max(self.end, self._at))

    def _rebase(self, at: float) -> None:
        self._base_at, self._base_clock = at, self._clock()
        self._changed.set()

    @property
    def speed(self) -> float:
        """Seconds of the run that go by in one second."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        now = self.now()
        self._speed = speed
        self._rebase(now)

    def toggle_pause(self) -> None:
        """Let the time stand still, or go on."""
        now = self.now()
        self.paused = not self.paused
        self._rebase(now)

    def shift_speed(self, by: int) -> None:
        """Go to the next faster or slower of :data:`SPEEDS`."""
        nearest = min(range(len(SPEEDS)), key=lambda index: abs(SPEEDS[index] - min(self._speed, SPEEDS[-1])))
        self.speed = SPEEDS[min(max(0, nearest + by), len(SPEEDS) - 1)]

    def seek(self, at: float) -> None:
        """Go to a position."""
        self._target = ("at", min(max(self.begin, at), self.end))
        self._changed.set()

    def seek_step(self, step: int) -> None:
        """Go to the moment the first rank tells of a step; to the end when none does."""
        self._target = ("step", float(step))
        self._changed.set()

    @property
    def at_end(self) -> bool:
        """Whether everything recorded has been played."""
        return self._next is None and self._target is None

    async def run(self, *, until_end: bool = False) -> None:
        """Play, and do what is asked meanwhile. Ends with the recording, or never, so that one can go back."""
        async for _ in self.play(until_end=until_end):
            pass

    async def play(self, *, until_end: bool = True) -> AsyncIterator[Record]:
        """Play as :meth:`run` does, and yield every record once the store has taken it in; not those sought past."""
        while True:
            if self._target is not None:
                await self._go_to(*self._target)
            for record in self._feed_due():
                yield record
            if until_end and self.at_end:
                return
            await self._rest()

    def _feed_due(self) -> list[Record]:
        """Feed what is due by now, in a portion small enough that keys stay quick."""
        now = math.inf if self._speed == AS_FAST_AS_POSSIBLE and not self.paused else self.now()
        started = self._clock()
        fed: list[Record] = []
        while self._next is not None and len(fed) < BATCH_LINES and self._clock() - started < BATCH_SECONDS:
            if record_time(self._next, self._at) > now:
                break
            fed.append(self._next)
            self._feed_next()
        return fed

    def _feed_next(self) -> None:
        assert self._next is not None
        self._at = record_time(self._next, self._at)
        self._feeding = True
        try:
            apply_record(self.store, self.ingest, self._next)
        finally:
            self._feeding = False
        self._next = next(self._records, None)

    async def _rest(self) -> None:
        if self._target is not None:
            return
        if self.paused or self._next is None:
            self._changed.clear()
            await self._changed.wait()
            return
        due = record_time(self._next, self._at) - self.now()
        await asyncio.sleep(0 if self._speed == AS_FAST_AS_POSSIBLE else min(NAP_SECONDS, max(0.0, due / self._speed)))

    async def _go_to(self, kind: str, value: float) -> None:
        self._target = None
        if kind == "step" or value < self._at:
            self._restart()
        self.seeking = True
        try:
            count = 0
            while self._next is not None and self._target is None:
                if kind == "at" and record_time(self._next, self._at) > value:
                    break
                told = step_of(self._next)
                self._feed_next()
                if kind == "step" and told is not None and told >= value:
                    break
                count += 1
                if count % BATCH_LINES == 0:
                    await asyncio.sleep(0)
        finally:
            self.seeking = False
        self._rebase(value if kind == "at" else self._at)

"""How much output is worth decoding: a burst is shown whole, a flood is shown as fast as anybody could read it."""

from __future__ import annotations

import math
from typing import Final

BURST_LINES: Final = 20_000
"""Lines that are shown however fast they come."""
LINES_A_SECOND: Final = 2_000
"""Lines that are shown when more come for long: nobody reads faster, and everybody wants quick keys."""
ROOM_SECONDS: Final = 0.1
"""How often room for more lines is made."""


class OutputRoom:
    """A token bucket. It depends on the times it is told only, so that a recorded run is played back alike."""

    __slots__ = ("_made_at", "_room", "skipped", "waiting")

    def __init__(self, *, unlimited: bool = False) -> None:
        self._room = math.inf if unlimited else float(BURST_LINES)
        self._made_at: float | None = None
        self.skipped = 0
        """Lines that were not shown."""
        self.waiting = 0
        """Those of them that have not been told of yet."""

    def take(self, now: float) -> bool:
        """Tell whether one more line is shown at ``now``, in seconds."""
        if self._made_at is None:
            self._made_at = now
        if self._room < 1 and not 0 <= now - self._made_at < ROOM_SECONDS:
            self._room = min(float(BURST_LINES), max(0.0, now - self._made_at) * LINES_A_SECOND)
            self._made_at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def skip(self, count: int) -> None:
        """Count lines that were not shown."""
        self.skipped += count
        self.waiting += count

    def told(self) -> int:
        """Return how many lines were not shown since the last call."""
        count, self.waiting = self.waiting, 0
        return count

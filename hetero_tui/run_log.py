"""The output of a run in bounded rings: all ranks merged, and each rank on its own."""

from __future__ import annotations

from typing import Final

from hetero_tui.views import LogRecord
from hetero_tui.windows import Ring

LOG_LINES: Final = 50_000
RANK_LOG_LINES: Final = 5_000
RANK_LOG_LINES_TOTAL: Final = 200_000
"""Lines in all rank rings together; with many ranks each ring gets its part, but at least 100."""


class RunLog:
    """Keeps the newest lines."""

    def __init__(self, lines: int = LOG_LINES) -> None:
        self.all: Ring[LogRecord] = Ring(lines)
        self._ranks: dict[int, Ring[LogRecord]] = {}
        self._rank_lines = RANK_LOG_LINES

    def of_rank(self, rank: int) -> Ring[LogRecord]:
        """Return the ring of one rank's lines."""
        ring = self._ranks.get(rank)
        if ring is None:
            ring = self._ranks[rank] = Ring(self._rank_lines)
        return ring

    def add(self, record: LogRecord, *, has_rank: bool) -> None:
        """Keep a line; ``has_rank`` when its rank is known."""
        self.all.append(record)
        if has_rank:
            self.of_rank(record.rank).append(record)

    def fit(self, ranks: int) -> None:
        """Share the room between this many ranks."""
        self._rank_lines = min(RANK_LOG_LINES, max(100, RANK_LOG_LINES_TOTAL // ranks))
        if ranks & (ranks - 1) == 0:  # at every power of two, so the cost stays linear
            for ring in self._ranks.values():
                ring.shrink(self._rank_lines)

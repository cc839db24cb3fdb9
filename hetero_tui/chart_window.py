"""Which steps the charts show and where their common cursor stands. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from hetero_tui.windows import Point

SMALLEST_SPAN = 4.0
"""Steps that fill the width at the closest look."""


@dataclass
class ChartWindow:
    """One for all charts of a tab, so that they show the same steps."""

    start: float | None = None
    """First step that is shown; everything when ``None``."""
    end: float | None = None
    """Last step; follows the run when ``None``."""
    cursor: float | None = None
    version: int = 0

    def range(self, full: tuple[float, float]) -> tuple[float, float]:
        """Return what is shown of a run that has ``full`` steps."""
        first, last = full
        end = last if self.end is None else min(last, self.end)
        start = first if self.start is None else max(first, self.start)
        return (start, end) if start < end else (first, last)

    def zoom(self, factor: float, full: tuple[float, float]) -> None:
        """Show ``factor`` times as many steps around the cursor, or up to the newest one without a cursor."""
        start, end = self.range(full)
        span = max(SMALLEST_SPAN, (end - start) * factor)
        if span >= full[1] - full[0]:
            self.reset()
            return
        if self.cursor is None and self.end is None:
            self.start = full[1] - span
        else:
            middle = (start + end) / 2 if self.cursor is None else self.cursor
            part = 0.5 if end <= start else min(1.0, max(0.0, (middle - start) / (end - start)))
            self._show(middle - part * span, span, full)
        self.version += 1

    def pan(self, part: float, full: tuple[float, float]) -> None:
        """Move by a part of what is shown."""
        start, end = self.range(full)
        self._show(start + part * (end - start), end - start, full)
        self.version += 1

    def _show(self, start: float, span: float, full: tuple[float, float]) -> None:
        self.start = max(full[0], min(start, full[1] - span))
        self.end = self.start + span
        if self.end >= full[1]:
            self.end = None

    def move(self, columns: int, width: int, full: tuple[float, float]) -> None:
        """Move the cursor by columns of a chart that is ``width`` columns wide; it appears at the newest step."""
        start, end = self.range(full)
        step = max(1.0, (end - start) / max(1, width - 1))
        cursor = end if self.cursor is None else self.cursor + columns * step
        self.cursor = min(full[1], max(full[0], cursor))
        if self.cursor < start or self.cursor > end:
            self._show(self.cursor - (end - start) / 2, end - start, full)
        self.version += 1

    def reset(self) -> None:
        """Show everything and follow the run; the cursor goes."""
        self.start = self.end = self.cursor = None
        self.version += 1


def value_at(points: Sequence[Point], x: float) -> Point | None:
    """Return the point whose stretch holds ``x``; ``None`` outside the series."""
    index = bisect_left(points, x, key=lambda point: point.x)
    if not points or index >= len(points):
        return points[-1] if points and x <= points[-1].x + 1 else None
    return points[index]

"""A line chart in braille (two by four dots a cell), or in plain characters where braille can not be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from textual.strip import Strip

from hetero_tui import formats
from hetero_tui.widgets.lines import LineView
from hetero_tui.windows import Point

_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of a dot by column and row, as Unicode numbers the braille patterns."""
LABEL_CELLS: Final = 7


def nice_range(low: float, high: float, *, zero_based: bool) -> tuple[float, float]:
    """Return a range with round ends that holds the values."""
    if zero_based:
        low = 0.0
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    step = 10 ** math.floor(math.log10((high - low) / 2))
    for factor in (1, 2, 2.5, 5, 10):
        if (high - low) / (step * factor) <= 4:
            step *= factor
            break
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def plot(points: Sequence[Point], columns: int, rows: int, low: float, high: float) -> list[list[int]]:
    """Return braille bits for ``rows`` by ``columns`` cells; values are joined and clamped to the range."""
    cells = [[0] * columns for _ in range(rows)]
    width, height = columns * 2, rows * 4
    if not points or high <= low:
        return cells
    first, last = points[0].x, points[-1].x
    span = last - first
    index = 0
    previous: int | None = None
    for dot in range(width):
        x = last if span <= 0 else first + span * dot / (width - 1)
        while index + 1 < len(points) and points[index + 1].x < x:
            index += 1
        left, right = points[index], points[min(index + 1, len(points) - 1)]
        gap = right.x - left.x
        weight = 0.0 if gap <= 0 else min(1.0, max(0.0, (x - left.x) / gap))
        value = left.mean + (right.mean - left.mean) * weight
        y = round((1 - min(1.0, max(0.0, (value - low) / (high - low)))) * (height - 1))
        start, stop = (y, y) if previous is None else (min(previous, y), max(previous, y))
        if previous is not None and stop > start:
            start, stop = (start + 1, stop) if previous < y else (start, stop - 1)
        for each in range(start, stop + 1):
            cells[each // 4][dot // 2] |= _DOTS[dot % 2][each % 4]
        previous = y
    return cells


class LineChart(LineView):
    """One series with a title, its newest value, and labelled axes."""

    PACE = 0.5

    def __init__(
        self,
        title: str,
        points: Callable[[], Sequence[Point]],
        *,
        unit: str = "",
        zero_based: bool = False,
        tone: str = "series-0",
        id: str | None = None,
    ) -> None:
        """``points`` returns the series; a ``zero_based`` axis starts at zero."""
        super().__init__(id=id, classes="chart")
        self._title = title
        self._points = points
        self._unit = unit
        self._zero_based = zero_based
        self._tone = tone
        self._shown: tuple[Point, ...] = ()
        self._drawn: tuple[object, list[str], float, float] | None = None

    def pull(self) -> None:
        """Repaint when the series moved on."""
        points = tuple(self._points())
        if points and self._shown and points[-1] == self._shown[-1] and len(points) == len(self._shown):
            return
        if points != self._shown:
            self._shown = points
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the title, a row of the canvas or the x axis."""
        width, height = self.size
        if y == 0:
            return self._heading(width)
        if not self._shown:
            text = "  no steps yet" if y == 1 else ""
            return self.line().add(text, self.tone("dim")).strip(width)
        rows = max(1, height - 2)
        if y > rows:
            return self._x_axis(width)
        lines, low, high = self._canvas(max(1, width - LABEL_CELLS - 1), rows)
        label = ""
        if y == 1:
            label = formats.axis(high)
        elif y == rows and rows > 1:
            label = formats.axis(low)
        elif rows >= 5 and y == (rows + 1) // 2:
            label = formats.axis((high + low) / 2)
        line = self.line().cell(label, LABEL_CELLS - 1, self.tone("dim"), "right").add(" ")
        return line.add(lines[y - 1], self.tone(self._tone)).strip(width)

    def _heading(self, width: int) -> Strip:
        line = self.line("header").add(f" {self._title}", self.tone("bold"))
        if self._shown:
            value = formats.axis(self._shown[-1].mean)
            line.add(f" {self.glyphs.dot} now {value}{self._unit}", self.tone("dim"))
        return line.strip(width)

    def _x_axis(self, width: int) -> Strip:
        first, last = f"step {self._shown[0].x:.0f}", f"{self._shown[-1].x:.0f}"
        room = width - LABEL_CELLS - 1
        if len(first) + len(last) + 1 > room:
            first = ""
        text = first + last.rjust(max(0, room - len(first)))
        return self.line().add(" " * LABEL_CELLS).add(text, self.tone("dim")).strip(width)

    def _canvas(self, columns: int, rows: int) -> tuple[list[str], float, float]:
        key = (self._shown, columns, rows)
        if self._drawn is not None and self._drawn[0] == key:
            return self._drawn[1:]
        values = [point.mean for point in self._shown]
        low, high = nice_range(min(values), max(values), zero_based=self._zero_based)
        cells = plot(self._shown, columns, rows, low, high)
        draw = _plain if self.glyphs.ascii else _braille
        lines = ["".join(draw(bits) for bits in row) for row in cells]
        self._drawn = (key, lines, low, high)
        return lines, low, high


def _braille(bits: int) -> str:
    return chr(0x2800 + bits) if bits else " "


def _plain(bits: int) -> str:
    top, bottom = bits & 0x1B, bits & 0xE4
    if not bits:
        return " "
    return ":" if top and bottom else "'" if top else "."

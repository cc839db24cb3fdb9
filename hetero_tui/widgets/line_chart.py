"""Line charts in braille (two by four dots a cell), or in plain characters where braille can not be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from textual.strip import Strip

from hetero_tui import formats
from hetero_tui.chart_window import ChartWindow, value_at
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


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    points: tuple[Point, ...]
    name: str = ""
    tone: str = "series-0"


def plot(
    points: Sequence[Point],
    columns: int,
    rows: int,
    low: float,
    high: float,
    x_range: tuple[float, float] | None = None,
) -> list[list[int]]:
    """Return braille bits for ``rows`` by ``columns`` cells; values are joined and clamped to the range.

    ``x_range`` is what the width stands for; the points' own range when left out.
    """
    cells = [[0] * columns for _ in range(rows)]
    width, height = columns * 2, rows * 4
    if not points or high <= low:
        return cells
    first, last = x_range or (points[0].x, points[-1].x)
    span = last - first
    index = 0
    previous: int | None = None
    for dot in range(width):
        x = last if span <= 0 else first + span * dot / (width - 1)
        if span > 0 and not points[0].x <= x <= points[-1].x + 1e-9 * span:
            continue
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
    """One or more series with a title, the newest values or those at the cursor, and labelled axes."""

    PACE = 0.5

    def __init__(
        self,
        title: str,
        points: Callable[[], Sequence[Point]] | None = None,
        *,
        series: Callable[[], Sequence[Series]] | None = None,
        unit: str = "",
        zero_based: bool = False,
        tone: str = "series-0",
        window: ChartWindow | None = None,
        id: str | None = None,
    ) -> None:
        """``points`` returns the only series, or ``series`` all of them; a ``zero_based`` axis starts at zero.

        ``window`` says which steps are shown; everything when left out.
        """
        super().__init__(id=id, classes="chart")
        self._title = title
        self._points = points
        self._series = series
        self._unit = unit
        self._zero_based = zero_based
        self._tone = tone
        self.window = window or ChartWindow()
        self._shown: tuple[Series, ...] = ()
        self._shown_window = -1
        self._drawn: tuple[object, list[list[tuple[str, str]]], float, float] | None = None

    def _fetch(self) -> tuple[Series, ...]:
        if self._points is not None:
            points = tuple(self._points())
            return (Series(points, tone=self._tone),) if points else ()
        return tuple(each for each in self._series() if each.points) if self._series is not None else ()

    def pull(self) -> None:
        """Repaint when a series moved on, or what is shown of it."""
        series = self._fetch()
        if series != self._shown or self.window.version != self._shown_window:
            self._shown = series
            self._shown_window = self.window.version
            self.refresh()

    @property
    def canvas_columns(self) -> int:
        """Columns that the steps are spread over."""
        return max(1, self.size.width - LABEL_CELLS - 1)

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
        lines, low, high = self._canvas(self.canvas_columns, rows)
        label = ""
        if y == 1:
            label = formats.axis(high)
        elif y == rows and rows > 1:
            label = formats.axis(low)
        elif rows >= 5 and y == (rows + 1) // 2:
            label = formats.axis((high + low) / 2)
        line = self.line().cell(label, LABEL_CELLS - 1, self.tone("dim"), "right").add(" ")
        for text, tone in lines[y - 1]:
            line.add(text, self.tone(tone) if tone else None)
        return line.strip(width)

    def _range(self) -> tuple[float, float]:
        full = (min(each.points[0].x for each in self._shown), max(each.points[-1].x for each in self._shown))
        return self.window.range(full)

    def _heading(self, width: int) -> Strip:
        line = self.line("header").add(f" {self._title}", self.tone("bold"))
        cursor = self.window.cursor
        dot = f" {self.glyphs.dot} "
        if self._shown and cursor is not None:
            line.add(f"{dot}step {cursor:.0f}", self.tone("accent"))
        elif self._shown and not self._shown[0].name:
            line.add(f"{dot}now", self.tone("dim"))
        for each in self._shown:
            point = each.points[-1] if cursor is None else value_at(each.points, cursor)
            value = "–" if point is None else f"{formats.axis(point.mean)}{self._unit}"
            if each.name:
                line.add(f"{dot}{each.name} ", self.tone(each.tone)).add(value, self.tone("dim"))
            else:
                line.add(f" {value}", self.tone("dim"))
        return line.strip(width)

    def _x_axis(self, width: int) -> Strip:
        start, end = self._range()
        first, last = f"step {start:.0f}", f"{end:.0f}"
        room = width - LABEL_CELLS - 1
        if len(first) + len(last) + 1 > room:
            first = ""
        text = first + last.rjust(max(0, room - len(first)))
        return self.line().add(" " * LABEL_CELLS).add(text, self.tone("dim")).strip(width)

    def _canvas(self, columns: int, rows: int) -> tuple[list[list[tuple[str, str]]], float, float]:
        key = (self._shown, columns, rows, self.window.version, self.glyphs.ascii)
        if self._drawn is not None and self._drawn[0] == key:
            return self._drawn[1:]
        start, end = self._range()
        values = [point.mean for each in self._shown for point in each.points if start <= point.x <= end]
        values = values or [point.mean for each in self._shown for point in each.points]
        low, high = nice_range(min(values), max(values), zero_based=self._zero_based)
        layers = [plot(each.points, columns, rows, low, high, (start, end)) for each in self._shown]
        cursor = self.window.cursor
        at = -1 if cursor is None or end <= start else round((cursor - start) / (end - start) * (columns - 1))
        lines = [self._row([layer[row] for layer in layers], at) for row in range(rows)]
        self._drawn = (key, lines, low, high)
        return lines, low, high

    def _row(self, layers: Sequence[Sequence[int]], cursor: int) -> list[tuple[str, str]]:
        """Lay the series over each other; where two share a cell, it has the colour of the later one."""
        draw = _plain if self.glyphs.ascii else _braille
        pieces: list[tuple[str, str]] = []
        for column in range(len(layers[0])):
            bits, tone = 0, ""
            for layer, each in zip(layers, self._shown, strict=True):
                if layer[column]:
                    bits, tone = bits | layer[column], each.tone
            text = draw(bits)
            if column == cursor:
                text, tone = (text if bits else self.glyphs.marker), "accent"
            if pieces and pieces[-1][1] == tone:
                pieces[-1] = (pieces[-1][0] + text, tone)
            else:
                pieces.append((text, tone))
        return pieces


def _braille(bits: int) -> str:
    return chr(0x2800 + bits) if bits else " "


def _plain(bits: int) -> str:
    top, bottom = bits & 0x1B, bits & 0xE4
    if not bits:
        return " "
    return ":" if top and bottom else "'" if top else "."

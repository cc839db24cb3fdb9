"""Line plots as inline SVG: no script, no network, all text escaped. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from hetero_tui.windows import Point

WIDTH: Final = 760
HEIGHT: Final = 240
LEFT: Final = 64
RIGHT: Final = 12
TOP: Final = 10
BOTTOM: Final = 34
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#8e44ad", "#555555")
"""Okabe and Ito's palette, told apart with every common colour vision; the dashes tell apart without colour."""
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    name: str
    points: tuple[Point, ...]
    has_band: bool = False
    """Also draw the lowest and the highest value of each stretch."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values that cover the range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def line_plot(title: str, series: Sequence[Series], *, x_name: str, y_name: str, zero_based: bool = False) -> str:
    """Return a figure with a legend, or one that says that there is no data."""
    drawn = [each for each in series if each.points]
    if not drawn:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>no data</p></figure>"
    everything = [point for each in drawn for point in each.points]
    left, right = min(point.x for point in everything), max(point.x for point in everything)
    banded = [point for each in drawn if each.has_band for point in each.points]
    low = min([point.mean for point in everything] + [point.low for point in banded])
    high = max([point.mean for point in everything] + [point.high for point in banded])
    low = min(0.0, low) if zero_based else low
    if high <= low:
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    right = right if right > left else left + 1

    def at_x(value: float) -> float:
        return LEFT + (value - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(low, high):
        y = at_y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    parts += [
        f'<text x="{at_x(value):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{_number(value)}</text>'
        for value in ticks(left, right, 8)
    ]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_name)}</text>')
    for index, each in enumerate(drawn):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        if each.has_band:
            upper = [f"{at_x(point.x):.1f},{at_y(point.high):.1f}" for point in each.points]
            lower = [f"{at_x(point.x):.1f},{at_y(point.low):.1f}" for point in reversed(each.points)]
            parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.18"/>')
        line = " ".join(f"{at_x(point.x):.1f},{at_y(point.mean):.1f}" for point in each.points)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"{style}/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{escape(each.name)}</span>'
        for index, each in enumerate(drawn)
    )
    caption = f"<figcaption>{escape(title)} <small>{escape(y_name)}</small></figcaption>"
    return f'<figure>{caption}{"".join(parts)}<div class="legend">{legend}</div></figure>'


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"

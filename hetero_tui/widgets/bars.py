"""Bars and sparks as text, always on a zero-based scale that the caller shares between rows."""

from __future__ import annotations

from collections.abc import Sequence

from hetero_tui.theme import Glyphs
from hetero_tui.views import StepParts


def bar(fraction: float, width: int, glyphs: Glyphs) -> str:
    """Return a bar of ``width`` cells filled to ``fraction``, in eighths of a cell where the glyphs allow."""
    fraction = min(1.0, max(0.0, fraction))
    if glyphs.ascii:
        return (glyphs.compute * round(fraction * width)).ljust(width, ".")
    eighths = round(fraction * width * 8)
    full, rest = divmod(eighths, 8)
    text = glyphs.compute * full + (glyphs.eighths[rest] if rest else "")
    return text.ljust(width)


def spark(values: Sequence[float], width: int, maximum: float, glyphs: Glyphs) -> str:
    """Return the newest ``width`` values as one glyph each, from zero to ``maximum``."""
    steps = len(glyphs.spark) - 1
    shown = values[-width:]
    scale = steps / maximum if maximum > 0 else 0.0
    text = "".join(glyphs.spark[min(steps, max(0, round(value * scale)))] for value in shown)
    return text.rjust(width)


def part_widths(parts: StepParts, width: int) -> tuple[int, int, int, int]:
    """Share ``width`` cells between compute, data, wait and communication; the rest of the step stays empty."""
    edges = []
    total = 0.0
    for part in (parts.compute, parts.data, parts.wait, parts.communication):
        total += part
        edges.append(round(min(1.0, total) * width))
    compute, data, wait, communication = edges
    return compute, data - compute, wait - data, communication - wait

"""Numbers as people read them, with their unit."""

from __future__ import annotations

import math


def rate(value: float) -> str:
    """Samples per second in at most five characters: ``0.52``, ``94.1``, ``508``, ``12.4k``."""
    if not math.isfinite(value):
        return "–"
    for limit, text in ((10.0, f"{value:.2f}"), (100.0, f"{value:.1f}"), (10_000.0, f"{value:.0f}")):
        if abs(value) < limit:
            return text
    for limit, divisor, unit in ((1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(value) < limit:
            scaled = value / divisor
            return f"{scaled:.1f}{unit}" if abs(scaled) < 100 else f"{scaled:.0f}{unit}"
    return f"{value:.0e}"


def size(count: float | None) -> str:
    """Bytes in at most six characters: ``812 M``, ``1.4 G``."""
    if count is None or not math.isfinite(count):
        return "–"
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.0f} P"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``1 m 12 s``, ``3 h 05 m``, ``2 d 4 h``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def age(seconds: float | None) -> str:
    """The time since something came in, in at most five characters."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} m"
    return f"{seconds / 3600:.0f} h"


def short_seconds(seconds: float) -> str:
    """A step time: ``840 ms``, ``2.41 s``."""
    if not math.isfinite(seconds):
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def count(value: int) -> str:
    """An integer with thin groups: ``12 044``."""
    return f"{value:,}".replace(",", " ")


def counted(value: int, noun: str) -> str:
    """How many of something: ``1 line``, ``12 044 lines``."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def percent(fraction: float, digits: int = 0) -> str:
    """A fraction as percent, never ``100`` for what is a little less."""
    value = 100 * fraction
    if fraction < 1 and round(value, digits) >= 100:
        value = 100 - 10**-digits
    return f"{value:.{digits}f} %"


def axis(value: float) -> str:
    """A label of a chart's axis in at most six characters."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "–"
    magnitude = abs(value)
    if magnitude >= 1000:
        return rate(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    if magnitude >= 1:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if magnitude >= 0.0001:
        return f"{value:.4f}".rstrip("0")
    return f"{value:.0e}"

"""What is painted, cell by cell: as a small SVG that a person can look at, and as colours with their contrast."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any, Final

from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.style import Style
from rich.terminal_theme import MONOKAI
from textual._compositor import LayoutUpdate
from textual.app import App
from textual.color import Color
from textual.geometry import Region
from textual.screen import ModalScreen

WIDTH: Final = 12
HEIGHT: Final = 24
BASELINE: Final = 18
"""Of a cell, in pixels at a font of 20."""
DRAWN: Final = re.compile(r"[\s─-▟⠀-⣿]")
"""Blanks, lines, blocks and dots of charts: these are drawings, no text."""
BARS: Final = re.compile(r"[█▓▒░⠁-⣿]")
"""What bars and charts are drawn with. Parts of a cell draw borders and scrollbars, too, and say nothing there."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a cell is painted; colours as ``#rrggbb``."""

    colour: str
    background: str
    bold: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False

    @property
    def contrast(self) -> float:
        """Ratio between 1 and 21, by "contrast ratio" of WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
        light, dark = sorted((_luminance(self.colour), _luminance(self.background)), reverse=True)
        return (light + 0.05) / (dark + 0.05)


@dataclass(frozen=True, slots=True)
class Picture:
    """A screen: for every row its pieces of text, each with one look."""

    width: int
    rows: tuple[tuple[tuple[str, Look], ...], ...]
    front: tuple[Region, ...] | None = None
    """What is in front of a screen that is dimmed on purpose; None where nothing is."""

    def svg(self) -> str:
        """Return the picture, every row of the screen a line of the file."""
        paper = Counter(look.background for row in self.rows for text, look in row for _ in text).most_common(1)[0][0]
        width, height = self.width * WIDTH, len(self.rows) * HEIGHT
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="background:{paper}"'
        font = 'font-size="20" font-family="Fira Code, DejaVu Sans Mono, monospace">'
        rows = (_drawn(row, number * HEIGHT, paper) for number, row in enumerate(self.rows))
        return "\n".join([f"{head} {font}", *rows, "</svg>\n"])

    def faint(self, least: float) -> set[str]:
        """Return the pieces of text whose contrast is below ``least``, with their colours."""
        found = set()
        for y, row in enumerate(self.rows):
            at = 0
            for text, look in row:
                shown = "".join(character for x, character in _cells(text, at) if self._in_front(x, y))
                at += cell_len(text)
                if (DRAWN.sub("", shown) or BARS.search(shown)) and look.contrast < least:
                    found.add(f"{shown.strip()!r}: {look.colour} on {look.background} is {look.contrast:.2f}:1")
        return found

    def _in_front(self, x: int, y: int) -> bool:
        return self.front is None or any(region.contains(x, y) for region in self.front)


def _cells(text: str, at: int) -> Iterator[tuple[int, str]]:
    for character in text:
        yield at, character
        at += cell_len(character)


def picture(app: App[Any]) -> Picture:
    """Return what the app paints now, the screens behind a dialog included."""
    painted = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    assert isinstance(painted, LayoutUpdate)
    rows = []
    for row in painted.strips:
        segments = (segment for strip in row for segment in strip)
        pieces = [(segment.text, _look(segment.style or Style())) for segment in segments if segment.text]
        joined = groupby(pieces, key=lambda piece: piece[1])
        rows.append(tuple(("".join(text for text, _ in same), look) for look, same in joined))
    front = tuple(each.region for each in app.screen.children) if isinstance(app.screen, ModalScreen) else None
    return Picture(app.size.width, tuple(rows), front)


def differences(before: str, after: str) -> Iterator[str]:
    """Yield what differs between two pictures, row by row: the text, or that only the look does."""
    old, new = before.splitlines(), after.splitlines()
    if len(old) != len(new):
        yield f"{len(old) - 2} rows were stored, {len(new) - 2} are painted"
    for number, (stored, painted) in enumerate(zip(old, new, strict=False)):
        if stored == painted:
            continue
        was, now = _words(stored), _words(painted)
        if was == now:
            yield f"  row {number:>2}: other colours or places: {now[:100]}"
        else:
            yield f"- row {number:>2}: {was}"
            yield f"+ row {number:>2}: {now}"


def _words(line: str) -> str:
    return " | ".join(re.findall(r">([^<]+)</text>", line))


def _drawn(row: tuple[tuple[str, Look], ...], top: int, paper: str) -> str:
    """Return the backgrounds of a row, then its text; blanks need no text and take any colour."""
    backgrounds, texts = "", ""
    at = 0
    for background, same in groupby(row, key=lambda piece: piece[1].background):
        cells = sum(cell_len(text) for text, _ in same)
        if background != paper:
            place = f'x="{at * WIDTH}" y="{top}" width="{cells * WIDTH}" height="{HEIGHT}"'
            backgrounds += f'<rect fill="{background}" {place}/>'
        at += cells
    at = 0
    for text, look in _merged(row):
        # Browsers make one blank of several, so text stands where it belongs on both sides of them.
        for blank, words in re.findall(r"(\s*)(\S+(?:\s\S+)*|$)", text):
            at += len(blank)
            if words:
                place = f'x="{at * WIDTH}" y="{top + BASELINE}"'
                texts += f"<text {place}{_style(look)}>{escape(words, quote=False)}</text>"
            at += cell_len(words)
    return backgrounds + texts


def _merged(row: tuple[tuple[str, Look], ...]) -> list[tuple[str, Look]]:
    merged: list[tuple[str, Look]] = []
    for text, look in row:
        if merged and (not text.strip() or _style(merged[-1][1]) == _style(look)):
            merged[-1] = (merged[-1][0] + text, merged[-1][1])
        else:
            merged.append((text, look))
    return merged


def _style(look: Look) -> str:
    line = " ".join(name for name, on in (("underline", look.underline), ("line-through", look.strike)) if on)
    return (
        f' fill="{look.colour}"'
        + (' font-weight="700"' if look.bold else "")
        + (' font-style="italic"' if look.italic else "")
        + (f' text-decoration="{line}"' if line else "")
    )


def _look(style: Style) -> Look:
    colour, background = _hex(style.color, foreground=True), _hex(style.bgcolor, foreground=False)
    if style.reverse:
        colour, background = background, colour
    if style.dim:
        colour = Color.parse(background).blend(Color.parse(colour), 0.5).hex6.lower()
    return Look(
        colour, background, bool(style.bold), bool(style.italic), bool(style.underline), bool(style.strike)
    )  # fmt: skip


def _hex(colour: RichColor | None, *, foreground: bool) -> str:
    """Return a colour as a usual terminal shows it; the themes of 16 colours leave that to the terminal."""
    return (colour or RichColor.default()).get_truecolor(MONOKAI, foreground=foreground).hex


def _luminance(colour: str) -> float:
    """Return the relative luminance, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

"""Every ordered pair of hosts as a cell: does it connect, how quick, how far, and through a translation?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.style import Style
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from hetero_tui import formats
from hetero_tui.preflight import PreflightProtocol
from hetero_tui.sanitize import clean
from hetero_tui.widgets.cell_grid import UPRIGHT, CellGrid, GridLayout, heading_lines
from hetero_tui.widgets.lines import fit
from remote.checks.model import Verdict
from remote.checks.network_report import PairLink, PairMatrix

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

METRICS: Final = ("reach", "rate", "round trip", "seen as")
SLOW: Final = 12.5e6
"""Bytes a second: below 100 Mbit/s a connection is marked."""
LEAST_TITLE: Final = 14
LEAST_CELLS: Final = 2
MAX_CELLS: Final = 24


def is_translated(link: PairLink, addresses: dict[str, str]) -> bool:
    """Whether the target saw another address than the one the source is dialled at."""
    expected = addresses.get(link.source, "")
    return bool(link.seen_as and expected and link.seen_as != expected)


def addresses_of(matrix: PairMatrix) -> dict[str, str]:
    """Return the address each host was dialled at, where all dialled the same."""
    dialled: dict[str, set[str]] = {}
    for link in matrix.links.values():
        dialled.setdefault(link.target, set()).add(link.address)
    return {host: next(iter(found)) for host, found in dialled.items() if len(found) == 1}


class MatrixGrid(CellGrid):
    """Sources as rows, targets as columns."""

    HELP = (
        "Each cell is what happened when the host of the row dialled the host of the column, where the ranks will run. "
        "o changes what the cells show. ! marks a rate below 100 Mbit/s or an address that is translated on the way."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("o", "metric", "Show other", id="matrix.metric")]

    class CursorMoved(Message):
        """The cursor is on another pair."""

    def __init__(self, session: SessionProtocol, preflight: PreflightProtocol) -> None:
        super().__init__(id="matrix-grid")
        self._session = session
        self._preflight = preflight
        self._names = tuple(host.name for host in session.inventory.hosts)
        self._matrix: PairMatrix | None = None
        self._addresses: dict[str, str] = {}
        self._metric = 0
        self.column = min(1, len(self._names) - 1)

    @property
    def pair(self) -> tuple[str, str]:
        """(source, target) under the cursor."""
        return self._names[self.row], self._names[self.column]

    @property
    def metric(self) -> str:
        """What the cells show."""
        return METRICS[self._metric]

    @property
    def matrix(self) -> PairMatrix | None:
        """What is shown."""
        return self._matrix

    @property
    def addresses(self) -> dict[str, str]:
        """The address each host was dialled at."""
        return self._addresses

    @property
    def row_count(self) -> int:
        return len(self._names)

    @property
    def column_count(self) -> int:
        return len(self._names)

    def pull(self) -> None:
        """Take over a new matrix."""
        matrix = self._preflight.matrix
        if matrix is self._matrix:
            return
        self._matrix = matrix
        self._addresses = addresses_of(matrix) if matrix else {}
        self.lay_out()
        self.refresh()
        self.cursor_moved()

    def cursor_moved(self) -> None:
        self.post_message(self.CursorMoved())

    def action_metric(self) -> None:
        """Show the next thing in the cells."""
        self._metric = (self._metric + 1) % len(METRICS)
        self.refresh()
        self.cursor_moved()

    def grid_layout(self) -> GridLayout:
        """Give each target as much as there is, at least a glyph."""
        room = self.scrollable_content_region.width
        count = max(1, len(self._names))
        longest = max((len(name) for name in self._names), default=4) + 4
        title = min(longest, max(LEAST_TITLE, room // 4))
        cell = max(LEAST_CELLS, min(MAX_CELLS, (room - title) // count))
        return GridLayout(title, cell, heading=UPRIGHT if cell <= UPRIGHT else 1)

    def draw_heading(self, line: int, layout: GridLayout) -> tuple[Strip, Strip]:
        left = self.line("header")
        if line == layout.heading - 1:
            left.cell(" from \\ to", layout.title, self.tone("bold"))
        elif line == 0:
            left.cell(f" {self.pair[1]}", layout.title, self.tone("accent"))
        cells = self.line("header")
        for column, text in enumerate(heading_lines(self._names, layout.cell, self.glyphs.ellipsis)[line]):
            cells.add(text, self.tone("accent") if column == self.column else None)
        return left.strip(layout.title), cells.strip(max(cells.width, self.scrollable_content_region.width))

    def draw_row(self, row: int, layout: GridLayout) -> tuple[Strip, Strip]:
        source = self._names[row]
        left = self.line().cell(f" {source}", layout.title, self.tone("bold") if row == self.row else None)
        cells = self.line()
        for column, target in enumerate(self._names):
            here = row == self.row and column == self.column
            over = self.tone("cursor" if self.has_focus else "cursor-blurred") if here else Style()
            text, tone = self._text(source, target, layout.cell - 1)
            cells.add(fit(text, layout.cell - 1, ellipsis=self.glyphs.ellipsis), self.tone(tone) + over).add(" ")
        return left.strip(layout.title), cells.strip(max(cells.width, self.scrollable_content_region.width))

    def _text(self, source: str, target: str, width: int) -> tuple[str, str]:
        """Return what a cell shows, and its tone."""
        glyphs = self.glyphs
        if source == target:
            return glyphs.rule, "dim"
        link = self._matrix.link(source, target) if self._matrix else None
        if link is None:
            return (f"{glyphs.verdicts[Verdict.UNKNOWN]} untried" if width >= 9 else "?"), "dim"
        glyph, tone = self._state(link)
        if link.error is not None:
            return (f"{glyph} {link.error.value}" if width >= 4 else glyph), tone
        match self.metric:
            case "rate":
                shown = mbit(link.sent_bytes_per_second)
            case "round trip":
                shown = milliseconds(link.round_trip)
            case "seen as":
                shown = clean(link.seen_as, 40) or "–"
            case _:
                shown = f"{milliseconds(link.round_trip)} {mbit(link.sent_bytes_per_second)} Mbit/s"
                if width < 2 + len(shown):
                    shown = milliseconds(link.round_trip) if width >= 8 else ""
        if width < 4 or not shown:
            return glyph, tone
        return (f"{glyph} {shown}" if width >= 2 + len(shown) else shown), tone

    def _state(self, link: PairLink) -> tuple[str, str]:
        if link.error is not None:
            return self.glyphs.verdicts[Verdict.FAIL], "fail"
        rate = link.sent_bytes_per_second
        if is_translated(link, self._addresses) or (rate is not None and rate < SLOW):
            return self.glyphs.verdicts[Verdict.WARN], "warn"
        return self.glyphs.verdicts[Verdict.OK], "ok"


def mbit(rate: float | None) -> str:
    """Bytes a second as Mbit/s, without the unit."""
    return "–" if not rate else formats.rate(rate * 8 / 1e6)


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with their unit."""
    return "–" if seconds is None else f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"

"""One row a rank: where it is, what it does, how fast, and what its steps go into. Works for a thousand rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.strip import Strip

from hetero_tui import formats
from hetero_tui.cached import MANY_RANKS
from hetero_tui.messages import RankChosen
from hetero_tui.screens.dialogs import Ask
from hetero_tui.theme import RANK_TONES
from hetero_tui.views import RankState, RankView
from hetero_tui.widgets.bars import part_widths, spark
from hetero_tui.widgets.lines import Align, LineBuilder, LineView, fit

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    key: str
    title: str
    width: int
    priority: int
    """Columns come in rising order of priority while there is room."""
    align: Align = "left"
    grow: int = 0
    """Cells it may grow beyond its width."""


COLUMNS: Final = (
    Column("rank", "rank", 4, 0, "right"),
    Column("host", "host", 6, 1),
    Column("device", "device", 7, 9, grow=16),
    Column("state", "state", 14, 2),
    Column("share", "share", 6, 3, "right"),
    Column("rate", "samples/s", 9, 4, "right"),
    Column("spark", "40 s", 8, 8, grow=24),
    Column("parts", "step is", 10, 5, grow=24),
    Column("speed", "alone/s", 7, 11, "right"),
    Column("step_seconds", "step", 7, 13, "right"),
    Column("memory", "memory", 6, 7, "right"),
    Column("utilisation", "use", 5, 10, "right"),
    Column("temperature", "temp", 5, 12, "right"),
    Column("age", "age", 4, 6, "right"),
)
SORT_AGAIN_SECONDS: Final = 5.0
"""Rows move under the eye no more often than this, and not while the cursor moves."""
SORT_KEYS: Final[dict[str, Callable[[RankView], object]]] = {
    "rank": lambda view: view.rank,
    "host": lambda view: (view.host, view.rank),
    "state": lambda view: (_severity(view), view.rank),
    "rate": lambda view: (-view.samples_per_second, view.rank),
    "speed": lambda view: (-view.speed, view.rank),
    "parts": lambda view: (-view.parts.wait, view.rank),
    "age": lambda view: (-(view.age or 0.0), view.rank),
}


def _severity(view: RankView) -> int:
    order = (RankState.FAILED, RankState.NO_DATA, RankState.STALLED, RankState.WAITING)
    return order.index(view.state) if view.state in order else len(order)


class RankTable(LineView, can_focus=True):
    """Table of ranks with a cursor. The order changes on a key only, and the cursor stays on its rank."""

    HELP = (
        "One row a rank. 'step goes into' shows how the rank spends its steps: compute, data, wait for slower ranks, "
        "communication. 'alone/s' is its speed while computing. The rates and the bar are over 10 s; the small chart "
        "has one common scale from zero for all ranks. o sorts by the next column, anew every five seconds while the "
        "cursor rests; / shows the ranks whose host, device or state matches, d those of the cursor's host."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="ranks.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="ranks.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="ranks.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="ranks.page_down"),
        Binding("home,g", "edge(-1)", "First", show=False, id="ranks.first"),
        Binding("end,G", "edge(1)", "Last", show=False, id="ranks.last"),
        Binding("enter", "choose", "Log", id="ranks.log"),
        Binding("o", "sort", "Sort", id="ranks.sort"),
        Binding("O", "reverse", "Reverse order", show=False, id="ranks.reverse"),
        Binding("slash", "filter", "Filter", key_display="/", id="ranks.filter"),
        Binding("d", "only_host", "This host", show=False, id="ranks.host"),
        Binding("escape", "everything", "All ranks", show=False, id="ranks.everything"),
    ]

    def __init__(self, session: SessionProtocol, *, id: str = "ranks") -> None:
        super().__init__(id=id)
        self._session = session
        self._order: list[int] = []
        self._rows: dict[int, RankView] = {}
        self._cursor_rank = 0
        self._sort = "rank"
        self._reverse = False
        self._scale = 0.0
        self._renewed = -math.inf
        self._sorted = -math.inf
        self._touched = -math.inf
        self._filter = ""
        self._seen: object = None
        self._layout: tuple[int, list[tuple[Column, int]]] = (0, [])
        longest = max((len(host.name) for host in session.inventory.hosts), default=6)
        self._host_cells = min(20, max(6, longest + session.simulated))

    @property
    def cursor_rank(self) -> int | None:
        """The rank under the cursor, or ``None`` without ranks."""
        if not self._order:
            return None
        return self._cursor_rank if self._cursor_rank in self._order else self._order[0]

    def pull(self) -> None:
        """Fetch the rows; repaint when something came in or an age grew by a second."""
        store = self._session.store
        second = int(store.now)
        if self._seen == (store.version, second):
            return
        self._seen = (store.version, second)
        ranks = store.ranks
        # With many ranks only the visible rows are fetched at every pull; the common scale follows more slowly.
        if len(ranks) != len(self._rows) or len(ranks) <= MANY_RANKS or store.now - self._renewed > 2.0:
            self._renew()
        else:
            for rank in self._visible_ranks():
                self._rows[rank] = store.rank_view(rank)
        self.refresh()

    def _renew(self) -> None:
        store = self._session.store
        self._renewed = store.now
        views = store.rank_views()
        known = len(self._rows)
        self._rows = {view.rank: view for view in views}
        self._scale = max((max(view.spark, default=0.0) for view in views), default=0.0)
        resting = store.now - max(self._sorted, self._touched) >= SORT_AGAIN_SECONDS
        if known != len(views) or (resting and (self._sort != "rank" or self._filter)):
            self._sort_rows()

    def _sort_rows(self) -> None:
        key = SORT_KEYS[self._sort]
        ordered = sorted(self._rows.values(), key=key, reverse=self._reverse)  # type: ignore[arg-type]
        self._sorted = self._session.store.now
        self._order = [view.rank for view in ordered if self._matches(view)]
        self.virtual_size = Size(self.size.width, len(self._order) + 1 + bool(self._filter))
        self.refresh()

    def _matches(self, view: RankView) -> bool:
        words = f"{view.rank} {view.host} {view.device} {view.device_name} {view.state_text}".lower()
        wanted = self._filter.lower()
        return (wanted[1:] not in words) if wanted.startswith("!") else wanted in words

    def set_filter(self, text: str) -> None:
        """Show only the ranks that match: rank, host, device or state; ``!`` in front inverts."""
        self._filter = text
        self._sort_rows()
        self.styles.min_height = 3 if text else None

    def _visible_ranks(self) -> list[int]:
        top = round(self.scroll_y)
        return self._order[top : top + self.size.height]

    def on_resize(self, event: events.Resize) -> None:
        """Keep the virtual width equal to the real one: the table never scrolls sideways."""
        self.virtual_size = Size(event.size.width, len(self._order) + 1)

    def render_line(self, y: int) -> Strip:
        """Draw the header or a row."""
        width = self.scrollable_content_region.width
        if y == 0:
            return self._header(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(self._order):
            if self._filter and index == len(self._order):
                text = f"  {len(self._order)} of {len(self._rows)} ranks match '{self._filter}' (esc: all)"
                return self.line().add(text, self.tone("accent")).strip(width)
            empty = "no ranks yet: they appear when the launch begins" if not self._rows and y == 2 else ""
            return self.line().add(f"  {empty}", self.tone("dim")).strip(width)
        return self._row(self._rows[self._order[index]], width)

    def _columns(self, width: int) -> list[tuple[Column, int]]:
        if self._layout[0] == width:
            return self._layout[1]
        columns = [replace(each, width=self._host_cells) if each.key == "host" else each for each in COLUMNS]
        room = width - 1
        chosen: set[str] = set()
        for column in sorted(columns, key=lambda each: each.priority):
            if column.width + 1 > room:
                continue
            room -= column.width + 1
            chosen.add(column.key)
        growing = [column for column in columns if column.key in chosen and column.grow]
        extra = dict.fromkeys((column.key for column in growing), 0)
        while room > 0 and any(extra[column.key] < column.grow for column in growing):
            for column in growing:
                if room > 0 and extra[column.key] < column.grow:
                    extra[column.key] += 1
                    room -= 1
        laid_out = [(column, column.width + extra.get(column.key, 0)) for column in columns if column.key in chosen]
        self._layout = (width, laid_out)
        return laid_out

    def _header(self, width: int) -> Strip:
        line = self.line("header")
        arrow = self.glyphs.up if self._reverse else self.glyphs.down
        for column, cells in self._columns(width):
            title = "step goes into" if column.key == "parts" and cells >= 14 else column.title
            if column.key == self._sort and column.key != "rank":
                title = f"{arrow}{title}" if column.align == "right" else f"{title}{arrow}"
            line.add(" ").cell(title, cells, self.tone("bold"), column.align)
        return line.strip(width)

    def _row(self, view: RankView, width: int) -> Strip:
        at_cursor = view.rank == self.cursor_rank
        line = self.line(("cursor" if self.has_focus else "cursor-blurred") if at_cursor else "")
        stale = view.state in (RankState.NO_DATA, RankState.STALLED) or view.state.ended
        style = self.tone("dim") if stale else None
        for column, cells in self._columns(width):
            line.add(" ")
            if column.key == "parts":
                self._parts(line, view, cells, stale=stale)
            elif column.key == "state":
                text = f"{self.glyphs.ranks[view.state]} {view.state_text}"
                line.cell(text, cells, self.tone(RANK_TONES[view.state]))
            elif column.key == "spark":
                line.add(spark(view.spark, cells, self._scale, self.glyphs), style or self.tone("accent"))
            else:
                line.add(self._text(view, column, cells), style or self._emphasis(view, column))
        return line.strip(width)

    def _emphasis(self, view: RankView, column: Column) -> Style | None:
        if column.key == "rate":
            return self.tone("bold")
        if column.key == "temperature" and view.throttle_reasons:
            return self.tone("warn")
        return None

    def _text(self, view: RankView, column: Column, cells: int) -> str:
        stepping = view.step_seconds > 0
        match column.key:
            case "rank":
                text = str(view.rank)
            case "host":
                text = view.host + ("*" if view.simulated else "")
            case "device":
                text = f"{view.device} {view.device_name}" if view.device_name and cells > 12 else view.device
            case "share":
                text = str(view.share) if view.share or stepping else "–"
            case "rate":
                text = formats.rate(view.samples_per_second) if stepping else "–"
            case "speed":
                text = formats.rate(view.speed) if stepping else "–"
            case "step_seconds":
                text = formats.short_seconds(view.step_seconds) if stepping else "–"
            case "memory":
                text = formats.size(view.memory_used)
            case "utilisation":
                text = "–" if view.utilisation is None else f"{view.utilisation:.0f} %"
            case "temperature":
                text = "–" if view.temperature is None else f"{view.temperature:.0f}°C"
            case _:
                text = formats.age(view.age)
        return fit(text, cells, column.align, self.glyphs.ellipsis)

    def _parts(self, line: LineBuilder, view: RankView, cells: int, *, stale: bool) -> None:
        glyphs = self.glyphs
        compute, data, wait, communication = part_widths(view.parts, cells)
        pieces = (
            (glyphs.compute, compute, "compute"),
            (glyphs.data, data, "data"),
            (glyphs.wait, wait, "wait"),
            (glyphs.communication, communication, "communication"),
        )
        for glyph, count, tone in pieces:
            line.add(glyph * count, self.tone("dim" if stale else tone))
        line.add(" " * (cells - compute - data - wait - communication))

    def _move_to(self, index: int) -> None:
        if not self._order:
            return
        self._touched = self._session.store.now
        index = min(len(self._order) - 1, max(0, index))
        self._cursor_rank = self._order[index]
        # Without force, Textual ignores the scroll until a layout has shown the scrollbar of rows that just came.
        self.scroll_to_region(Region(0, index, 1, 2), animate=False, immediate=True, force=True)
        self.refresh()

    def _cursor_index(self) -> int:
        rank = self.cursor_rank
        return self._order.index(rank) if rank is not None else 0

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self._move_to(self._cursor_index() + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by a screenful."""
        self._move_to(self._cursor_index() + by * max(1, self.size.height - 2))

    def action_edge(self, side: int) -> None:
        """Move the cursor to the first or last row."""
        self._move_to(0 if side < 0 else len(self._order) - 1)

    def action_choose(self) -> None:
        """Tell which rank was picked."""
        rank = self.cursor_rank
        if rank is not None:
            self.post_message(RankChosen(rank))

    def action_sort(self) -> None:
        """Sort by the next column and show by which."""
        shown = {column.key for column, _ in self._columns(self.scrollable_content_region.width)}
        keys = [key for key in SORT_KEYS if key in shown or key == self._sort]
        self._sort = keys[(keys.index(self._sort) + 1) % len(keys)]
        self._renew()
        self._sort_rows()
        self._move_to(self._cursor_index())

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._reverse = not self._reverse
        self._sort_rows()

    def action_filter(self) -> None:
        """Ask for a filter."""
        self.app.push_screen(
            Ask("Show ranks", "rank, host, device or state; ! in front inverts", self._filter), self._asked
        )

    def _asked(self, text: str | None) -> None:
        if text is not None:
            self.set_filter(text.strip())

    def action_only_host(self) -> None:
        """Show the ranks of the cursor's host."""
        rank = self.cursor_rank
        if rank is not None:
            self.set_filter(self._rows[rank].host)

    def action_everything(self) -> None:
        """Show all ranks again."""
        if self._filter:
            self.set_filter("")

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        if event.y > 0:
            self._move_to(round(self.scroll_y) + event.y - 1)

"""A grid with a cursor over its cells: headings and titles stay, the rest scrolls under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.widgets.lines import LineView, fit


@dataclass(frozen=True, slots=True)
class GridLayout:
    """Widths and heights in cells."""

    title: int
    """Width of the column of titles."""
    cell: int
    """Width of every other column."""
    heading: int = 1
    """Lines of the heading."""


def scrolled_to(offset: int, room: int, start: int, end: int) -> int:
    """Return the offset closest to ``offset`` at which ``start … end-1`` is inside a window of ``room``."""
    if start < offset or end - start >= room:
        return max(0, start)
    return max(0, end - room) if end > offset + room else offset


def heading_lines(names: tuple[str, ...], cell: int, ellipsis: str) -> list[list[str]]:
    """Return the lines of a heading, each with a text of exactly ``cell`` cells for every name.

    Where a column is too narrow for a name, the end of it stands upright: ends tell alike names apart.
    """
    if cell > UPRIGHT:
        tails = [name if len(name) < cell else name[-(cell - 1) :] if cell < WORD else name for name in names]
        return [[fit(tail, cell - 1, ellipsis=ellipsis) + " " for tail in tails]]
    return [[fit(name[-UPRIGHT:].rjust(UPRIGHT)[line], cell) for name in names] for line in range(UPRIGHT)]


UPRIGHT: int = 3
"""Columns up to this width have upright headings, of as many lines."""
WORD: int = 11
"""Columns from this width on show words."""


class CellGrid(LineView, can_focus=True):
    """Keeps the cursor and what is scrolled; what the cells show is drawn by whoever builds on it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="grid.up"),
        Binding("down,j", "move(1, 0)", "Down", show=False, id="grid.down"),
        Binding("left", "move(0, -1)", "Left", show=False, id="grid.left"),
        Binding("right", "move(0, 1)", "Right", show=False, id="grid.right"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="grid.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="grid.page_down"),
        Binding("home,g", "move(-9999, 0)", "First", show=False, id="grid.first"),
        Binding("end,G", "move(9999, 0)", "Last", show=False, id="grid.last"),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.row: int = 0
        self.column: int = 0

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        raise NotImplementedError

    @property
    def column_count(self) -> int:
        """How many columns of cells there are."""
        raise NotImplementedError

    def grid_layout(self) -> GridLayout:
        """Divide the width."""
        raise NotImplementedError

    def draw_heading(self, line: int, layout: GridLayout) -> tuple[Strip, Strip]:
        """Return what stands over the titles and over the cells."""
        raise NotImplementedError

    def draw_row(self, row: int, layout: GridLayout) -> tuple[Strip, Strip]:
        """Return a row's title and its cells."""
        raise NotImplementedError

    def cursor_moved(self) -> None:
        """Tell whoever wants to know."""

    def lay_out(self) -> None:
        """Fit what can be scrolled to the rows and columns there are."""
        layout = self.grid_layout()
        self.row = min(self.row, max(0, self.row_count - 1))
        self.virtual_size = Size(layout.title + layout.cell * self.column_count, self.row_count + layout.heading)

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002
        """Lay the columns out again."""
        self.lay_out()
        self.show_cursor()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a row."""
        width = self.scrollable_content_region.width
        layout = self.grid_layout()
        row = round(self.scroll_y) + y - layout.heading
        if y < layout.heading:
            left, cells = self.draw_heading(y, layout)
        elif row < self.row_count:
            left, cells = self.draw_row(row, layout)
        else:
            return self.line().strip(width)
        scroll_x = round(self.scroll_x)
        return Strip.join([left, cells.crop_extend(scroll_x, scroll_x + width - layout.title, self.base)])

    def put_cursor(self, row: int, column: int) -> None:
        """Move the cursor, inside the grid."""
        self.row = min(max(0, self.row_count - 1), max(0, row))
        self.column = min(max(0, self.column_count - 1), max(0, column))
        self.show_cursor()
        self.refresh()
        self.cursor_moved()

    def show_cursor(self) -> None:
        """Scroll as little as shows the cursor's cell."""
        layout = self.grid_layout()
        region = self.scrollable_content_region
        top = scrolled_to(round(self.scroll_y), region.height - layout.heading, self.row, self.row + 1)
        start = self.column * layout.cell
        left = scrolled_to(round(self.scroll_x), region.width - layout.title, start, start + layout.cell)
        self.scroll_to(x=left, y=top, animate=False, immediate=True, force=True)

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor by rows and columns."""
        self.put_cursor(self.row + rows, self.column + columns)

    def action_page(self, by: int) -> None:
        """Move the cursor by a screenful."""
        room = self.scrollable_content_region.height - self.grid_layout().heading - 1
        self.put_cursor(self.row + by * max(1, room), self.column)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor under the mouse."""
        layout = self.grid_layout()
        if event.y < layout.heading:
            return
        column = self.column
        if event.x >= layout.title:
            column = (event.x - layout.title + round(self.scroll_x)) // layout.cell
        self.put_cursor(round(self.scroll_y) + event.y - layout.heading, column)

"""Checks as rows, hosts as columns. Shrinks to glyphs and scrolls sideways when there are many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from hetero_tui.checklist import ChecklistState, Place
from hetero_tui.sanitize import clean
from hetero_tui.theme import VERDICT_TONES
from hetero_tui.widgets.lines import LineBuilder, LineView, fit
from remote.checks.model import CheckResult, Verdict

if TYPE_CHECKING:
    from hetero_tui.session import CheckInfo, SessionProtocol

GLYPH_CELLS: Final = 4
WORD_CELLS: Final = 11
MAX_CELLS: Final = 40
ORDER: Final = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIP, Verdict.OK)


class ChecklistGrid(LineView, can_focus=True):
    """The grid with a cursor over its cells."""

    HELP = (
        "Each row is a check, each column a host; a check of the whole cluster fills its row. A check that could not "
        "be carried out is '?', never ok. The pane beside shows why, the evidence and the fix of the cell under the "
        "cursor."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="grid.up"),
        Binding("down,j", "move(1, 0)", "Down", show=False, id="grid.down"),
        Binding("left", "move(0, -1)", "Left", show=False, id="grid.left"),
        Binding("right", "move(0, 1)", "Right", show=False, id="grid.right"),
        Binding("pageup", "move(-10, 0)", "Page up", show=False, id="grid.page_up"),
        Binding("pagedown", "move(10, 0)", "Page down", show=False, id="grid.page_down"),
        Binding("home,g", "move(-9999, 0)", "First", show=False, id="grid.first"),
        Binding("end,G", "move(9999, 0)", "Last", show=False, id="grid.last"),
    ]

    class CursorMoved(Message):
        """The cursor is on another cell."""

        def __init__(self, place: Place | None) -> None:
            super().__init__()
            self.place = place

    def __init__(self, session: SessionProtocol, state: ChecklistState) -> None:
        super().__init__(id="grid")
        self._session = session
        self._state = state
        self._row = 0
        self._column = 0
        self._failing_first = False
        self._rows: tuple[CheckInfo, ...] = session.checks
        self._frame = 0
        self._seen: object = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts in the order of the inventory."""
        return tuple(host.name for host in self._session.inventory.hosts)

    @property
    def place(self) -> Place | None:
        """The cell under the cursor."""
        if not self._rows:
            return None
        check = self._rows[self._row]
        return Place(check.id, "" if check.scope == "cluster" else self.hosts[self._column])

    @property
    def failing_first(self) -> bool:
        """Rows with failures are on top."""
        return self._failing_first

    def pull(self) -> None:
        """Repaint when a check moved or a spinner turns."""
        phases = tuple(status.phase for status in self._session.hosts.values())
        spinning = bool(self._state.running) or any(phase == "connecting" for phase in phases)
        self._frame += spinning
        seen = (self._state.version, self._frame, phases, len(self._session.checks))
        if seen == self._seen:
            return
        self._seen = seen
        if len(self._rows) != len(self._session.checks):
            self.sort_rows()
        self.refresh()

    def set_failing_first(self, on: bool) -> None:
        """Put the worst rows on top, or go back to the order of the checklist."""
        self._failing_first = on
        self.sort_rows()

    def sort_rows(self) -> None:
        """Order the rows; the cursor stays on its check."""
        place = self.place
        rows = list(self._session.checks)
        if self._failing_first:
            rows.sort(key=self._worst)
        self._rows = tuple(rows)
        if place is not None:
            self._row = next((index for index, check in enumerate(rows) if check.id == place.check_id), 0)
        if self._failing_first:
            self._row = 0
        self._resize()
        self._moved()

    def _worst(self, check: CheckInfo) -> int:
        found = [
            ORDER.index(result.finding.verdict)
            for place, result in self._state.results.items()
            if place.check_id == check.id
        ]
        return min(found, default=len(ORDER))

    def _widths(self) -> tuple[int, int]:
        """Return the width of the title column and of each host's column."""
        room = self.scrollable_content_region.width
        hosts = max(1, len(self.hosts))
        longest = max((len(check.title) for check in self._rows), default=10) + 2
        title = min(longest, max(18, room * 2 // 5))
        cell = (room - title) // hosts
        if cell < WORD_CELLS:
            title = min(longest, max(18, room - hosts * WORD_CELLS))
            cell = (room - title) // hosts
        if cell < WORD_CELLS:
            title = min(longest, max(18, room * 3 // 10, room - hosts * GLYPH_CELLS))
            cell = max(GLYPH_CELLS, min(WORD_CELLS - 1, (room - title) // hosts))
        return title, min(cell, MAX_CELLS)

    def _resize(self) -> None:
        title, cell = self._widths()
        self.virtual_size = Size(title + cell * len(self.hosts), len(self._rows) + 1)

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002
        """Lay the columns out again."""
        self._resize()
        self._show_cursor()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a row."""
        width = self.scrollable_content_region.width
        title, cell = self._widths()
        index = round(self.scroll_y) + y - 1
        if y == 0:
            left, cells = self._heading(title, cell)
        elif index < len(self._rows):
            left, cells = self._cells(index, title, cell)
        else:
            return self.line().strip(width)
        scroll_x = round(self.scroll_x)
        right = cells.crop_extend(scroll_x, scroll_x + width - title, self.base)
        return Strip.join([left, right])

    def _heading(self, title: int, cell: int) -> tuple[Strip, Strip]:
        left = self.line("header").cell(" Check", title, self.tone("bold")).strip(title)
        line = self.line("header")
        for name in self.hosts:
            status = self._session.hosts.get(name)
            phase = status.phase if status else "waiting"
            # In a narrow column the end of a name tells alike hosts apart; the detail shows it whole.
            shown = name[-(cell - 1) :] if cell < WORD_CELLS else name
            if phase != "connected":
                glyph, style = self._phase(phase)
                line.add(glyph if cell < WORD_CELLS else f"{glyph} ", style)
                shown = "" if cell < WORD_CELLS else f"{name} {phase}" if cell >= WORD_CELLS + 8 else name
            line.add(fit(shown, cell * (self.hosts.index(name) + 1) - 1 - line.width, ellipsis=self.glyphs.ellipsis))
            line.add(" ")
        return left, line.strip(max(line.width, self.scrollable_content_region.width - title))

    def _phase(self, phase: str) -> tuple[str, Style]:
        match phase:
            case "connected":
                return self.glyphs.verdicts[Verdict.OK], self.tone("ok")
            case "failed" | "lost":
                return self.glyphs.verdicts[Verdict.FAIL], self.tone("fail")
            case "connecting":
                return self._spinner(), self.tone("accent")
            case _:
                return self.glyphs.pending, self.tone("dim")

    def _spinner(self) -> str:
        return self.glyphs.spinner[self._frame % len(self.glyphs.spinner)]

    def _cells(self, index: int, title: int, cell: int) -> tuple[Strip, Strip]:
        check = self._rows[index]
        at_row = index == self._row
        cursor = "cursor" if self.has_focus else "cursor-blurred"
        left = self.line()
        left.add(
            fit(f" {check.title}", title - 1, ellipsis=self.glyphs.ellipsis), self.tone("bold") if at_row else None
        )
        left.add(" ")
        line = self.line()
        if check.scope == "cluster":
            width = cell * len(self.hosts)
            self._cell(line, Place(check.id, ""), width, self.tone(cursor) if at_row else None)
        else:
            for column, host in enumerate(self.hosts):
                style = self.tone(cursor) if at_row and column == self._column else None
                self._cell(line, Place(check.id, host), cell, style)
        return left.strip(title), line.strip(max(line.width, self.scrollable_content_region.width - title))

    def _cell(self, line: LineBuilder, place: Place, width: int, over: Style | None) -> None:
        result = self._state.results.get(place)
        over = over or Style()
        inner = width - 1
        if place in self._state.running:
            text = f"{self._spinner()} running" if inner >= WORD_CELLS - 1 else self._spinner()
            line.cell(text, inner, self.tone("accent") + over)
        elif result is None:
            line.cell(self.glyphs.pending, inner, self.tone("dim") + over)
        else:
            self._verdict(line, result, inner, over)
        line.add(" ")

    def _verdict(self, line: LineBuilder, result: CheckResult, width: int, over: Style) -> None:
        verdict = result.finding.verdict
        style = self.tone(VERDICT_TONES[verdict]) + over
        glyph = self.glyphs.verdicts[verdict]
        if width < WORD_CELLS - 1:
            line.cell(glyph, width, style)
            return
        text = f"{glyph} {verdict.value}"
        line.add(text, style)
        room = width - cell_len(text)
        reason = clean(result.finding.reason, 200)
        if room >= 14 and reason:
            line.add(fit(f" {reason}", room, ellipsis=self.glyphs.ellipsis), self.tone("dim") + over)
        else:
            line.add(" " * room, over)

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor."""
        self._row = min(max(0, len(self._rows) - 1), max(0, self._row + rows))
        self._column = min(len(self.hosts) - 1, max(0, self._column + columns))
        self._moved()

    def select(self, place: Place) -> None:
        """Put the cursor on a cell."""
        for index, check in enumerate(self._rows):
            if check.id == place.check_id:
                self._row = index
        if place.host in self.hosts:
            self._column = self.hosts.index(place.host)
        self._moved()

    def _moved(self) -> None:
        self._show_cursor()
        self.refresh()
        self.post_message(self.CursorMoved(self.place))

    def _show_cursor(self) -> None:
        title, cell = self._widths()
        height = self.scrollable_content_region.height
        top = round(self.scroll_y)
        if self._row < top:
            top = self._row
        elif self._row > top + height - 2:
            top = self._row - height + 2
        room = self.scrollable_content_region.width - title
        left = round(self.scroll_x)
        start = self._column * cell
        if start < left:
            left = start
        elif start + cell > left + room:
            left = start + cell - room
        self.scroll_to(x=max(0, left), y=max(0, top), animate=False, immediate=True, force=True)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor under the mouse."""
        if event.y == 0:
            return
        title, cell = self._widths()
        self._row = min(len(self._rows) - 1, round(self.scroll_y) + event.y - 1)
        if event.x >= title:
            self._column = min(len(self.hosts) - 1, (event.x - title + round(self.scroll_x)) // cell)
        self._moved()

"""Checks as rows, hosts as columns, in groups that fold. Shrinks to glyphs and scrolls where there are many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.cells import cell_len
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from hetero_tui.checklist import ChecklistState, CheckRow, GroupRow, Place, Row, places_of, rows, worst
from hetero_tui.sanitize import clean
from hetero_tui.theme import VERDICT_TONES
from hetero_tui.widgets.cell_grid import UPRIGHT, WORD, CellGrid, GridLayout, heading_lines
from hetero_tui.widgets.lines import LineBuilder, fit
from remote.checks.model import CheckResult, Verdict

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

GLYPH_CELLS: Final = 4
LEAST_CELLS: Final = 2
MAX_CELLS: Final = 40
LEAST_TITLE: Final = 18


class ChecklistGrid(CellGrid):
    """The grid with a cursor over its cells."""

    HELP = (
        "Each row is a check, each column a host; a check of the whole cluster fills its row. A check that could not "
        "be carried out is '?', never ok. The pane beside shows why, the evidence and the fix of the cell under the "
        "cursor. A group's heading shows the worst of its checks on each host, and how many are so."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "fold", "Fold", show=False, id="grid.fold"),
        Binding("z", "fold_all", "Fold all", show=False, id="grid.fold_all"),
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
        self._failing_first = False
        self._folded: frozenset[str] = frozenset()
        self._wanted = ""
        self._rows: tuple[Row, ...] = ()
        self._frame = 0
        self._seen: object = None
        self._names: tuple[str, ...] = ()
        self.sort_rows(tell=False)
        self.row = self._first_check()

    def _first_check(self) -> int:
        return next((index for index, row in enumerate(self._rows) if isinstance(row, CheckRow)), 0)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts in the order of the inventory."""
        if not self._names:
            self._names = tuple(host.name for host in self._session.inventory.hosts)
        return self._names

    @property
    def place(self) -> Place | None:
        """The cell under the cursor; None on a heading."""
        match self._current:
            case CheckRow(check):
                return Place(check.id, "" if check.scope == "cluster" else self.hosts[self.column])
            case _:
                return None

    @property
    def group(self) -> GroupRow | None:
        """The heading under the cursor, if it is on one."""
        return self._current if isinstance(self._current, GroupRow) else None

    @property
    def _current(self) -> Row | None:
        return self._rows[self.row] if self.row < len(self._rows) else None

    @property
    def failing_first(self) -> bool:
        """Rows with failures are on top."""
        return self._failing_first

    @property
    def shown(self) -> int:
        """How many checks pass the filter."""
        return sum(1 if isinstance(row, CheckRow) else len(row.checks) * row.folded for row in self._rows)

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def column_count(self) -> int:
        return len(self.hosts)

    def pull(self) -> None:
        """Repaint when a check moved or a spinner turns."""
        phases = tuple(status.phase for status in self._session.hosts.values())
        spinning = bool(self._state.running) or any(phase == "connecting" for phase in phases)
        self._frame += spinning
        seen = (self._state.version, self._frame, phases, len(self._session.checks))
        if seen == self._seen:
            return
        came = self._seen is None or self._seen[3] != seen[3]  # type: ignore[index]
        self._seen = seen
        if came:
            self.sort_rows()
        self.refresh()

    def set_failing_first(self, on: bool) -> None:
        """Put the worst rows on top, or go back to the order of the checklist."""
        self._failing_first = on
        self.sort_rows()
        if on:
            self.put_cursor(0, self.column)

    def set_filter(self, wanted: str) -> None:
        """Show only checks that pass the filter."""
        self._wanted = wanted
        self.sort_rows()

    def sort_rows(self, *, tell: bool = True) -> None:
        """Order the rows anew; the cursor stays on its check, or goes to the heading it is folded under."""
        before = self._current
        self._rows = rows(
            self._session.checks, self._state.results, self.hosts,
            folded=self._folded, failing_first=self._failing_first, wanted=self._wanted,
        )  # fmt: skip
        self.row = self._row_of(before)
        if tell:
            self.lay_out()
            self.put_cursor(self.row, self.column)

    def _row_of(self, before: Row | None) -> int:
        group = before.check.group if isinstance(before, CheckRow) else before.group if before else ""
        heading = 0
        for index, row in enumerate(self._rows):
            if isinstance(row, CheckRow) and isinstance(before, CheckRow) and row.check.id == before.check.id:
                return index
            if isinstance(row, GroupRow) and row.group == group:
                heading = index
        return heading

    def action_fold(self) -> None:
        """Fold the group under the cursor, or unfold it."""
        current = self._current
        group = current.check.group if isinstance(current, CheckRow) else current.group if current else ""
        if not group or self._failing_first or self._wanted:
            return
        heading = GroupRow(group, (), folded=True)
        self._folded = self._folded ^ {group}
        self.sort_rows()
        self.put_cursor(self._row_of(heading), self.column)

    def action_fold_all(self) -> None:
        """Fold all groups, or unfold them when all are folded."""
        everything = frozenset(check.group for check in self._session.checks if check.group)
        self._folded = frozenset() if self._folded == everything else everything
        self.sort_rows()

    def select(self, place: Place) -> None:
        """Put the cursor on a cell; its group unfolds."""
        group = next((check.group for check in self._session.checks if check.id == place.check_id), "")
        if group in self._folded:
            self._folded -= {group}
            self.sort_rows()
        column = self.hosts.index(place.host) if place.host in self.hosts else self.column
        for index, row in enumerate(self._rows):
            if isinstance(row, CheckRow) and row.check.id == place.check_id:
                self.put_cursor(index, column)

    def cursor_moved(self) -> None:
        self.post_message(self.CursorMoved(self.place))

    def grid_layout(self) -> GridLayout:
        """Give words to the cells where there is room, else a glyph, and the titles what is left."""
        room = self.scrollable_content_region.width
        hosts = max(1, len(self.hosts))
        longest = max((len(check.title) for check in self._session.checks), default=10) + 3
        title = min(longest, max(LEAST_TITLE, room * 2 // 5))
        cell = (room - title) // hosts
        if cell < WORD:
            title = min(longest, max(LEAST_TITLE, room - hosts * WORD))
            cell = (room - title) // hosts
        if cell < WORD:
            title = min(longest, max(LEAST_TITLE, room * 3 // 10))
            cell = max(LEAST_CELLS, min(GLYPH_CELLS, (room - title) // hosts))
            title = min(longest, max(LEAST_TITLE, room - hosts * cell))
        return GridLayout(title, min(cell, MAX_CELLS), heading=UPRIGHT if cell <= UPRIGHT else 1)

    def draw_heading(self, line: int, layout: GridLayout) -> tuple[Strip, Strip]:
        left = self.line("header")
        if line == layout.heading - 1:
            left.cell(" Check", layout.title, self.tone("bold"))
        elif line == 0 and self.hosts:
            left.cell(f" {self.hosts[self.column]}", layout.title, self.tone("accent"))
        cells = self.line("header")
        texts = heading_lines(self.hosts, layout.cell, self.glyphs.ellipsis)[line]
        for column, (name, text) in enumerate(zip(self.hosts, texts, strict=True)):
            status = self._session.hosts.get(name)
            phase = status.phase if status else "waiting"
            here = self.tone("accent") if column == self.column else None
            if phase == "connected":
                cells.add(text, here)
            elif layout.cell < WORD:
                glyph, style = self._phase(phase)
                shown = glyph if line == layout.heading - 1 else text[0]
                cells.cell(shown, layout.cell, style)
            else:
                glyph, style = self._phase(phase)
                cells.add(f"{glyph} ", style)
                words = f"{name} {phase}" if layout.cell >= WORD + 8 else name
                cells.add(fit(words, layout.cell - 3, ellipsis=self.glyphs.ellipsis) + " ", here)
        return left.strip(layout.title), self._wide(cells, layout)

    def _wide(self, line: LineBuilder, layout: GridLayout) -> Strip:
        return line.strip(max(line.width, self.scrollable_content_region.width - layout.title))

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

    def draw_row(self, row: int, layout: GridLayout) -> tuple[Strip, Strip]:
        at_row = row == self.row
        match self._rows[row]:
            case CheckRow(check):
                title, bold = f"{'  ' if check.group and not self._failing_first else ' '}{check.title}", at_row
            case GroupRow(group, checks, folded):
                title, bold = f" {self.glyphs.folded if folded else self.glyphs.unfolded} {group} ({len(checks)})", True
        left = self.line()
        left.add(fit(title, layout.title - 1, ellipsis=self.glyphs.ellipsis), self.tone("bold") if bold else None)
        left.add(" ")
        line = self.line()
        shown = self._rows[row]
        over = self.tone("cursor" if self.has_focus else "cursor-blurred")
        if isinstance(shown, CheckRow) and shown.check.scope == "cluster":
            whole = layout.cell * len(self.hosts)
            self._cell(line, Place(shown.check.id, ""), whole, over if at_row else None)
        else:
            for column, host in enumerate(self.hosts):
                style = over if at_row and column == self.column else None
                if isinstance(shown, CheckRow):
                    self._cell(line, Place(shown.check.id, host), layout.cell, style)
                else:
                    self._group_cell(line, shown, host, layout.cell, style)
        return left.strip(layout.title), self._wide(line, layout)

    def _group_cell(self, line: LineBuilder, row: GroupRow, host: str, width: int, over: Style | None) -> None:
        places = [place for check in row.checks for place in places_of(check, (host,))]
        found = worst(self._state.results, places)
        over = over or Style()
        inner = width - 1
        if any(place in self._state.running for place in places):
            line.cell(self._spinner(), inner, self.tone("accent") + over)
        elif found is None:
            line.cell(self.glyphs.pending, inner, self.tone("dim") + over)
        else:
            verdict, count = found
            glyph = self.glyphs.verdicts[verdict]
            text = (
                f"{glyph} {count} {verdict.value}" if inner >= WORD - 1 else f"{glyph}{count}" if inner > 1 else glyph
            )
            line.cell(text, inner, self.tone(VERDICT_TONES[verdict]) + self.tone("bold") + over)
        line.add(" ")

    def _cell(self, line: LineBuilder, place: Place, width: int, over: Style | None) -> None:
        result = self._state.results.get(place)
        over = over or Style()
        inner = width - 1
        if place in self._state.running:
            text = f"{self._spinner()} running" if inner >= WORD - 1 else self._spinner()
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
        if width < WORD - 1:
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

"""A pane over a bounded ring of records: follow, hold, filter, wrap, mark, select. Cheap at any rate of lines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Generic, TypeVar

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.events import Resize
from textual.geometry import Offset, Size
from textual.message import Message
from textual.reactive import reactive
from textual.selection import Selection
from textual.strip import Strip

from hetero_tui.widgets import log_export
from hetero_tui.widgets.lines import LineView
from hetero_tui.widgets.log_filter import LEVELS, Entry, Filter, Level
from hetero_tui.windows import Ring

T = TypeVar("T")
SCAN_LINES: Final = 5_000
"""Most new records looked at in one pull; a flood is caught up with over several pulls."""


class RingLog(LineView, Generic[T], can_focus=True):
    """Shows a ring. The ring may be replaced at any time (another rank); records are turned to text when drawn."""

    ALLOW_SELECT = True
    HELP = (
        "Newest line at the bottom. Scrolling up stops following and holds the place even while old lines are dropped; "
        "f or end follows again. / filters by regular expression, ! in front inverts; h marks matches instead of "
        "hiding the rest, n and N go from one to the next. v shows warnings or errors only. Drag to select, y copies "
        "(to the terminal's clipboard and to a file); ctrl+s saves what the filter shows, o opens it in your pager."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "toggle_follow", "Follow", id="log.follow"),
        Binding("home,g", "top", "Oldest", show=False, id="log.top"),
        Binding("end,G", "bottom", "Newest", show=False, id="log.bottom"),
        Binding("m", "mark", "Mark", show=False, id="log.mark"),
        Binding("w", "toggle_wrap", "Wrap", show=False, id="log.wrap"),
        Binding("t", "toggle_times", "Times", show=False, id="log.times"),
        Binding("y", "copy", "Copy", show=False, id="log.copy"),
        Binding("ctrl+s", "save", "Save to a file", show=False, id="log.save"),
        Binding("o", "page", "Pager", show=False, id="log.pager"),
        Binding("h", "toggle_highlight", "Mark or hide", show=False, id="log.highlight"),
        Binding("n", "find(1)", "Next match", show=False, id="log.next"),
        Binding("N", "find(-1)", "Previous match", show=False, id="log.previous"),
        Binding("v", "level", "Level", id="log.level"),
    ]
    PACE = 0.1
    DEFAULT_CSS = "RingLog { overflow-y: scroll; overflow-x: auto; scrollbar-size-horizontal: 0; }"

    follow: reactive[bool] = reactive(True)
    wrap: reactive[bool] = reactive(False)
    times: reactive[bool] = reactive(False)

    class Changed(Message):
        """Follow, filter or the number of lines changed: the status line is out of date."""

    def __init__(
        self,
        ring: Callable[[], Ring[T]],
        entry: Callable[[T], Entry],
        *,
        mark: Callable[[], None] | None = None,
        id: str | None = None,
    ) -> None:
        """``ring`` returns what to show, ``entry`` turns a record into text, ``mark`` adds a mark to the ring."""
        super().__init__(id=id)
        self._ring_source = ring
        self._entry = entry
        self._mark = mark
        self._ring: Ring[T] | None = None
        self._filter: Filter | None = None
        self._highlight = False
        self._found: int | None = None
        self._numbers: list[int] = []
        self._starts: list[int] = []
        self._head = 0
        self._next_row = 0
        self._scanned = 0
        self._matched = 0
        self._content_width = 0
        self._strips: LRUCache[tuple[int, int, bool], Strip] = LRUCache(1024)
        self._moving = False
        self._has_just_painted = False
        self.new_since_hold = 0
        """Lines that came since following stopped."""

    @property
    def filter_source(self) -> str:
        """The filter as typed; empty without one."""
        return self._filter.source if self._filter else ""

    @property
    def shown(self) -> int:
        """Lines in the view, after the filter."""
        return len(self._numbers) - self._head

    @property
    def total(self) -> int:
        """Lines in the ring."""
        return len(self._ring) if self._ring is not None else 0

    @property
    def dropped(self) -> int:
        """Lines the ring has lost to its bound."""
        return self._ring.first if self._ring is not None else 0

    @property
    def allow_select(self) -> bool:
        """Text can be selected with the mouse."""
        return True

    def set_filter(self, source: str) -> None:
        """Show only what matches, or mark it."""
        self._refilter(source, self.level, highlight=self.highlight)

    @property
    def level(self) -> Level:
        """The least level that is shown."""
        return self._filter.level if self._filter else "all"

    @property
    def highlight(self) -> bool:
        """The expression marks what matches, and hides nothing."""
        return self._highlight

    def _refilter(self, source: str, level: Level, *, highlight: bool) -> None:
        self._highlight = highlight
        self._filter = Filter(source, level, highlight=highlight) if source or level != "all" else None
        self.rebuild()

    def rebuild(self) -> None:
        """Start over: another ring, filter or width."""
        self._ring = self._ring_source()
        self._numbers, self._starts = [], []
        self._head = self._next_row = self._content_width = 0
        self._scanned = self._ring.first
        self._found = None
        self._strips.clear()
        while self._scanned < self._ring.next:
            self._scan(self._ring)
        self._settle(0)
        self.post_message(self.Changed())

    def pull(self) -> None:
        """Take in new records and repaint once; half as often while each time everything on screen is new."""
        ring = self._ring_source()
        if ring is not self._ring:
            self.rebuild()
            return
        if self._scanned == ring.next:
            return
        is_replaced = self.follow and self.size.height <= ring.next - self._scanned < SCAN_LINES
        if self._has_just_painted and is_replaced:
            self._has_just_painted = False  # nobody reads what is replaced ten times a second
            return
        before = self._matched
        first_row = self._first_row
        self._scanned = max(self._scanned, ring.first)
        self._scan(ring)
        self._prune(ring)
        self._settle(self._first_row - first_row)
        self._has_just_painted = True
        if not self.follow:
            self.new_since_hold += self._matched - before
        self.post_message(self.Changed())

    @property
    def _first_row(self) -> int:
        return self._starts[self._head] if self._head < len(self._starts) else self._next_row

    def _scan(self, ring: Ring[T]) -> None:
        stop = min(ring.next, self._scanned + SCAN_LINES)
        for number in range(self._scanned, stop):
            entry = self._entry(ring[number])
            if self._filter is not None and not self._filter(entry):
                continue
            self._matched += 1
            self._numbers.append(number)
            self._starts.append(self._next_row)
            self._next_row += self._height(entry)
        self._scanned = stop

    def _prune(self, ring: Ring[T]) -> None:
        first = ring.first
        while self._head < len(self._numbers) and self._numbers[self._head] < first:
            self._head += 1
        if self._head > 1024 and self._head * 2 > len(self._numbers):
            del self._numbers[: self._head], self._starts[: self._head]
            self._found = None if self._found is None else self._found - self._head
            self._head = 0

    def _height(self, entry: Entry) -> int:
        text = self._plain(entry)
        length = len(text) if text.isascii() else cell_len(text)
        self._content_width = max(self._content_width, length)
        if not self.wrap:
            return 1
        width = max(1, self.scrollable_content_region.width)
        return max(1, -(-length // width)) if text.isascii() else max(1, len(chop_cells(text, width)))

    def _plain(self, entry: Entry) -> str:
        if entry.is_mark:
            return f"---- mark {entry.time}"
        time = f"{entry.time} " if self.times and entry.time else ""
        return f"{time}{entry.tag}{entry.text}"

    def _settle(self, lost_rows: int) -> None:
        rows = self._next_row - self._first_row
        width = self.scrollable_content_region.width if self.wrap else self._content_width
        self._moving = True
        self.virtual_size = Size(max(1, width), rows)
        if self.follow:
            self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True, force=True)
        elif lost_rows:
            self.scroll_to(y=max(0, self.scroll_y - lost_rows), animate=False, immediate=True, force=True)
        if lost_rows and self.text_selection is not None:
            self.screen.clear_selection()
        self._moving = False
        self.refresh()

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002
        """Wrapped lines have another height now; a following pane stays at the end."""
        if self.wrap:
            self.rebuild()
        elif self.follow:
            self._settle(0)

    def notify_style_update(self) -> None:
        """Drop lines painted in the old style."""
        super().notify_style_update()
        self._strips.clear()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up by hand stops following; scrolling to the end starts it again."""
        super().watch_scroll_y(old_value, new_value)
        if self._moving or old_value == new_value:
            return
        at_end = round(new_value) >= self.max_scroll_y
        if new_value < old_value and not at_end:
            self.follow = False
        elif at_end:
            self.follow = True

    def watch_follow(self, follow: bool) -> None:  # noqa: ARG002
        """Going back to the end clears the count of new lines."""
        self.new_since_hold = 0
        self.post_message(self.Changed())

    def watch_wrap(self) -> None:
        """Lay out again."""
        if self.is_mounted:
            self.rebuild()

    def watch_times(self) -> None:
        """Lay out again."""
        if self.is_mounted:
            self.rebuild()

    def render_line(self, y: int) -> Strip:
        """Draw one row."""
        scroll_x, scroll_y = self.scroll_offset
        width = self.scrollable_content_region.width
        row = scroll_y + y
        strip = self._row(row)
        if strip is None:
            return Strip.blank(width, self.base)
        return strip.crop_extend(scroll_x, scroll_x + width, self.base).apply_offsets(scroll_x, row)

    def _locate(self, row: int) -> tuple[int, int] | None:
        """Return (position in the view, row within the line)."""
        absolute = self._first_row + row
        if row < 0 or absolute >= self._next_row:
            return None
        index = bisect_right(self._starts, absolute, lo=self._head) - 1
        return index, absolute - self._starts[index]

    def _row(self, row: int) -> Strip | None:
        place = self._locate(row)
        ring = self._ring
        if place is None or ring is None:
            return None
        index, part = place
        number = self._numbers[index]
        if number < ring.first:
            return None
        selection = self.text_selection
        key = (number, part, self.times)
        if selection is None:
            cached = self._strips.get(key)
            if cached is not None:
                return cached
        strip = self._draw(self._entry(ring[number]), part)
        if selection is None:
            self._strips[key] = strip
            return strip
        span = selection.get_span(row)
        if span is None:
            return strip
        start, end = span
        length = strip.cell_length
        end = length if end == -1 else min(end, length)
        chosen = self.screen.get_component_rich_style("screen--selection")
        before, middle, after = strip.crop(0, start), strip.crop(start, end), strip.crop(end, length)
        return Strip.join([before, middle.apply_style(chosen), after])

    def _draw(self, entry: Entry, part: int) -> Strip:
        if entry.is_mark:
            glyph = self.glyphs.rule
            rule = f"{glyph * 4} mark {entry.time} ".ljust(max(20, self.size.width), glyph)
            return Strip([Segment(rule, self.base + self.tone("accent"))])
        segments = []
        if self.times and entry.time:
            segments.append(Segment(f"{entry.time} ", self.base + self.tone("dim")))
        if entry.tag:
            segments.append(Segment(entry.tag, self.base + self.tone(entry.tag_tone)))
        segments.extend(self._marked(entry))
        strip = Strip(segments)
        if not self.wrap:
            return strip
        width = max(1, self.scrollable_content_region.width)
        return strip.crop(part * width, (part + 1) * width)

    def _marked(self, entry: Entry) -> Iterable[Segment]:
        """Return the line, with what the expression matches marked."""
        style = self.base + self.tone(entry.tone) if entry.tone else self.base
        spans = self._filter.spans(entry.text) if self._filter else []
        at = 0
        for start, end in spans:
            if start > at:
                yield Segment(entry.text[at:start], style)
            yield Segment(entry.text[start:end], style + self.tone("badge"))
            at = end
        if at < len(entry.text) or not spans:
            yield Segment(entry.text[at:], style)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """Return the selected text as it stands in the pane, without any border."""
        rows = self._next_row - self._first_row
        start = selection.start or Offset(0, 0)
        end = selection.end or Offset(0, rows)
        lines = []
        for row in range(start.y, min(rows, end.y + 1)):
            text = self._row_text(row)
            stop = end.x if row == end.y and selection.end is not None else len(text)
            lines.append(text[start.x if row == start.y else 0 : stop].rstrip())
        return ("\n".join(lines), "\n") if lines else None

    def _row_text(self, row: int) -> str:
        place = self._locate(row)
        ring = self._ring
        if place is None or ring is None or self._numbers[place[0]] < ring.first:
            return ""
        entry = self._entry(ring[self._numbers[place[0]]])
        return self._draw(entry, place[1]).text

    def visible_text(self) -> str:
        """Return what is on screen."""
        top = round(self.scroll_y)
        return "\n".join(self._row_text(row).rstrip() for row in range(top, top + self.size.height)).rstrip("\n")

    def all_text(self) -> str:
        """Return every line of the view."""
        ring = self._ring
        if ring is None:
            return ""
        numbers = (number for number in self._numbers[self._head :] if number >= ring.first)
        return "\n".join(self._plain(self._entry(ring[number])) for number in numbers)

    def selection_updated(self, selection: Selection | None) -> None:  # noqa: ARG002
        """Repaint with the selection."""
        self.refresh()

    def action_toggle_follow(self) -> None:
        """Follow, or hold."""
        self.follow = not self.follow
        if self.follow:
            self._settle(0)

    def action_top(self) -> None:
        """Go to the oldest line."""
        self.follow = False
        self.scroll_to(y=0, animate=False, immediate=True, force=True)

    def action_bottom(self) -> None:
        """Go to the newest line and follow."""
        self.follow = True
        self._settle(0)

    def action_toggle_wrap(self) -> None:
        """Wrap long lines or scroll sideways."""
        self.wrap = not self.wrap

    def action_toggle_times(self) -> None:
        """Show or hide the time of each line."""
        self.times = not self.times

    def action_mark(self) -> None:
        """Draw a line at the end, to see what came after."""
        if self._mark is not None:
            self._mark()
            self._has_just_painted = False
            self.pull()

    def action_toggle_highlight(self) -> None:
        """Mark what matches, or hide the rest."""
        self._refilter(self.filter_source, self.level, highlight=not self.highlight)

    def action_level(self) -> None:
        """Show the next level: everything, warnings and errors, errors."""
        following = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self.show_level(following)

    def show_level(self, level: Level) -> None:
        """Show only what is at least of this level."""
        self._refilter(self.filter_source, level, highlight=self.highlight)

    def action_find(self, direction: int) -> None:
        """Go to the next or previous line that matches, and hold there."""
        ring, found = self._ring, self._filter
        if ring is None or found is None or not found.source:
            return
        place = self._locate(round(self.scroll_y))
        index = self._head if place is None else place[0]
        if self._found is not None and self._head <= self._found < len(self._numbers):
            index = self._found
        while self._head <= (index := index + direction) < len(self._numbers):
            number = self._numbers[index]
            if number >= ring.first and found.matches(self._entry(ring[number])):
                self._found = index
                self.follow = False
                row = self._starts[index] - self._first_row
                self.scroll_to(y=max(0, row - self.size.height // 3), animate=False, immediate=True, force=True)
                return
        self.app.notify("no further line matches", markup=False)

    def action_copy(self) -> None:
        """Copy the selection, or what is on screen without one."""
        log_export.copy(self.app, self.screen.get_selected_text() or self.visible_text())

    def action_save(self) -> None:
        """Write every line of the view to a file in the current folder."""
        log_export.save(self.app, self.all_text(), self.shown)

    def action_page(self) -> None:
        """Open every line of the view in the person's pager."""
        log_export.page(self.app, self.all_text())

"""A log with its status line and its filter."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.strip import Strip
from textual.widgets import Input

from hetero_tui.formats import count, counted
from hetero_tui.views import EventRecord, LogRecord
from hetero_tui.widgets.lines import LineView
from hetero_tui.widgets.log_chips import LogChips, Shown
from hetero_tui.widgets.log_filter import Entry
from hetero_tui.widgets.ring_log import RingLog
from hetero_tui.windows import Ring

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

LOG_TONES = {"stderr": "", "notice": "accent", "warning": "warn", "error": "fail"}
LEVEL_TONES = {"warning": "warn", "error": "fail"}
SERIES = 6
MAX_HOST_CELLS = 16


def clock_text(seconds: float) -> str:
    """Return the local time of day."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "--:--:--"


def log_entry(record: LogRecord, host_cells: int = 0) -> Entry:
    """A line of output with its rank in front."""
    if record.stream == "mark":
        return Entry("", time=clock_text(record.time), is_mark=True)
    tag, tone = rank_tag(record.rank, record.host, host_cells)
    return Entry(record.text, tag, tone, LOG_TONES.get(record.stream, ""), clock_text(record.time))


def event_entry(record: EventRecord, host_cells: int = 0) -> Entry:
    """An event with its time, rank and kind in front."""
    tag, tone = rank_tag(record.rank, record.host, host_cells)
    step = "" if record.step is None else f" (step {record.step})"
    text = f"{record.kind:<11}{record.text}{step}"
    return Entry(text, f"{clock_text(record.time)} {tag}", tone, LEVEL_TONES.get(record.level, ""))


def rank_tag(rank: int, host: str, host_cells: int = 0) -> tuple[str, str]:
    """Return what stands in front of a line, and its tone: each rank keeps its colour."""
    name = host.ljust(min(host_cells, MAX_HOST_CELLS))
    if rank < 0:
        return f"{'-':>4} {name}  ", "dim"
    return f"{rank:>4} {name}  ", f"series-{rank % SERIES}"


class LogStatus(LineView):
    """What the pane above shows: how many lines, which filter, whether it follows."""

    def __init__(
        self, log: RingLog[LogRecord] | RingLog[EventRecord], title: Callable[[], str], skipped: Callable[[], int]
    ) -> None:
        """``skipped`` returns how many lines came too fast to be shown."""
        super().__init__(classes="log-status")
        self._skipped = skipped
        self._log = log
        self._title = title

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the line."""
        log = self._log
        dot = f" {self.glyphs.dot} "
        line = self.line("header").add(f" {self._title()}", self.tone("bold"))
        if log.level != "all":
            line.add(f"{dot}[{log.level}]", self.tone("warn"))
        if log.filter_source:
            word = "without" if log.filter_source.startswith("!") else "marked:" if log.highlight else "with"
            shown = f"{count(log.shown)} of {counted(log.total, 'line')} {word} {log.filter_source.removeprefix('!')}"
            line.add(dot).add(shown, self.tone("accent"))
        elif log.level != "all":
            line.add(f"{dot}{count(log.shown)} of {counted(log.total, 'line')}", self.tone("accent"))
        else:
            line.add(f"{dot}{counted(log.total, 'line')}", self.tone("dim"))
        skipped = self._skipped()
        if skipped:
            line.add(f"{dot}! {count(skipped)} too fast to show, in the run's folder", self.tone("warn"))
        if log.dropped:
            line.add(f"{dot}{count(log.dropped)} older dropped from view", self.tone("dim"))
        if log.follow:
            line.add(f"{dot}following", self.tone("ok"))
        else:
            line.add(f"{dot}FOLLOW OFF, +{count(log.new_since_hold)} new (f)", self.tone("warn"))
        return line.strip(self.size.width)


class LogPane(Vertical):
    """A ring log, its status line, and an input for the filter that appears on ``/``."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="log.filter"),
        Binding("escape", "clear", "Clear filter", show=False, id="log.clear"),
        Binding("left_square_bracket", "rank(-1)", "Previous rank", show=False, key_display="[", id="log.rank_before"),
        Binding("right_square_bracket", "rank(1)", "Next rank", key_display="]", id="log.rank_after"),
        Binding("z", "full_screen", "Full screen", show=False, id="log.full_screen"),
    ]
    DEFAULT_CSS = """
    LogPane { height: 1fr; }
    LogPane RingLog { height: 1fr; }
    LogPane .log-status { height: 1; }
    LogPane Input { display: none; height: 1; border: none; padding: 0 1; }
    LogPane.-filtering Input { display: block; }
    """

    def __init__(self, session: SessionProtocol, what: str, *, id: str, chips: bool = False) -> None:
        """``what`` is ``"log"`` for output or ``"events"`` for the list of events; ``chips`` choose level and rank."""
        super().__init__(id=id)
        self._session = session
        self._what = what
        self._has_chips = chips
        self.rank: int | None = None
        """Only this rank; all of them when ``None``."""
        self.log_view: RingLog[LogRecord] | RingLog[EventRecord]
        cells = max((len(host.name) for host in session.inventory.hosts), default=0)
        if what == "events":
            events = partial(event_entry, host_cells=cells)
            self.log_view = RingLog(lambda: session.store.events, events, id=f"{id}-lines")
        else:
            lines = partial(log_entry, host_cells=cells)
            self.log_view = RingLog(self._ring, lines, mark=self._mark, id=f"{id}-lines")

    def _ring(self) -> Ring[LogRecord]:
        store = self._session.store
        return store.log if self.rank is None else store.rank_log(self.rank)

    def _mark(self) -> None:
        self._session.store.mark(self.rank)

    def _skipped(self) -> int:
        return 0 if self._what == "events" else self._session.store.skipped_lines

    def action_rank(self, by: int) -> None:
        """Show the next or previous rank alone; all of them lie between the last and the first."""
        if self._what == "events":
            return
        choices: list[int | None] = [None, *self._session.store.ranks]
        at = choices.index(self.rank) if self.rank in choices else 0
        self._choose(choices[(at + by) % len(choices)])

    def _choose(self, rank: int | None) -> None:
        self.rank = rank
        self.log_view.rebuild()
        self._renew()

    def _shown(self) -> Shown:
        return Shown(self.log_view.level, self.rank, tuple(self._session.store.ranks))

    def _renew(self) -> None:
        self.query_one(LogStatus).refresh()
        for chips in self.query(LogChips):
            chips.pull()

    @on(LogChips.RankChosen)
    def rank_clicked(self, event: LogChips.RankChosen) -> None:
        """Show one rank, or all."""
        event.stop()
        self._choose(event.rank)

    @on(LogChips.LevelChosen)
    def level_clicked(self, event: LogChips.LevelChosen) -> None:
        """Show from this level on."""
        event.stop()
        self.log_view.show_level(event.level)

    def action_full_screen(self) -> None:
        """Give the lines the whole screen, or take it back."""
        self.screen.toggle_class("-full-log")

    def _title(self) -> str:
        if self._what == "events":
            return "Events"
        return "Log of all ranks" if self.rank is None else f"Log of rank {self.rank} (esc: all)"

    def compose(self) -> ComposeResult:
        """Status above, lines, filter below."""
        yield LogStatus(self.log_view, self._title, self._skipped)
        if self._has_chips:
            yield LogChips(self._shown)
        yield self.log_view
        yield Input(placeholder="regular expression, ! in front inverts; enter keeps it, esc clears", compact=True)

    def show_rank(self, rank: int | None, host: str = "") -> None:
        """Show one rank, one host or everything."""
        self.rank = rank
        self.log_view.set_filter(host.replace(".", r"\.") if host else "")
        self._renew()

    def action_filter(self) -> None:
        """Open the filter."""
        self.add_class("-filtering")
        self.query_one(Input).focus()

    def action_clear(self) -> None:
        """Clear the filter, then the choice of a rank, and go back to the lines."""
        if self.log_view.filter_source or self.has_class("-filtering"):
            field = self.query_one(Input)
            field.value = ""
            self.log_view.set_filter("")
        elif self.rank is not None:
            self.show_rank(None)
        self.remove_class("-filtering")
        self.log_view.focus()
        self._renew()

    @on(Input.Changed)
    def filter_typed(self, event: Input.Changed) -> None:
        """Filter while typing."""
        event.stop()
        self.log_view.set_filter(event.value)
        self._renew()

    @on(Input.Submitted)
    def filter_kept(self, event: Input.Submitted) -> None:
        """Keep the filter and go back to the lines."""
        event.stop()
        self.remove_class("-filtering")
        self.log_view.focus()

    @on(RingLog.Changed)
    def lines_changed(self, event: RingLog.Changed) -> None:
        """Renew the status line."""
        event.stop()
        self._renew()

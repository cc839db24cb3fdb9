"""Loss, learning rate, throughput and every rank's step time over the same steps, with one cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.chart_window import ChartWindow, value_at
from hetero_tui.formats import short_seconds
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.line_chart import LABEL_CELLS, LineChart, Series
from hetero_tui.widgets.lines import LineView
from hetero_tui.widgets.log_pane import SERIES

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

DRAWN_RANKS: Final = 6
"""Lines that can be told apart in one chart."""


class CursorValues(LineView, can_focus=True):
    """What every rank needed at the step under the cursor, or in the newest step without one."""

    PACE = 0.5

    def __init__(self, session: SessionProtocol, window: ChartWindow, *, id: str = "cursor-values") -> None:
        super().__init__(id=id)
        self._session = session
        self._window = window
        self._rows: list[tuple[int, str, float | None]] = []
        self._seen: object = None

    def pull(self) -> None:
        """Repaint when the cursor moved, or something came in."""
        store = self._session.store
        seen = (self._window.version, store.version)
        if seen == self._seen:
            return
        self._seen = seen
        cursor = self._window.cursor
        self._rows = []
        for view in store.rank_views():
            points = store.step_history(view.rank)
            point = points[-1] if cursor is None and points else value_at(points, cursor or 0.0)
            self._rows.append((view.rank, view.host, point.mean if point else None))
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a rank."""
        width = self.scrollable_content_region.width
        if y == 0:
            cursor = self._window.cursor
            where = "the newest step" if cursor is None else f"step {cursor:.0f}"
            line = self.line("header").add(" Data + compute", self.tone("bold"))
            return line.add(f" {self.glyphs.dot} {where}", self.tone("dim")).strip(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(self._rows):
            return self.line().strip(width)
        rank, host, seconds = self._rows[index]
        largest = max((row[2] or 0.0 for row in self._rows), default=0.0)
        line = self.line().cell(f"{rank}", 4, self.tone(f"series-{rank % SERIES}"), "right").add(" ")
        line.cell(host, min(14, max(4, width - 24)), self.tone("dim")).add(" ")
        text = "–" if seconds is None else short_seconds(seconds)
        cells = max(0, width - line.width - 9)
        filled = bar((seconds or 0.0) / largest if largest else 0.0, cells, self.glyphs) if cells > 2 else ""
        line.add(filled, self.tone("compute") + self.tone("track"))
        return line.cell(text, 8, self.tone("bold"), "right").strip(width)


class ChartsPane(Container, can_focus=True):
    """Four charts that show the same steps."""

    HELP = (
        "Four charts over the same steps. left and right move the cursor: every heading shows the value there, and the "
        "list shows all ranks. + and - zoom around the cursor, < and > move, 0 shows everything again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cursor(-1)", "Cursor", key_display="←→", id="charts.left"),
        Binding("right", "cursor(1)", "Cursor right", show=False, id="charts.right"),
        Binding("shift+left", "cursor(-10)", "Cursor far left", show=False, id="charts.far_left"),
        Binding("shift+right", "cursor(10)", "Cursor far right", show=False, id="charts.far_right"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom", key_display="+-", id="charts.zoom_in"),
        Binding("minus", "zoom(2.0)", "Zoom out", show=False, id="charts.zoom_out"),
        Binding("less_than_sign,comma", "pan(-0.5)", "Earlier", show=False, id="charts.earlier"),
        Binding("greater_than_sign,full_stop", "pan(0.5)", "Later", show=False, id="charts.later"),
        Binding("0,escape", "reset", "All", id="charts.reset"),
    ]

    def __init__(self, session: SessionProtocol, *, id: str = "charts") -> None:
        super().__init__(id=id)
        self._session = session
        self._window = ChartWindow()

    def compose(self) -> ComposeResult:
        """The charts and the list of values."""
        session, window = self._session, self._window
        with Container(id="charts-grid"):
            yield LineChart("Loss", lambda: session.store.loss_history, window=window, id="charts-loss")
            yield LineChart(
                "Cluster throughput",
                lambda: session.store.throughput_history,
                unit=" samples/s",
                zero_based=True,
                tone="series-1",
                window=window,
                id="charts-throughput",
            )
            yield LineChart(
                "Step time by rank",
                series=self._rank_series,
                unit=" s",
                zero_based=True,
                window=window,
                id="charts-steps",
            )
            yield LineChart(
                "Learning rate",
                lambda: session.store.learning_rate_history,
                zero_based=True,
                tone="series-3",
                window=window,
                id="charts-rate",
            )
        yield CursorValues(session, window)

    def _rank_series(self) -> list[Series]:
        """Return the ranks that can be drawn; of many ranks the ones that differ most now."""
        store = self._session.store
        views = store.rank_views()
        if len(views) > DRAWN_RANKS:
            ordered = sorted(views, key=lambda view: view.step_seconds * (view.parts.compute + view.parts.data))
            half = DRAWN_RANKS // 2
            views = (*ordered[-half:], *ordered[:half])
        names = {view.rank: f"{view.rank} {view.host}" for view in views}
        return [Series(store.step_history(rank), name, f"series-{rank % SERIES}") for rank, name in names.items()]

    def _full(self) -> tuple[float, float] | None:
        points = self._session.store.loss_history or self._session.store.throughput_history
        return (points[0].x, points[-1].x) if len(points) > 1 else None

    def _moved(self) -> None:
        for view in self.query(LineView):
            view.pull()

    def action_cursor(self, columns: int) -> None:
        """Move the cursor."""
        full = self._full()
        if full is not None:
            self._window.move(columns, self.query(LineChart).first().canvas_columns, full)
            self._moved()

    def action_zoom(self, factor: float) -> None:
        """Show more or fewer steps."""
        full = self._full()
        if full is not None:
            self._window.zoom(factor, full)
            self._moved()

    def action_pan(self, part: float) -> None:
        """Show earlier or later steps."""
        full = self._full()
        if full is not None:
            self._window.pan(part, full)
            self._moved()

    def action_reset(self) -> None:
        """Show all steps and follow the run."""
        self._window.reset()
        self._moved()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        full = self._full()
        chart = event.widget
        if full is None or not isinstance(chart, LineChart):
            return
        start, end = self._window.range(full)
        part = (event.x - LABEL_CELLS) / max(1, chart.canvas_columns - 1)
        self._window.cursor = start + min(1.0, max(0.0, part)) * (end - start)
        self._window.version += 1
        self._moved()

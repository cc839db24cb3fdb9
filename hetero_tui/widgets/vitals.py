"""The run in two lines: how far, how fast, how well balanced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.strip import Strip

from hetero_tui.formats import count, duration, percent, rate
from hetero_tui.views import ClusterView
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.lines import LineBuilder, LineView

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


AWAY: Final = ("lost", "connecting", "failed")
"""How this program stands with a host that cannot be heard: between two attempts it is being connected to."""
_NAMED: Final = 2


class Vitals(LineView):
    """Progress on the first line, speed on the second. Every rate says its window."""

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(id="vitals")
        self._session = session
        self._view: ClusterView | None = None
        self._phases: tuple[str, ...] = ()

    def pull(self) -> None:
        """Repaint when a figure changed."""
        view = self._session.store.cluster_view()
        phases = tuple(status.phase for status in self._session.hosts.values())
        if view != self._view or phases != self._phases:
            self._view = view
            self._phases = phases
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one of the two lines."""
        width = self.size.width
        view = self._view or self._session.store.cluster_view()
        return self._progress(view, width) if y == 0 else self._speed(view, width)

    def _progress(self, view: ClusterView, width: int) -> Strip:
        line = self.line()
        total = view.steps_total
        fraction = view.step / total if total else 0.0
        figures = [
            ("step ", f"{count(view.step)}/{count(total)}" if total else "–"),
            ("epoch ", str(view.epoch + 1) if total else "–"),
            ("ETA ", duration(view.eta)),
        ]
        if width >= 100:
            figures.append(("elapsed ", duration(view.elapsed)))
        if width >= 130 and view.learning_rate is not None:
            figures.append(("learning rate ", f"{view.learning_rate:.3g}"))
        text_width = sum(len(name) + len(value) + 3 for name, value in figures) + 7
        bar_width = max(6, min(40, width - text_width - 2))
        line.add(" ").add(bar(fraction, bar_width, self.glyphs), self.tone("ok") + self.tone("track"))
        line.add(f" {percent(fraction):>5} ", self.tone("bold"))
        self._figures(line, figures)
        return line.strip(width)

    def _speed(self, view: ClusterView, width: int) -> Strip:
        line = self.line()
        efficiency = view.efficiency
        line.add(f" {rate(view.samples_per_second)} samples/s", self.tone("bold")).add(" (10 s)", self.tone("dim"))
        figures = [
            ("efficiency ", f"{percent(efficiency.total)} of ideal" if efficiency else "–"),
            ("loss ", "–" if view.loss is None else f"{view.loss:.4f}"),
        ]
        if width >= 80:
            ranks = f"{view.ranks_training}/{view.ranks}"
            figures.append(("training ", f"{ranks} ranks" if width >= 90 else ranks))
        if width >= 110:
            figures.append(("policy ", view.policy or "–"))
        if width >= 130:
            figures.append(("global batch ", str(view.global_batch or "–")))
        warnings = self._warnings(view)
        room = width - line.width - sum(len(each) + 3 for each in warnings)
        # What is wrong is worth more than what is usual.
        while figures and sum(len(name) + len(value) + 3 for name, value in figures) > room and warnings:
            figures.pop()
        if figures:
            line.add(f" {self.glyphs.dot} ", self.tone("dim"))
        self._figures(line, figures)
        for each in warnings:
            line.add(f" {self.glyphs.dot} ", self.tone("dim")).add(each, self.tone("warn"))
        return line.strip(width)

    def _warnings(self, view: ClusterView) -> list[str]:
        away = [name for name, status in self._session.hosts.items() if status.phase in AWAY]
        who = ", ".join(away) if len(away) <= _NAMED else f"{len(away)} of {len(self._session.hosts)} hosts"
        warnings = [f"! no connection to {who}"] if away else []
        if missing := view.lost_lines + view.broken_events:
            warnings.append(f"! {missing} lines lost")
        return warnings

    def _figures(self, line: LineBuilder, figures: list[tuple[str, str]]) -> None:
        for index, (name, value) in enumerate(figures):
            if index:
                line.add(f" {self.glyphs.dot} ", self.tone("dim"))
            line.add(name, self.tone("dim")).add(value)

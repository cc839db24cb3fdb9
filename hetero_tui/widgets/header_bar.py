"""The top line of every screen: which cluster and run, how it stands, and whether speeds are simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.strip import Strip

from hetero_tui.formats import duration
from hetero_tui.sanitize import clean
from hetero_tui.theme import RUN_TONES
from hetero_tui.views import ClusterView
from hetero_tui.widgets.lines import LineView, fit

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

SIMULATED_LABEL = " SIMULATED SPEEDS "


class HeaderBar(LineView):
    """One line. Never cut in the middle: what does not fit is left out from the right, the label last."""

    def __init__(self, session: SessionProtocol, title: str) -> None:
        super().__init__(id="header")
        self._session = session
        self._title = title
        self._seen: object = None
        self.frozen = False
        """Painting is paused: say so."""

    def pull(self) -> None:
        """Repaint when the state or the second changed."""
        view = self._session.store.cluster_view()
        seen = (view.state_text, duration(view.elapsed), self._session.run_id, self._session.simulated, self.frozen)
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the line."""
        width = self.size.width
        view = self._session.store.cluster_view()
        simulated = SIMULATED_LABEL if self._session.simulated else ""
        frozen = " SCREEN PAUSED " if self.frozen else ""
        line = self.line("header")
        line.add(" hetero-tui ", self.tone("accent") + self.tone("bold"))
        room = width - line.width - len(simulated) - len(frozen)
        left, right = self._texts(view, room)
        line.add(left[0], self.tone("bold")).add(left[1], self.tone("dim"))
        if left[2]:
            line.add(left[2], self.tone(RUN_TONES[view.state]) + self.tone("bold"))
        used = line.width + len(right) + len(simulated) + len(frozen)
        line.add(" " * max(0, width - used))
        line.add(frozen, self.tone("badge")).add(simulated, self.tone("badge")).add(right, self.tone("dim"))
        return line.strip(width)

    def _texts(self, view: ClusterView, room: int) -> tuple[tuple[str, str, str], str]:
        cluster = clean(self._session.inventory.cluster.name, 40)
        run = self._session.run_id
        state = f" {self.glyphs.runs[view.state]} {view.state_text} " if run else ""
        elapsed = f" {duration(view.elapsed)} " if run and view.elapsed is not None else ""
        title = f" {self.glyphs.dot} {self._title}"
        run_text = f" {self.glyphs.dot} run {clean(run, 40)}" if run else ""
        for middle in (f"{title}{run_text}", run_text or title, ""):
            if len(cluster) + len(middle) + len(state) + len(elapsed) <= room:
                return (cluster, middle, state), elapsed
        return (fit(cluster, max(0, room - len(state)), ellipsis=self.glyphs.ellipsis).rstrip(), "", state), ""

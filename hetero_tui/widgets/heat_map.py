"""Who waits, over time: one row a rank, one cell a second, the darker the more of its steps a rank waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.formats import percent
from hetero_tui.views import RankView
from hetero_tui.widgets.lines import LineView

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


class HeatMap(LineView, can_focus=True):
    """The rank whose row stays empty is the one the others wait for."""

    HELP = (
        "Each cell is about a second of one rank: the darker, the larger the part of its steps it spent waiting for "
        "slower ranks. The rank whose row stays empty is the one the others wait for."
    )

    PACE = 1.0

    def __init__(self, session: SessionProtocol, *, id: str = "waits") -> None:
        super().__init__(id=id)
        self._session = session
        self._views: tuple[RankView, ...] = ()
        self._seen: object = None

    def pull(self) -> None:
        """Repaint every second when something came in."""
        store = self._session.store
        seen = (store.version, int(store.now))
        old = self._seen
        if isinstance(old, tuple) and (old[0] == seen[0] or (old[1] == seen[1] and self._views)):
            return
        self._seen = seen
        self._views = store.rank_views()
        self.virtual_size = Size(self.size.width, len(self._views) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a rank."""
        width = self.scrollable_content_region.width
        glyphs = self.glyphs
        if y == 0:
            scale = f" {glyphs.dot} {glyphs.heat[0]} never  {glyphs.heat[2]} half  {glyphs.heat[4]} always, last 40 s"
            line = self.line("header").add(" Who waits", self.tone("bold"))
            return line.add(scale if width >= 50 else "", self.tone("dim")).strip(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(self._views):
            return self.line().strip(width)
        view = self._views[index]
        line = self.line().add(f"{view.rank:>4} ", self.tone("dim"))
        cells = max(1, width - line.width - 7)
        steps = len(glyphs.heat) - 1
        shown = view.waits[-cells:]
        text = "".join(glyphs.heat[min(steps, round(min(1.0, max(0.0, wait)) * steps))] for wait in shown)
        line.add(text.ljust(cells), self.tone("wait"))
        return line.add(f" {percent(view.parts.wait):>5}", self.tone("dim")).strip(width)

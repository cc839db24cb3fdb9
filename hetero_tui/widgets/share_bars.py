"""Share against speed: the bar is the part of the batch a rank gets, the mark is its part of the cluster's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.formats import percent, rate
from hetero_tui.views import RankView
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.lines import LineView, fit

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


class ShareBars(LineView, can_focus=True):
    """One row a rank on one common scale. Where bar and mark meet, the rank has the share it can carry."""

    HELP = (
        "The bar is the rank's share of the global batch, the mark its part of the ranks' speed (10 s). "
        "A bar longer than its mark: the rank has too much and the others wait for it."
    )
    PACE = 0.5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
    ]

    def __init__(self, session: SessionProtocol, *, id: str = "shares") -> None:
        super().__init__(id=id)
        self._session = session
        self._views: tuple[RankView, ...] = ()
        self._seen: object = None

    def pull(self) -> None:
        """Repaint when something came in; with many ranks at most every second."""
        store = self._session.store
        pace = 10 if len(self._views) <= 128 else 1
        seen = (store.version, int(store.now * pace))
        if seen == self._seen or (self._seen is not None and seen[0] == self._seen[0]):  # type: ignore[index]
            return
        if pace == 1 and self._seen is not None and seen[1] == self._seen[1]:  # type: ignore[index]
            return
        self._seen = seen
        self._views = store.rank_views()
        self.virtual_size = Size(self.size.width, len(self._views) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a rank."""
        width = self.scrollable_content_region.width
        if y == 0:
            mark = self.glyphs.marker
            text = f" {self.glyphs.dot} bar: share of the batch, {mark}: part of the speed" if width >= 56 else ""
            return self.line("header").add(" Balance", self.tone("bold")).add(text, self.tone("dim")).strip(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(self._views):
            return self.line().strip(width)
        return self._row(self._views[index], width)

    def _row(self, view: RankView, width: int) -> Strip:
        shares = sum(each.share for each in self._views)
        speeds = sum(each.speed for each in self._views)
        share = view.share / shares if shares else 0.0
        speed = view.speed / speeds if speeds else 0.0
        largest = max(
            max((each.share for each in self._views), default=0) / shares if shares else 0.0,
            max((each.speed for each in self._views), default=0.0) / speeds if speeds else 0.0,
        )
        name = 14 if width < 60 else 20
        line = self.line().add(" ").cell(f"{view.rank:>3} {view.host}", name, self.tone("dim")).add(" ")
        text = f" {view.share:>5} = {percent(share):>5}"
        if width >= 44:
            text += f" {self.glyphs.dot} {rate(view.speed):>5}/s = {percent(speed):>5} "
        cells = max(4, width - line.width - len(text))
        filled = bar(share / largest if largest else 0.0, cells, self.glyphs)
        over = share > speed * 1.1 and speeds > 0
        tone = self.tone("warn" if over else "compute") + self.tone("track")
        place = min(cells - 1, round(speed / largest * cells)) if largest else 0
        if speeds and largest:
            line.add(filled[:place], tone).add(self.glyphs.marker, self.tone("bold") + self.tone("track"))
            line.add(filled[place + 1 :], tone)
        else:
            line.add(filled, tone)
        return line.add(fit(text, len(text))).strip(width)


class Rebalances(LineView, can_focus=True):
    """When the shares changed, to what, and why; the newest first."""

    PACE = 0.5

    def __init__(self, session: SessionProtocol, *, id: str = "rebalances") -> None:
        super().__init__(id=id)
        self._session = session
        self._seen = -1

    def pull(self) -> None:
        """Repaint when a plan took effect."""
        history = self._session.store.shares_history
        last = hash((len(history), history[-1])) if history else 0
        if last != self._seen:
            self._seen = last
            self.virtual_size = Size(self.size.width, 2 * len(history) + 1)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the heading, or one of the two lines of a plan."""
        width = self.scrollable_content_region.width
        history = self._session.store.shares_history
        if y == 0:
            count = f" {self.glyphs.dot} {len(history)} plan{'s' if len(history) > 1 else ''}" if history else ""
            return (
                self.line("header")
                .add(" Shares over time", self.tone("bold"))
                .add(count, self.tone("dim"))
                .strip(width)
            )
        index, part = divmod(round(self.scroll_y) + y - 1, 2)
        if index >= len(history):
            empty = "  no plan yet" if not history and index == 0 and part == 0 else ""
            return self.line().add(empty, self.tone("dim")).strip(width)
        record = history[-1 - index]
        if part:
            text = f"      {record.reason or record.policy}"
            return Strip([Segment(fit(text, width), self.base + self.tone("dim"))])
        shares = " / ".join(str(share) for share in record.shares)
        line = self.line().add(f" step {record.step:<6} ", self.tone("accent"))
        expected = ""
        if record.predicted_samples_per_second > 0:
            expected = f" predicted {rate(record.predicted_samples_per_second)} samples/s"
        room = width - line.width - len(expected)
        line.add(fit(shares, max(0, room)), self.tone("bold")).add(expected, self.tone("dim"))
        return line.strip(width)

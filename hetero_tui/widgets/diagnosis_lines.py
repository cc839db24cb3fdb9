"""The straggler with its cause and its cost, and what the run would be without a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.diagnosis import Straggler, WhatIf, straggler, without_host
from hetero_tui.formats import percent, rate, short_seconds
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.lines import LineView, fit

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

WHAT_IF_HOSTS: Final = 16
"""Hosts that are tried; with more of them those that hold the slowest ranks."""


class StragglerLines(LineView):
    """Two lines: who holds the others up and why, and what that costs."""

    PACE = 1.0

    def __init__(self, session: SessionProtocol, *, id: str = "straggler") -> None:
        super().__init__(id=id)
        self._session = session
        self._found: Straggler | None = None
        self._seen: object = None

    def pull(self) -> None:
        """Look again once a second when something came in."""
        store = self._session.store
        if store.version == self._seen:
            return
        self._seen = store.version
        self._found = straggler(store.rank_views(), store.cluster_view())
        self.refresh()

    def on_resize(self) -> None:
        """Never scroll."""
        self.virtual_size = Size(self.size.width, 2)

    def render_line(self, y: int) -> Strip:
        """Draw one of two lines."""
        width = self.size.width
        found = self._found
        line = self.line("header" if y == 0 else "")
        dot = f" {self.glyphs.dot} "
        if found is None:
            text = " Straggler" if y == 0 else " no rank makes the others wait for a noticeable part of a step"
            return line.add(text, self.tone("bold" if y == 0 else "ok")).strip(width)
        if y == 0:
            line.add(" Straggler ", self.tone("bold"))
            line.add(f"! rank {found.rank} on {found.host}: {found.cause}", self.tone("warn"))
            line.add(f"{dot}costs {rate(found.cost)} samples/s", self.tone("accent"))
            return line.strip(width)
        text = f" {found.evidence}{dot}the others wait {short_seconds(found.late)} in each step for it alone"
        return line.add(fit(text, width, ellipsis=self.glyphs.ellipsis), self.tone("dim")).strip(width)


class WhatIfTable(LineView, can_focus=True):
    """One row a host: the throughput without it, predicted from the speeds measured now."""

    PACE = 2.0
    HELP = (
        "What the cluster would do without each host, if the others shared its samples in the best way. Predicted from "
        "the speeds of the last ten seconds; communication is taken to stay as it is."
    )

    def __init__(self, session: SessionProtocol, *, id: str = "what-if") -> None:
        super().__init__(id=id)
        self._session = session
        self._rows: list[WhatIf] = []
        self._seen: object = None

    def pull(self) -> None:
        """Predict anew when something came in."""
        store = self._session.store
        if store.version == self._seen:
            return
        self._seen = store.version
        views, cluster = store.rank_views(), store.cluster_view()
        hosts = list(dict.fromkeys(view.host for view in sorted(views, key=lambda view: view.speed)))[:WHAT_IF_HOSTS]
        found = (without_host(views, cluster, host) for host in hosts)
        self._rows = sorted((each for each in found if each is not None), key=lambda each: -each.change)
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a host."""
        width = self.scrollable_content_region.width
        if y == 0:
            text = f" {self.glyphs.dot} predicted samples/s without a host" if width >= 50 else ""
            return self.line("header").add(" What if", self.tone("bold")).add(text, self.tone("dim")).strip(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(self._rows):
            empty = "  no speeds are known yet" if not self._rows and y == 1 else ""
            return self.line().add(empty, self.tone("dim")).strip(width)
        row = self._rows[index]
        largest = max(each.samples_per_second for each in self._rows)
        line = self.line().add(" without ", self.tone("dim")).cell(row.host, min(14, max(6, width // 4))).add(" ")
        change = f"{'+' if row.change > 0 else ''}{percent(row.change, 1)}"
        text = f" {rate(row.samples_per_second):>6} {change:>8} "
        cells = max(3, width - line.width - len(text))
        gains = row.change > 0.0
        tone = self.tone("warn" if gains else "compute")
        line.add(bar(row.samples_per_second / largest, cells, self.glyphs), tone + self.tone("track"))
        return line.add(text, self.tone("warn" if gains else "bold")).strip(width)

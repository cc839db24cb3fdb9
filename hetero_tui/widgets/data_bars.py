"""How each host's data set stands against the master's, and how far what it lacks has come."""

from __future__ import annotations

import textwrap
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.data_report import standing
from hetero_tui.formats import counted
from hetero_tui.image_report import size_text
from hetero_tui.sanitize import clean
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.lines import LineView, fit
from remote.checks.model import Verdict
from remote.dataset import Difference

if TYPE_CHECKING:
    from remote.dataset_sync import DatasetState

NAME_WIDTH: Final = 16
NAME_BEGINS: Final = 3
RATE_SECONDS: Final = 3.0
NARROWEST: Final = 24
"""Cells that a reason is given at least, however narrow the screen."""


class Arriving:
    """What has arrived at one host, and how fast it comes."""

    def __init__(self, now: float, arrived: int, total: int) -> None:
        self.total = total
        self._told = deque([(now, arrived)])

    def moved(self, now: float, arrived: int, total: int) -> None:
        """Take in how far it is."""
        self.total = total
        self._told.append((now, arrived))
        while len(self._told) > 2 and self._told[0][0] < now - RATE_SECONDS:
            self._told.popleft()

    @property
    def arrived(self) -> int:
        """Bytes."""
        return self._told[-1][1]

    @property
    def rate(self) -> float:
        """Bytes a second, over the last three seconds; 0 where it is not known yet."""
        (begun, before), (now, arrived) = self._told[0], self._told[-1]
        return (arrived - before) / (now - begun) if now > begun else 0.0


class DataBars(LineView, can_focus=True):
    """The master, then a line for each other host."""

    can_focus = True

    def __init__(self, master: str, folder: str) -> None:
        super().__init__(id="data-bars")
        self._master = master
        self._folder = folder
        self.state: DatasetState | None = None
        self._arriving: dict[str, Arriving] = {}

    def show(self, state: DatasetState | None) -> None:
        """Show how the hosts stand; nothing is on its way any more."""
        self.state = state
        self._arriving.clear()
        self._resized()

    def on_resize(self) -> None:
        """Break the reasons anew."""
        self._resized()

    def _resized(self) -> None:
        self.virtual_size = Size(self.size.width, 1 + len(self._rows(self.size.width)))
        self.refresh()

    def _rows(self, width: int) -> list[tuple[str, int, str]]:
        """Return what stands on each line below the master's: the host, which of its lines it is, and the text."""
        if self.state is None:
            return []
        room = max(width - NAME_BEGINS - NAME_WIDTH - 2, NARROWEST)
        return [
            (host, number, text)
            for host in self.state.differences
            for number, text in enumerate(self._lines(host, self.state, room))
        ]

    def _lines(self, host: str, state: DatasetState, room: int) -> list[str]:
        return [""] if host in self._arriving else textwrap.wrap(standing(host, state), room)

    def moved(self, host: str, arrived: int, total: int) -> None:
        """Take in how far one host is."""
        now = time.monotonic()
        if host in self._arriving:
            self._arriving[host].moved(now, arrived, total)
        else:
            self._arriving[host] = Arriving(now, arrived, total)
        self._resized()

    def render_line(self, y: int) -> Strip:
        """Draw the master or another host."""
        width = self.scrollable_content_region.width
        index = round(self.scroll_y) + y
        if self.state is None:
            text = " Comparing names and sizes…" if index == 0 else ""
            return self.line().add(text, self.tone("dim")).strip(width)
        if index == 0:
            size = f"{counted(len(self.state.sizes), 'file')}, {size_text(sum(self.state.sizes.values()))}"
            line = self.line().add(" " * NAME_BEGINS).cell(clean(self._master), NAME_WIDTH, self.tone("bold"))
            return line.add(f" {size} in {clean(self._folder)}: the measure for the others").strip(width)
        rows = self._rows(width)
        if index > len(rows):
            return self.line().strip(width)
        host, number, text = rows[index - 1]
        if number == 0:
            return self._host(host, self.state, text, width)
        line = self.line().add(" " * (NAME_BEGINS + NAME_WIDTH + 1))
        return line.add(fit(text, max(width - line.width, 8))).strip(width)

    def _host(self, host: str, state: DatasetState, text: str, width: int) -> Strip:
        same = state.differences[host] == Difference() and host not in state.unfinished
        verdict = Verdict.OK if same else Verdict.FAIL
        tone = self.tone("ok" if same else "fail")
        line = self.line().add(f" {self.glyphs.verdicts[verdict]} ", tone)
        line.cell(clean(host), NAME_WIDTH, self.tone("bold")).add(" ")
        coming = self._arriving.get(host)
        if coming is not None:
            line.add(bar(coming.arrived / max(coming.total, 1), 14, self.glyphs), self.tone("accent"))
            line.add(f" {size_text(coming.arrived)} of {size_text(coming.total)}")
            if coming.rate:
                left = (coming.total - coming.arrived) / coming.rate
                line.add(f" · {size_text(coming.rate)}/s over 3 s · {left:.0f} s left", self.tone("dim"))
            return line.strip(width)
        return line.add(fit(text, max(width - line.width, 8))).strip(width)

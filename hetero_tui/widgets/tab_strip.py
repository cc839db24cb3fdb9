"""The row of tabs, by number or mouse."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from hetero_tui.widgets.lines import LineView


class TabStrip(LineView):
    """One line: ``1 Overview  2 Balance …``."""

    active: reactive[int] = reactive(0)

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, titles: tuple[str, ...]) -> None:
        super().__init__(id="tabs")
        self._titles = titles

    def _labels(self) -> list[str]:
        wide = self.size.width >= sum(len(title) + 5 for title in self._titles)
        return [f" {number} {title} " if wide else f" {number} " for number, title in enumerate(self._titles, 1)]

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the tabs; the active one is reversed and in brackets, so it shows without colour."""
        line = self.line()
        for index, label in enumerate(self._labels()):
            if index == self.active:
                line.add(f"[{label.strip()}]", self.tone("cursor") + self.tone("bold"))
            else:
                line.add(label, self.tone("dim"))
            line.add(" ")
        return line.strip(self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Find the tab under the mouse."""
        left = 0
        for index, label in enumerate(self._labels()):
            if left <= event.x < left + len(label):
                self.post_message(self.Chosen(index))
                return
            left += len(label) + 1

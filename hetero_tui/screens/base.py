"""What all screens share: the session, the header, and one clock that lets visible widgets pull."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from textual.screen import ModalScreen, Screen

from hetero_tui.widgets.header_bar import HeaderBar
from hetero_tui.widgets.lines import LineView

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp
    from hetero_tui.session import SessionProtocol

TICKS_A_SECOND: Final = 10
LOOK_AGAIN_SECONDS: Final = 2.0
"""Widgets that came or went are noticed this late."""
TOLERANCE_SECONDS: Final = 0.02
"""A tick this much early counts, or a widget would miss every other one."""


class LiveScreen(Screen[None]):
    """A screen whose live widgets pull while they are visible. ``painting`` off stops painting, never consuming."""

    TITLE = ""

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__()
        self.session = session
        self.painting = True
        self._views: tuple[LineView, ...] = ()
        self._views_found = 0.0
        self._due: dict[LineView, float] = {}

    @property
    def hetero(self) -> HeteroApp:
        """The app, by its own type."""
        from hetero_tui.app import HeteroApp

        assert isinstance(self.app, HeteroApp)
        return self.app

    def header(self) -> HeaderBar:
        """Return the top line."""
        return HeaderBar(self.session, str(self.TITLE))

    def on_mount(self) -> None:
        """Start the clock."""
        self.set_interval(1 / TICKS_A_SECOND, self.tick)

    @property
    def is_seen(self) -> bool:
        """Whether this is the screen in front, dialogs left aside.

        Textual's ``is_current`` is true for the screen under an opaque one as well, and repainting that one repaints
        everything.
        """
        seen = next((each for each in reversed(self.app.screen_stack) if not isinstance(each, ModalScreen)), None)
        return seen is self

    def tick(self) -> None:
        """Let everything visible whose time has come fetch what is new."""
        if not self.is_seen:
            return
        now = time.monotonic()
        if not self._views or now >= self._views_found + LOOK_AGAIN_SECONDS:
            self._views, self._views_found = tuple(self.query(LineView)), now
        for widget in self._views:
            if now >= self._due.get(widget, 0.0) and (self.painting or isinstance(widget, HeaderBar)):
                self._due[widget] = now + widget.PACE - TOLERANCE_SECONDS
                if widget.is_on_screen:
                    widget.pull()

    def pull(self) -> None:
        """Let everything visible fetch what is new at once, whatever its pace: somebody asked for it."""
        self._views, self._due = (), {}
        self.tick()

"""What all screens share: the session, the header, and one clock that lets visible widgets pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.screen import Screen

from hetero_tui.widgets.header_bar import HeaderBar
from hetero_tui.widgets.lines import LineView

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp
    from hetero_tui.session import SessionProtocol

PULLS_A_SECOND: Final = 10


class LiveScreen(Screen[None]):
    """A screen whose live widgets pull while they are visible. ``painting`` off stops painting, never consuming."""

    TITLE = ""

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__()
        self.session = session
        self.painting = True

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
        self.set_interval(1 / PULLS_A_SECOND, self.pull)

    def pull(self) -> None:
        """Let everything visible fetch what is new."""
        if not self.is_current:
            return
        for widget in self.query(LineView):
            if (self.painting or isinstance(widget, HeaderBar)) and widget.is_on_screen:
                widget.pull()

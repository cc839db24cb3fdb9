"""The app on a recording."""

from __future__ import annotations

from hetero_tui.app import HeteroApp
from hetero_tui.replay import ReplaySession
from hetero_tui.screens.replay import ReplayScreen
from hetero_tui.settings import Settings


class ReplayApp(HeteroApp):
    """Opens the monitor at once; nothing can be started, sent or stopped."""

    def __init__(self, session: ReplaySession, *, ascii_only: bool = False, settings: Settings | None = None) -> None:
        super().__init__(session, start="monitor", readonly=True, ascii_only=ascii_only, settings=settings)
        self._replay = session

    def action_show_monitor(self) -> None:
        """Go to the replay, whatever is in front."""
        if not any(isinstance(screen, ReplayScreen) for screen in self.screen_stack):
            self.push_screen(ReplayScreen(self._replay))

    async def action_quit(self) -> None:
        """Leave at once: nothing goes on behind."""
        self.exit(0)

"""The past of a long run is being read: how far that is, and a way out."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from hetero_tui.formats import counted
from hetero_tui.sanitize import clean
from hetero_tui.session import PastRead, PastSession

SHOWN_AFTER: Final = 0.7
"""Seconds; most pasts are read sooner, and a dialog that flashes by tells nobody anything."""
_REFRESH: Final = 0.25


def past_text(past: PastRead) -> str:
    """Return in words how much has been read."""
    return f"{past.fraction:.0%} of the recording read, {counted(past.lines, 'line')}"


class TakingOver(ModalScreen[bool]):
    """Goes away with True when somebody gives up; whoever opened it takes it away when all is read."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Cancel", id="takeover.cancel")]

    def __init__(self, session: PastSession, run_id: str) -> None:
        super().__init__()
        self._session = session
        self._run_id = run_id

    def compose(self) -> ComposeResult:
        """Title, figures, the way out."""
        with Vertical(classes="dialog"):
            yield Label(Content(f"Reading the past of run {clean(self._run_id, 60)}"), classes="dialog-title")
            yield Static(Content(past_text(self._session.past)), classes="dialog-plain", id="past-read")
            yield Label(Content("esc cancel: the run goes on, and nothing that is kept is lost"), classes="dialog-hint")

    def on_mount(self) -> None:
        """Keep the figures new."""
        self.set_interval(_REFRESH, self._pull)

    def _pull(self) -> None:
        self.query_one("#past-read", Static).update(Content(past_text(self._session.past)))

    def action_leave(self) -> None:
        """Give up."""
        self.dismiss(True)

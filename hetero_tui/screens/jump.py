"""Jump mode: a letter on every pane; pressing it goes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Label

LETTERS: Final = "asdfghjklweruiocvbnm"


def targets(screen: Screen[object]) -> dict[str, Widget]:
    """Give a letter to every pane that can take the keys and is on the screen, from the top left."""
    panes = [widget for widget in screen.focus_chain if widget.is_on_screen and widget.region.area]
    panes.sort(key=lambda widget: (widget.region.y, widget.region.x))
    return dict(zip(LETTERS, panes, strict=False))


class JumpScreen(ModalScreen[Widget | None]):
    """The letters, over the screen they lead into."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="jump.cancel")]
    DEFAULT_CSS = """
    JumpScreen { background: transparent; align: left top; }
    JumpScreen Label { position: absolute; width: auto; height: 1; background: $accent; color: auto; text-style: bold; }
    """

    def __init__(self, panes: Mapping[str, Widget]) -> None:
        super().__init__()
        self._panes = dict(panes)

    def compose(self) -> ComposeResult:
        """One label on the corner of each pane."""
        for letter, pane in self._panes.items():
            label = Label(Content(f" {letter} "))
            label.styles.offset = (pane.region.x, pane.region.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        """Go to the pane of the letter; any other key cancels."""
        event.stop()
        self.dismiss(self._panes.get(event.character or ""))

    def action_leave(self) -> None:
        """Go nowhere."""
        self.dismiss(None)

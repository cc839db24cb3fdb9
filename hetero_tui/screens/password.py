"""Asks for a password. What is typed is handed on once and kept nowhere."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from hetero_tui.sanitize import clean, clean_block


class AskPassword(ModalScreen[str | None]):
    """A password, or ``None`` when nobody wanted to give one. Names what it is for."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="password.cancel")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._heading = clean(title)
        self._text = clean_block(text)

    def compose(self) -> ComposeResult:
        """Title, text, and a line that shows dots."""
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="dialog-title")
            with VerticalScroll(classes="dialog-text", can_focus=False):
                yield Static(Content(self._text))
            yield Input(password=True, placeholder="password", id="password", compact=True, select_on_focus=False)
            yield Label(Content("enter run · esc cancel"), classes="dialog-hint")

    def on_mount(self) -> None:
        """Start in the input."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Hand the password on; the widget forgets it."""
        password = event.value
        event.input.value = ""
        self.dismiss(password or None)

    def action_leave(self) -> None:
        """Give none."""
        self.query_one(Input).value = ""
        self.dismiss(None)

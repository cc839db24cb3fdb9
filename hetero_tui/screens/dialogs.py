"""Questions and errors in front of a screen. Remote text is always literal here, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from hetero_tui.sanitize import clean, clean_block


class Confirm(ModalScreen[bool]):
    """A question that names its target. Nothing happens unless it is answered with yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "No", id="confirm.no"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]

    def __init__(self, title: str, text: str, *, yes: str, no: str = "Cancel", danger: bool = False) -> None:
        super().__init__()
        self._heading = title
        self._text = text
        self._yes = yes
        self._no = no
        self._danger = danger

    def compose(self) -> ComposeResult:
        """Title, text, two buttons; the harmless one has the focus."""
        with Vertical(classes="dialog -danger" if self._danger else "dialog"):
            yield Label(Content(clean(self._heading)), classes="dialog-title")
            with VerticalScroll(classes="dialog-text", can_focus=False):
                yield Static(Content(clean_block(self._text)))
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(f"{self._no} (n)"), id="no", compact=True)
                yes = Content(f"{self._yes} (y)")
                yield Button(yes, id="yes", variant="error" if self._danger else "primary", compact=True)

    def on_mount(self) -> None:
        """Start on the harmless answer."""
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer with the button."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer with a key."""
        self.dismiss(yes)


class ErrorDialog(ModalScreen[None]):
    """An error with everything that is known. The program goes on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "Close", id="error.close"),
        Binding("y", "copy", "Copy", id="error.copy"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._heading = clean(title)
        self._text = clean_block(text)

    def compose(self) -> ComposeResult:
        """Title and text."""
        with Vertical(classes="dialog -danger"):
            yield Label(Content(self._heading), classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(Content(self._text))
            yield Label(Content("esc close · y copy · up/down scroll"), classes="dialog-hint")

    def action_close(self) -> None:
        """Go back."""
        self.dismiss()

    def action_copy(self) -> None:
        """Copy title and text."""
        self.app.copy_to_clipboard(f"{self._heading}\n{self._text}")
        self.app.notify("Sent to the terminal's clipboard (OSC 52)", markup=False)


class Choice(ModalScreen[str | None]):
    """Pick one of several; ``None`` when nothing was picked."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Cancel", id="choice.cancel")]

    def __init__(self, title: str, text: str, options: Sequence[tuple[str, str]]) -> None:
        """``options`` are (value, label)."""
        super().__init__()
        self._heading = clean(title)
        self._text = clean_block(text)
        self._options = tuple((value, clean(label)) for value, label in options)

    def compose(self) -> ComposeResult:
        """Title, text and the list."""
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="dialog-title")
            if self._text:
                yield Static(Content(self._text), classes="dialog-plain")
            yield OptionList(*(Option(Content(label)) for _, label in self._options), compact=True)
            yield Label(Content("enter choose · esc cancel"), classes="dialog-hint")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Answer with the option."""
        self.dismiss(self._options[event.option_index][0])

    def action_leave(self) -> None:
        """Pick nothing."""
        self.dismiss(None)


class Ask(ModalScreen[str | None]):
    """One line of text; ``None`` when nothing was entered."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="ask.cancel")]

    def __init__(self, title: str, hint: str, value: str = "") -> None:
        super().__init__()
        self._heading = clean(title)
        self._hint = clean(hint)
        self._value = value

    def compose(self) -> ComposeResult:
        """Title and field."""
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="dialog-title")
            yield Input(self._value, placeholder=self._hint, compact=True)
            yield Label(Content("enter keep · esc cancel"), classes="dialog-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with the text."""
        self.dismiss(event.value)

    def action_leave(self) -> None:
        """Answer with nothing."""
        self.dismiss(None)

"""What the focused pane is and which keys work here."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import ModalScreen, Screen
from textual.widgets import Label, Static

from hetero_tui.theme import Glyphs


def help_text(screen: Screen[object], glyphs: Glyphs) -> Content:
    """Collect the help of the focused pane and its screen, and every key that works there."""
    pieces: list[Content | str | tuple[str, str]] = []
    seen: set[str] = set()
    nodes: list[DOMNode] = [*(screen.focused.ancestors_with_self if screen.focused else ()), screen]
    for node in nodes:
        text = getattr(node, "HELP", None)
        if isinstance(text, str) and text not in seen:
            seen.add(text)
            pieces.append(f"{text}\n\n")
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for key, active in screen.active_bindings.items():
        binding = active.binding
        if not binding.description or binding.system or not binding.id:
            continue
        display = screen.app.get_key_display(binding)
        rows = groups.setdefault(binding.id.split(".")[0], [])
        other = next((index for index, row in enumerate(rows) if row[1] == binding.description), None)
        if other is None:
            rows.append((display, binding.description, binding.id))
        elif key != binding.key:
            rows[other] = (f"{rows[other][0]} {display}", binding.description, rows[other][2])
    for name, rows in groups.items():
        pieces.append((f"{name.replace('_', ' ').title()}\n", "bold $text-accent"))
        for display, description, name in rows:
            pieces += [(f"  {display:<16}", "bold"), f"{description:<28}", (f"{name}\n", "$muted")]
        pieces.append("\n")
    pieces.append(("Glyphs\n", "bold $text-accent"))
    pieces.append("  " + "  ".join(f"{glyph} {state.value}" for state, glyph in glyphs.ranks.items()) + "\n")
    pieces.append("  " + "  ".join(f"{glyph} {verdict.value}" for verdict, glyph in glyphs.verdicts.items()) + "\n")
    parts = f"{glyphs.compute} compute  {glyphs.data} data  {glyphs.wait} wait  {glyphs.communication} communication"
    pieces.append(f"  step: {parts}\n")
    return Content.assemble(*pieces)


class HelpScreen(ModalScreen[None]):
    """A panel over the screen it explains."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "close", "Close", id="help.close"),
    ]

    def __init__(self, text: Content) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(classes="dialog -wide"):
            yield Label(Content("Keys and panes"), classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(self._text)
            yield Label(Content("esc close · up/down scroll"), classes="dialog-hint")

    def action_close(self) -> None:
        """Go back."""
        self.dismiss()

"""The line of keys at the bottom: where there is no room for all, the way to help and out stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

ALWAYS: Final = 2
"""The last keys, which are the app's own: help and quit."""
FIRST_LEFT_OUT: Final = ("app.run('policy')", "app.run('slow_host')")
"""Actions that are wanted rarely; ``?`` and the command palette name them, too."""


class KeyFooter(Footer):
    """A footer that is never cut in the middle."""

    def __init__(self) -> None:
        super().__init__(compact=True, show_command_palette=False)

    def compose(self) -> ComposeResult:
        """Compose the keys that fit."""
        keys = [each for each in super().compose() if isinstance(each, FooterKey)]
        yield from fitting(keys, self.app.size.width)

    def on_resize(self, event: events.Resize) -> None:
        """Choose again; not before there were any."""
        if self.children and event.size.width:
            self.call_after_refresh(self.recompose)


def fitting(keys: Sequence[FooterKey], width: int) -> list[FooterKey]:
    """Return the keys that fit into ``width`` cells: what is wanted rarely goes first, then what is on the right."""
    kept = list(keys)
    rare = [key for action in FIRST_LEFT_OUT for key in keys[:-ALWAYS] if key.action == action]
    for key in [*rare, *(each for each in reversed(keys[:-ALWAYS]) if each not in rare)]:
        if sum(map(_cells, kept)) - 1 <= width:
            break
        kept.remove(key)
    return kept


def _cells(key: FooterKey) -> int:
    """Return the width with a blank in the middle and one behind."""
    return cell_len(key.key_display) + cell_len(key.description) + 2

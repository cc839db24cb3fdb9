"""Remote text is hostile: what comes in here from another machine goes out as one safe, printable line.

Textual passes control characters through to the terminal, so an escape sequence in a log line could move the cursor,
write to the clipboard (OSC 52) or change the title. Nothing from another machine reaches a widget without
passing through :func:`clean` or :func:`clean_block`.
"""

from __future__ import annotations

import re
from typing import Final

from rich.cells import cell_len, set_cell_size

MAX_CELLS: Final = 2000
"""Longest line that is kept, in terminal cells."""
MAX_BLOCK_LINES: Final = 400
"""Longest block of text that is kept, in lines."""

_ESCAPES: Final = re.compile(
    # CSI: parameters, intermediates, final byte (ECMA-48 5.4).
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    # OSC, DCS, SOS, PM and APC run to their terminator; without one they swallow the rest, as a terminal would.
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    # Every other escape sequence: intermediates and one final byte.
    r"|\x1b[ -/]*[0-~]?"
)
_UNPRINTABLE: Final = re.compile(
    # C0, DEL and C1; soft hyphen and other invisible marks; bidirectional overrides, which can make a line read
    # as something else; line and paragraph separators; variation selectors; surrogates; tags.
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_TAB_WIDTH: Final = 8
# More than this much raw text can not matter to a line of MAX_CELLS, unless it is nearly all escape sequences.
_RAW_LIMIT: Final = 16 * MAX_CELLS


def clean(text: str, max_cells: int = MAX_CELLS) -> str:
    """Return one printable line without control characters.

    Escape sequences are removed, tabs become spaces, a carriage return starts the line over (what a progress bar
    does), and a line longer than ``max_cells`` is cut with a mark that says how long it was.
    """
    if len(text) <= max_cells and text.isascii() and text.isprintable():
        return text
    length = len(text)
    if "\r" in text:
        text = text.rstrip("\r\n").rsplit("\r", 1)[-1]
    text = text.rstrip("\n").replace("\n", " ")
    cut = len(text) > _RAW_LIMIT
    text = _ESCAPES.sub("", text[:_RAW_LIMIT])
    if "\t" in text:
        text = text.expandtabs(_TAB_WIDTH)
    text = _UNPRINTABLE.sub("", text)
    # Characters count as well as cells: combining marks take no cell and must not pile up without limit.
    if not cut and len(text) <= max_cells and (text.isascii() or cell_len(text) <= max_cells):
        return text
    mark = f" ... (cut, {length} characters)"
    kept = text[: max(0, max_cells - len(mark))]
    if not kept.isascii() and cell_len(kept) > max_cells - len(mark):
        kept = set_cell_size(kept, max_cells - len(mark))
    return kept + mark


def clean_block(text: str, max_lines: int = MAX_BLOCK_LINES) -> str:
    """Return text of several lines, each one clean; too many lines are cut in the middle and the cut is said."""
    count = text.count("\n") + 1
    if count <= max_lines:
        lines = text.split("\n")
    else:
        head = max_lines // 3
        tail = max_lines - head - 1
        first, last = text.split("\n", head)[:head], text.rsplit("\n", tail)[-tail:]
        lines = [*first, f"... ({count - head - tail} lines cut)", *last]
    return "\n".join(clean(line) for line in lines)


def decode(raw: bytes) -> str:
    """Return bytes from another machine as text; what is not UTF-8 becomes U+FFFD, so nothing is hidden."""
    return raw.decode("utf-8", errors="replace")

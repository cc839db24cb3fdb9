"""The man page, from the same source as the page of commands: ``python -m docs.man`` (``make docs``).

Only the Markdown that the command line's own documentation is made of is read; macros: ``man 7 man``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from docs.reference import commands_page
from hetero_tui import __version__

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER / "hetero-tui.1"
_HEAD: Final = """\
.\\" Written by `make docs`; a test compares it with the code.
.TH HETERO\\-TUI 1 "" "hetero\\-tui {version}" "User Commands"
.SH NAME
hetero\\-tui \\- train one PyTorch model on all the unlike machines you own
"""
_FILES: Final = """\
.SH FILES
.TP
.I cluster.toml
The machines and the training; the argument of nearly every command.
.TP
.I experiments/
Plan, facts, checks, events and checkpoints of each run, in the current folder unless \\-\\-experiments names another.
.TP
.I ~/.ssh/config, ~/.ssh/known_hosts
Read as ssh(1) reads them.
.SH SEE ALSO
.BR ssh (1),
.BR docker (1)
"""


def man_page() -> str:
    """Return the page in the macros of man(7)."""
    lines = [_HEAD.format(version=_escaped(__version__))]
    in_code = False
    title = ".SH SYNOPSIS"
    for line in commands_page().splitlines():
        if line.startswith("```"):
            in_code = not in_code
            if in_code:
                lines += [title, ".nf"] if title else [".nf"]
            else:
                lines += [".fi", *([".SH DESCRIPTION"] if title else [])]
                title = ""
        elif in_code:
            lines.append(_escaped(line))
        elif line.startswith("## "):
            lines.append(f".SH {_escaped(line[3:].upper())}")
        elif line.startswith("### "):
            lines.append(f".SS {_escaped(line[4:])}")
        elif line.startswith("**"):
            lines.append(f".SS {_escaped(line.strip('*: '))}")
        elif line.lstrip().startswith("* "):
            lines += _item(line.lstrip()[2:])
        elif not line.strip():
            lines.append(".PP")
        elif not line.startswith(("# ", "<!--")):
            lines.append(_inline(line))
    return re.sub(r"(?:\.PP\n)+(?=\.|$)", "", "\n".join(lines) + "\n") + _FILES


def _item(text: str) -> list[str]:
    name, _, meaning = text.partition(": ")
    return [".TP", _inline(name), _inline(meaning)]


def _inline(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", text)
    pieces = re.split(r"(`[^`]+`|\*\*[^*]+\*\*|\*[^*]+\*)", text)
    rendered = "".join(_piece(piece) for piece in pieces)
    # A line that begins with a dot or an apostrophe would be read as a macro.
    return f"\\&{rendered}" if rendered.startswith((".", "'")) else rendered


def _piece(piece: str) -> str:
    if piece.startswith("`"):
        return f"\\fB{_escaped(piece.strip('`'))}\\fR"
    if piece.startswith("*"):
        return f"\\fI{_escaped(piece.strip('*'))}\\fR"
    return _escaped(piece)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("·", "\\(md").replace("…", "...")


if __name__ == "__main__":
    PAGE.write_text(man_page(), encoding="utf-8")
    print(PAGE)

"""What commands write: results on standard output, everything else on standard error.

Whatever becomes of the streams: closed, full, in an old encoding, or with a reader that has gone.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, TextIO

from hetero_tui import exit_codes

LONGEST_LINE: Final = 20_000
"""Terminal cells; a longer line is cut."""
_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def prepare() -> None:
    """Make the standard streams usable: characters that an encoding lacks are escaped, closed ones lead nowhere."""
    closed = [name for name, _ in _STREAMS if getattr(sys, name) is None]
    for name, mode in _STREAMS:
        if name in closed:
            # Left closed, its number goes to the next file or socket, into which everything that prints would write.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if "stdout" in closed:
        say("standard output is closed: what this command prints goes nowhere")


def finish(code: int) -> int:
    """Write out what is still buffered, and return the exit code: a result that was lost is no success."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        give_up(sys.stdout)  # the reader (head, less) had enough
    except OSError as error:
        return cannot_write(error, code)
    return code


def cannot_write(error: OSError, code: int = exit_codes.OK) -> int:
    """Say that standard output takes nothing, and return the exit code."""
    give_up(sys.stdout)
    say(f"standard output cannot be written: {error.strerror}")
    return code or exit_codes.FAILED


def give_up(stream: TextIO) -> None:
    """Let everything that is still written to a stream go nowhere, also what is buffered when the program ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def harmless(text: str) -> str:
    """Return text that no terminal takes for more than text: much of what is told was said by other machines."""
    lines = text.split("\n")
    if all(map(str.isprintable, lines)):
        return text
    from hetero_tui.sanitize import clean  # what nearly no text needs, and --help would wait for

    return "\n".join(clean(line, LONGEST_LINE) for line in lines)


def show(text: str, *, flush: bool = False) -> None:
    """Print a result for people on standard output."""
    print(harmless(text), flush=flush)


def json_text(document: Any, *, is_unicode: bool = True) -> str:
    """Return a document as JSON in which nothing is unprintable: escaped, it is the same to every reader."""
    text = json.dumps(document, indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def say(text: str) -> None:
    """Tell a person on standard error. When nobody can be told any more, the work goes on all the same."""
    try:
        print(harmless(text), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def print_json(document: Any) -> None:
    """Print a command's result for programs."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json_text(document, is_unicode=is_unicode))

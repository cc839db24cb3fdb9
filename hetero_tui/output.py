"""What commands write: results on standard output, everything else on standard error.

Whatever becomes of the streams: closed, full, in an old encoding, or with a reader that has gone.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, TextIO

from hetero_tui import exit_codes

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


def say(text: str) -> None:
    """Tell a person on standard error. When nobody can be told any more, the work goes on all the same."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def print_json(document: Any) -> None:
    """Print a command's result for programs."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(document, indent=2, ensure_ascii=not is_unicode, allow_nan=False))

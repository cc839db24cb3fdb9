"""A call into a backend that must come back soon and does not: told with all stacks, and the process ends.

Gloo cannot be asked to give up, and a thread inside it cannot be ended. The agent starts the rank again, and it joins
the others with their state; a rank that waits for ever would never be missed by anybody but a person.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

EXIT_CODE: Final = 75
"""EX_TEMPFAIL of sysexits.h: trying again may help."""

OnStuck = Callable[[str], None]


def end_process(what: str) -> None:
    """Say what did not come back and where every thread is, and end this process at once."""
    print(f"{what}; this process ends, and the agent starts it again", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(EXIT_CODE)


@contextmanager
def comes_back(what: str, seconds: float, on_stuck: OnStuck) -> Iterator[None]:
    """Call ``on_stuck`` from another thread when what runs inside has not come back after ``seconds``."""
    timer = threading.Timer(seconds, on_stuck, (f"{what} did not come back within {seconds:g} s",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

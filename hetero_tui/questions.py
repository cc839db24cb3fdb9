"""Questions to a person at a terminal, which Ctrl-C can leave."""

from __future__ import annotations

import asyncio
import sys


async def confirmed(question: str) -> bool:
    """Ask the person at the terminal. Standard output is left to results: it may be a file with one JSON document."""
    print(f"{question} [yes/no] ", end="", file=sys.stderr, flush=True)
    return (await typed_line()).strip().lower() == "yes"


async def typed_line() -> str:
    """Return the line that is typed, or nothing at the end of the input.

    Python waits for its threads at its end, and one that reads a terminal cannot be called back: Ctrl-C would do
    nothing before the person presses enter. A terminal hands over whole lines: one that is ready is read at once.
    """
    if not sys.stdin.isatty() or sys.platform == "win32":
        # Files and programs come to their end by themselves, and the event loop of Windows watches no terminal.
        return await asyncio.to_thread(sys.stdin.readline)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()

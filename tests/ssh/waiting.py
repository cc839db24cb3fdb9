from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something another process does; that long without it fails the test."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the other side is a process: there is no event to wait for)
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def drain(chunks: AsyncIterator[bytes], received: bytearray) -> None:
    """Collect a stream, keeping what came before an error."""
    async for chunk in chunks:
        received += chunk

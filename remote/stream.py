"""The log of one host's part of a run, across lost connections, without losing or repeating a line."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from remote.errors import HostKeyChanged, HostKeyUnknown, LoginRefused, PositionLost, RemoteError
from remote.runtime import HostRuntime, LogLine, State, closing
from remote.text import one_line

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 5.0
"""However long a host was away: a person who is back on the network sees the run within seconds, and one attempt every
few seconds costs neither side anything."""
LinkChange = Literal["lost", "again"]
REFUSALS: Final = (HostKeyChanged, HostKeyUnknown, LoginRefused, PositionLost)
"""Trying again cannot help, and might lock the account or hide an attack."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th attempt in a row."""

    first: float = FIRST_WAIT
    longest: float = LONGEST_WAIT
    spread: Callable[[], float] = random.random
    """A number from 0 up to 1; hosts lost together do not come back together."""

    def wait(self, attempt: int) -> float:
        """Return seconds before attempt 0, 1, 2, …: doubling up to the longest, of which a half is left to chance."""
        whole = min(self.longest, self.first * 2.0 ** min(attempt, 30))
        return whole * (0.5 + self.spread() / 2)


async def follow(
    run_id: str,
    connect: Callable[[], Awaitable[HostRuntime]],
    *,
    after: str = "",
    report: Callable[[LinkChange, str], None],
    backoff: Backoff | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[list[LogLine], None]:
    """Yield batches of lines until the run has ended on this host.

    Args:
        run_id: which run.
        connect: returns the host's runtime on a living connection; asked again after each loss.
        after: position behind which to begin; from the beginning when empty.
        report: told ``lost`` with the reason once a connection is gone, and ``again`` when lines can come again.
        backoff: how long to wait between attempts.
        sleep: waits.

    Raises:
        HostKeyChanged: also the other refusals where trying again cannot help.
    """
    backoff = backoff or Backoff()
    position, attempt = after, 0
    is_lost = False
    while True:
        try:
            runtime = await connect()
            # Asked before reading: lines written until then are all in the log that is read now.
            state = (await runtime.inspect(run_id)).state
            if is_lost:
                is_lost = False
                report("again", "")
            if state is State.MISSING:
                return
            async with closing(runtime.logs(run_id, position)) as batches:
                async for lines in batches:
                    position, attempt = lines[-1].position, 0
                    yield lines
            if state is State.EXITED:
                return
        except REFUSALS:
            raise
        except (RemoteError, TimeoutError, OSError) as error:
            if not is_lost:
                is_lost = True
                report("lost", one_line(error))
            await sleep(backoff.wait(attempt))
            attempt += 1
        else:
            # The log ended while the run lived: it ended just now, or the engine restarts. The next turn tells.
            await sleep(0 if attempt == 0 else backoff.wait(attempt))
            attempt += 1

"""What the checklist benchmark times of this program, as a program of its own: log in to all hosts, read all facts.

    python -m benchmarks.checklist_ours < targets.json

Reads ``{"targets": [fields of a target], "connect_timeout": seconds}`` and prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from remote.errors import RemoteError
from remote.facts import Facts, gather_facts
from remote.known_hosts import KnownHosts
from remote.ssh import JumpConnections, SshRunner
from remote.ssh_login import Target, log_in


async def look_at(target: Target, *, connect_timeout: float, jumps: JumpConnections) -> tuple[float, Facts | str]:
    """Log in to one host and read its facts; return the seconds it took and what came of it."""
    started = time.perf_counter()
    try:
        login = await log_in(
            target, known_hosts=jumps.known_hosts, connect_timeout=connect_timeout, config_files=(), jumps=jumps
        )
        runner = SshRunner(login, JumpConnections())
        try:
            found: Facts | str = await gather_facts(runner, master_address="127.0.0.1")
            seconds = time.perf_counter() - started
        finally:
            await runner.close()
    except RemoteError as error:
        return time.perf_counter() - started, str(error)
    return seconds, found


async def look_at_all(targets: list[Target], *, connect_timeout: float) -> dict[str, Any]:
    """Look at all hosts at once, as the checklist does."""
    jumps = JumpConnections(KnownHosts((Path("/dev/null"),)), connect_timeout, ())
    started = time.perf_counter()
    found = await asyncio.gather(*(look_at(target, connect_timeout=connect_timeout, jumps=jumps) for target in targets))
    total = time.perf_counter() - started
    complete = [each for _, each in found if isinstance(each, Facts) and each.cpu_count and each.memory_total]
    return {
        "seconds": total,
        "each": [seconds for seconds, _ in found],
        "errors": [each for _, each in found if isinstance(each, str)],
        "complete": len(complete),
        "facts": len(complete[0].raw) if complete else 0,
    }


def main() -> None:
    """Answer the question on standard input."""
    asked = json.load(sys.stdin)
    targets = [Target(**each) for each in asked["targets"]]
    print(json.dumps(asyncio.run(look_at_all(targets, connect_timeout=asked["connect_timeout"]))))


if __name__ == "__main__":
    main()

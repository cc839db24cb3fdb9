"""Many embedded SSH hosts in a process of their own, so that they do not slow down the program that logs in to them.

    python -m benchmarks.checklist_embedded COUNT

Prints where to log in to as one JSON line and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from dataclasses import asdict

from remote.embedded import EmbeddedHost, embedded_hosts
from remote.ssh_login import Target

FILES_PER_HOST = 8
"""A connection, the listening socket, and the pipes of one command, with room to spare."""


async def serve(count: int) -> None:
    """Bring up the hosts and keep them up until standard input ends."""
    async with embedded_hosts(EmbeddedHost(f"host{number}") for number in range(count)) as cluster:
        entries = [asdict(Target.of(host.inventory_host())) for host in cluster.hosts]
        print(json.dumps(entries), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve as many hosts as the command line says."""
    count = int(sys.argv[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count * FILES_PER_HOST + 256
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    asyncio.run(serve(count))


if __name__ == "__main__":
    main()

"""The process on the master that hosts the TCPStore and the coordinator, outside every rank.

Ranks can then be lost, rank 0 included, without losing the rendezvous. Its parent is the agent. What comes out of
standard output is for the person, a sentence a line; what libraries print there goes to standard error instead. On
standard input the line ``stop`` means "stop the run, for the agent was told to end", ``finish`` "leave when the run is
over"; the end of input means that the agent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from trainer.coordinator import Coordinator
from trainer.roster import Roster

ORPHAN_SECONDS: Final = 15.0
"""How long the store serves the ranks of other hosts after its agent has died."""
COORDINATOR_KEY: Final = "coordinator_port"


async def serve(
    tell: Callable[[str], None],
    *,
    run_id: str,
    address: str,
    dialled: str,
    port: int,
    world_size: int,
    elastic: bool,
    heartbeat_timeout: float,
    inherited_socket: int | None,
) -> None:
    """Serve one run until it is over.

    Args:
        tell: takes what a person should read.
        run_id: which run.
        address: where the inherited socket is reached from this machine.
        dialled: what the ranks dial; the coordinator listens there too.
        port: of the inherited socket.
        world_size: how many ranks the run has.
        elastic: whether it goes on without lost ranks.
        heartbeat_timeout: seconds of silence after which a rank is lost.
        inherited_socket: descriptor that listens for the store.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    coordinator = Coordinator(
        Roster(world_size, elastic), run_id=run_id, heartbeat_timeout=heartbeat_timeout, tell=tell
    )
    coordinator_port = await coordinator.start(port + 1 if port < 65535 else 0, dialled)
    store = TCPStore(address, port, None, is_master=True, wait_for_workers=False, master_listen_fd=inherited_socket)
    PrefixStore(run_id, store).set(COORDINATOR_KEY, str(coordinator_port))
    watch = asyncio.create_task(coordinator.watch())
    may_leave = asyncio.Event()
    agent = asyncio.create_task(_obey_agent(coordinator, may_leave))
    told = asyncio.create_task(may_leave.wait())
    await asyncio.wait({watch, agent, told}, return_when=asyncio.FIRST_COMPLETED)
    over = asyncio.create_task(coordinator.ended.wait())
    await asyncio.wait({over}, timeout=None if may_leave.is_set() else ORPHAN_SECONDS)
    for task in (watch, agent, told, over):
        task.cancel()


def _take_output() -> Callable[[str], None]:
    """Keep standard output for what the agent passes on as notices; native libraries too print to standard error now.

    When the agent is gone nobody is left to be told.
    """
    notices = os.dup(1)
    os.dup2(2, 1)

    def tell(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(notices, text.encode() + b"\n")

    return tell


async def _obey_agent(coordinator: Coordinator, may_leave: asyncio.Event) -> None:
    """Do what the agent says until it is gone; set ``may_leave`` when its own ranks have ended."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line == b"stop\n":
            coordinator.stop()
        elif line == b"finish\n":
            coordinator.leave_when_alone()
            may_leave.set()


def main() -> int:
    """Run as the agent's child; the settings come as one JSON object on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(serve(_take_output(), **json.loads(sys.argv[1])))
    # The TCPStore's own threads must not hold up the end of a finished run.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

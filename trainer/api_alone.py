"""One rank that nobody launched: a prepared script that is run as ``python script.py``."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from torch._C._distributed_c10d import PrefixStore, TCPStore

from trainer.control import ControlFolder
from trainer.coordinator import Coordinator
from trainer.environment import RankEnvironment, read_host
from trainer.errors import UsageError
from trainer.events import Emitter, Notice, decode
from trainer.launch import Launched
from trainer.listening import LOOPBACK, listen_on
from trainer.options import Options
from trainer.roster import Roster
from trainer.store import COORDINATOR_KEY
from trainer.training import connect


def launch_alone() -> Launched:
    """Make this process a run of one rank, with a store and a coordinator of its own; events are not shown.

    Raises:
        UsageError: the process is one of several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "trainer.prepare: this process is one of several that were started without the launcher",
            next_step="start the script with hetero-tui, or on each host with python -m trainer SCRIPT",
        )
    listening = listen_on(LOOPBACK, 0)
    number = int(listening.getsockname()[1])
    # The descriptor is the store's from here on. Without it the store listens on all addresses.
    inherited = listening.detach()
    store = TCPStore(LOOPBACK, number, None, is_master=True, wait_for_workers=False, master_listen_fd=inherited)
    host = read_host({"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(store.port), "HETERO_OUTPUT": str(Path("output"))})
    started = threading.Event()
    port: list[int] = []
    thread = threading.Thread(target=lambda: asyncio.run(_serve(host.run_id, port, started)), daemon=True)
    thread.start()
    started.wait()
    PrefixStore(host.run_id, store).set(COORDINATOR_KEY, str(port[0]))
    place = RankEnvironment(host=host, rank=0, local_rank=0, device="auto", first_seq=0, is_restart=False)
    _stores.append(store)
    emitter = Emitter(0, _show_problems)
    return Launched(
        place=place,
        options=Options(),
        emitter=emitter,
        control=ControlFolder(None, lambda _text: None),
        commands=(),
        device="auto",
        link=connect(place, emitter),
        is_launched=False,
    )


_stores: list[TCPStore] = []
"""A store lives as long as its object: until the process ends."""


async def _serve(run_id: str, port: list[int], started: threading.Event) -> None:
    coordinator = Coordinator(Roster(world_size=1, elastic=False), run_id=run_id, heartbeat_timeout=30.0)
    port.append(await coordinator.start(0, LOOPBACK))
    started.set()
    watch = asyncio.create_task(coordinator.watch())
    await coordinator.ended.wait()
    watch.cancel()
    await coordinator.close()


def _show_problems(line: str) -> None:
    event = decode(line.rstrip("\n"))
    if isinstance(event, Notice) and event.level != "info":
        sys.stderr.write(f"trainer: {event.text}\n")

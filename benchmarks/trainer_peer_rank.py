"""One rank of a peer that survives losses: torchft with an explicit all-reduce, or a worker of torchrun's agent.

``python -m benchmarks.trainer_peer_rank lighthouse ADDRESS`` serves torchft's lighthouse and prints where.
``… torchft ADDRESS LIGHTHOUSE REPLICA`` is one replica; ``… torchrun`` a worker, started by torchrun. Both "compute"
for 100 ms and reduce 2.5 MB a step, as the trainer does in the same benchmark, and print when each step ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from benchmarks.trainer_peers import READY

PARAMETERS: Final = 620_000
STEP_SECONDS: Final = 0.1
PATIENCE: Final = timedelta(seconds=2)
"""Silence after which a rank counts as lost: the trainer's own default."""


def lighthouse(address: str) -> None:
    """Serve until standard input ends."""
    from torchft._torchft import LighthouseServer

    server = LighthouseServer(
        bind=f"{address}:0",
        # The two that survive a loss; a single one that is early does not begin without the others.
        min_replicas=2,
        join_timeout_ms=100,
        quorum_tick_ms=100,
        heartbeat_timeout_ms=int(PATIENCE.total_seconds() * 1000),
    )
    # One write: the lighthouse's own log goes to the same pipe and would come between the words and the line's end.
    sys.stdout.write(f"{server.address()}\n")
    sys.stdout.flush()
    sys.stdin.read()


def torchft_replica(address: str, lighthouse_address: str, replica: str) -> None:
    """Train until killed."""
    from torchft import Manager, ProcessGroupGloo
    from torchft.checkpointing.http_transport import HTTPTransport

    # Without a store of its own, made before, the constructor of Manager hangs.
    store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
    state = {"parameters": torch.zeros(PARAMETERS)}

    class Transport(HTTPTransport[Any]):  # type: ignore[misc]  # torchft has no types
        """Announces the address instead of the machine's name, which most home networks do not resolve."""

        def address(self) -> str:
            return str(super().address()).replace(socket.gethostname(), address)

    def load(found: dict[str, Any]) -> None:
        state["parameters"].copy_(found["parameters"])

    manager: Manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE),
        load_state_dict=load,
        state_dict=lambda: state,
        min_replica_size=1,
        timeout=PATIENCE,
        quorum_timeout=timedelta(seconds=30),
        rank=0,
        world_size=1,
        store_addr=address,
        store_port=store.port,
        lighthouse_addr=lighthouse_address,
        replica_id=replica,
        hostname=address,
        checkpoint_transport=Transport(timeout=PATIENCE, num_chunks=0),
    )
    # Replicas that begin one after the other heal from each other at every step, which on a busy machine may not end.
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    while True:
        manager.start_quorum()
        time.sleep(STEP_SECONDS)
        gradient = torch.ones(PARAMETERS)
        manager.allreduce(gradient).wait()
        if manager.should_commit():
            state["parameters"].sub_(gradient)
            _tell(manager.num_participants())


def torchrun_worker() -> None:
    """Train until killed; torchrun starts it again, with everything lost that is not in a checkpoint."""
    dist.init_process_group("gloo", timeout=PATIENCE)
    while True:
        time.sleep(STEP_SECONDS)
        gradient = torch.ones(PARAMETERS)
        dist.all_reduce(gradient)
        _tell(dist.get_world_size())


def _tell(participants: int) -> None:
    sys.stdout.write(json.dumps({"time": time.time(), "participants": participants, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()


def main(role: str, arguments: list[str]) -> None:
    """Be what the command line says."""
    match role:
        case "lighthouse":
            lighthouse(*arguments)
        case "torchft":
            torchft_replica(*arguments)
        case _:
            torchrun_worker()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

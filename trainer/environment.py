"""The environment a launch plan gives to the agent of a host, and the agent to each of its ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.errors import UsageError

MOST_RANKS: Final = 1 << 16
"""A world beyond this is a mistake in a variable."""


@dataclass(frozen=True, slots=True)
class HostEnvironment:
    """One host's part of a run, as the launch plan describes it."""

    run_id: str
    host: str
    ranks: tuple[int, ...]
    devices: tuple[str, ...]
    """A torch device string for each rank; ``auto`` lets the rank take the first accelerator or the CPU."""
    world_size: int
    node_rank: int
    master_address: str
    master_port: int
    is_master: bool
    backend: str
    control: Path | None
    """Folder of control messages; ``None``: nobody gives a go, the run begins at once."""
    output: Path
    """Folder for checkpoints."""
    interface: str
    simulated_samples_per_second: float
    """The speed every rank of this host is held down to; infinity: as fast as it can."""


@dataclass(frozen=True, slots=True)
class RankEnvironment:
    """One rank's place in the run."""

    host: HostEnvironment
    rank: int
    local_rank: int
    device: str
    first_seq: int
    """The first sequence number of this process's events: a restarted rank goes on counting."""
    is_restart: bool


def read_host(environment: Mapping[str, str] = os.environ) -> HostEnvironment:
    """Read the variables of the launch plan; without any of them the run is this one process's own.

    Raises:
        UsageError: a variable is malformed or contradicts another one.
    """
    world_size = _integer(environment, "WORLD_SIZE", 1)
    local_world_size = _integer(environment, "LOCAL_WORLD_SIZE", world_size if world_size == 1 else 1)
    first_rank = _integer(environment, "RANK", 0)
    if max(world_size, local_world_size, first_rank) > MOST_RANKS:
        raise UsageError(f"WORLD_SIZE={world_size}: more than {MOST_RANKS} ranks are not possible")
    ranks = _integers(environment, "HETERO_RANKS") or tuple(range(first_rank, first_rank + local_world_size))
    if any(not 0 <= rank < world_size for rank in ranks):
        raise UsageError(f"ranks {ranks} do not fit WORLD_SIZE={world_size}")
    devices = tuple(filter(None, environment.get("HETERO_DEVICES", "auto").split(",")))
    if len(devices) == 1:
        devices *= len(ranks)
    if len(devices) != len(ranks):
        raise UsageError(f"HETERO_DEVICES names {len(devices)} devices for {len(ranks)} ranks")
    control = environment.get("HETERO_CONTROL")
    if control is None and world_size > len(ranks):
        raise UsageError(f"HETERO_CONTROL is not set and WORLD_SIZE={world_size}: nobody could give the go")
    return HostEnvironment(
        run_id=environment.get("HETERO_RUN_ID", "alone"),
        host=environment.get("HETERO_HOST", "localhost"),
        ranks=ranks,
        devices=devices,
        world_size=world_size,
        node_rank=_integer(environment, "NODE_RANK", 0),
        master_address=environment.get("MASTER_ADDR", "127.0.0.1"),
        master_port=_integer(environment, "MASTER_PORT", 0),
        is_master=environment.get("HETERO_MASTER", "1" if 0 in ranks else "0") == "1",
        backend=environment.get("HETERO_BACKEND", "gloo"),
        control=Path(control) if control else None,
        output=Path(environment.get("HETERO_OUTPUT", "output")),
        interface=environment.get("GLOO_SOCKET_IFNAME", ""),
        simulated_samples_per_second=_speed(environment),
    )


def read_rank(environment: Mapping[str, str] = os.environ) -> RankEnvironment:
    """Read what the agent set for this rank.

    Raises:
        UsageError: a variable is missing or malformed.
    """
    rank = _integer(environment, "RANK", 0)
    world_size = _integer(environment, "WORLD_SIZE", 1)
    host = read_host({**environment, "HETERO_RANKS": str(rank), "HETERO_DEVICES": environment["HETERO_DEVICE"]})
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK={rank} does not fit WORLD_SIZE={world_size}")
    return RankEnvironment(
        host=host,
        rank=rank,
        local_rank=_integer(environment, "LOCAL_RANK", 0),
        device=environment["HETERO_DEVICE"],
        first_seq=_integer(environment, "HETERO_FIRST_SEQ", 0),
        is_restart=environment.get("HETERO_RESTART", "0") == "1",
    )


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None or text == "":
        return default
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is not a whole number") from None


def _integers(environment: Mapping[str, str], name: str) -> tuple[int, ...]:
    text = environment.get(name, "")
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UsageError(f"{name}={text!r} is not a list of ranks such as 1,2") from None


def _speed(environment: Mapping[str, str]) -> float:
    text = environment.get("HETERO_SIMULATED_SAMPLES_PER_SECOND")
    if not text:
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not speed > 0:
        raise UsageError(f"HETERO_SIMULATED_SAMPLES_PER_SECOND={text!r} is not a speed above 0")
    return speed

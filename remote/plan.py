"""From inventory and facts to a launch plan: a value that can be read, compared and printed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from remote.facts import Facts
from remote.inventory import Inventory, Runtime

LABEL_RUN = "hetero-tui.run"
LABEL_CLUSTER = "hetero-tui.cluster"
LABEL_HOST = "hetero-tui.host"
LABEL_RANKS = "hetero-tui.ranks"
CONTROL_FOLDER = "/hetero/control"
"""Folder in the container where the launcher drops control messages (``go``, later pause, policy, …)."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One process of the job."""

    rank: int
    local_rank: int
    device: str
    """Torch device string on its host: ``cpu``, ``cuda:0``, ``mps``."""
    gpu_uuid: str = ""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """Everything one host is told: one container (or one process group) with its ranks."""

    host: str
    runtime: Runtime
    ranks: tuple[RankPlan, ...]
    container_name: str
    image: str
    argv: tuple[str, ...]
    """Command line of the agent that starts the ranks."""
    env: tuple[tuple[str, str], ...]
    """Every variable is passed explicitly, sorted by name."""
    labels: tuple[tuple[str, str], ...]
    gpu_uuids: tuple[str, ...] = ()
    """GPUs to request from the engine; empty for CPU ranks."""
    shm_size: int = 1 << 30
    """Bytes of /dev/shm."""
    mounts: tuple[tuple[str, str, Literal["ro", "rw"]], ...] = ()
    """(path on the host, path in the container, mode)."""
    network_mode: str = "host"
    simulated: bool = False
    user: str = ""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The whole job."""

    run_id: str
    cluster: str
    master: str
    master_address: str
    master_port: int
    backend: Literal["gloo", "nccl"]
    world_size: int
    hosts: tuple[HostPlan, ...]
    global_batch: int
    policy: str
    notes: tuple[str, ...] = ()
    """What the planner decided and why, in words."""

    def host(self, name: str) -> HostPlan:
        """Return the plan of one host.

        Raises:
            KeyError: the host has no part in this plan.
        """
        for host in self.hosts:
            if host.host == name:
                return host
        raise KeyError(name)


def make_plan(inventory: Inventory, facts: Mapping[str, Facts], run_id: str) -> LaunchPlan:
    """Assign ranks, devices, addresses, interfaces and environment.

    Raises:
        PlanError: a host has no facts, no usable device or no image; NCCL was asked for and a rank has no CUDA.
    """
    raise NotImplementedError

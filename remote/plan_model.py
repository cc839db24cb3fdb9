"""The launch plan as values: what every rank and every host is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from remote.inventory_model import Runtime
from remote.overlay import Overlay

Backend = Literal["gloo", "nccl"]
MountMode = Literal["ro", "rw"]


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
    mounts: tuple[tuple[str, str, MountMode], ...] = ()
    """(path on the host, path in the container, mode)."""
    network_mode: str = "host"
    simulated: bool = False
    user: str = ""
    run_folder: str = ""
    """Folder on the host that belongs to this run alone (runtime ``process``); remove it when the run ends."""
    working_dir: str = ""
    """Where the agent starts: the user's code, as it sees it; empty where there is none."""

    def variable(self, name: str) -> str:
        """Return the value of an environment variable, or an empty string when the plan does not set it."""
        return dict(self.env).get(name, "")


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The whole job."""

    run_id: str
    cluster: str
    master: str
    master_address: str
    master_port: int
    backend: Backend
    world_size: int
    hosts: tuple[HostPlan, ...]
    global_batch: int
    policy: str
    notes: tuple[str, ...] = ()
    """What the planner decided and why, in words."""
    overlay: Overlay | None = None
    """The encrypted network between the hosts, with ``network.encryption``."""

    def host(self, name: str) -> HostPlan:
        """Return the plan of one host.

        Raises:
            KeyError: the host has no part in this plan.
        """
        for host in self.hosts:
            if host.host == name:
                return host
        raise KeyError(name)

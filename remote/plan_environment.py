"""The environment of one host's agent: every variable that decides anything is set, so no stale export can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.plan_contract import is_contract_variable
from remote.plan_devices import Devices
from remote.plan_model import Backend

MALLOC = {
    # glibc returns large blocks to the kernel after every step and faults them in again: up to half of a CPU step.
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same on every host."""

    run_id: str
    backend: Backend
    world_size: int
    master_address: str
    master_port: int
    code: str = ""
    """Digest of the user's code; empty without ``training.workdir``."""
    interface: str = ""
    """Interface of every host in an encrypted overlay; each host has its own when empty."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is this host's own."""

    node_rank: int
    first_rank: int
    devices: Devices
    interface: str
    threads: int
    """CPU threads of each rank; 0 when the number of CPUs is unknown."""
    control: str
    """Folder of control messages, as the agent sees it."""
    output: str
    """Folder for checkpoints, as the agent sees it."""
    is_master: bool


def environment(job: Job, inventory: Inventory, host: Host, place: Place) -> tuple[tuple[str, str], ...]:
    """Return the host's variables, sorted by name. The inventory's come first, the contract's have the last word.

    Raises:
        PlanError: the inventory sets a variable that the plan computes.
    """
    wanted = dict(inventory.training.env) | dict(host.env)
    for name, value in wanted.items():
        if is_contract_variable(name):
            raise PlanError(
                f"env sets {name}, which the launch plan computes", host=host.name, next_step=f"remove {name} from env"
            )
        if "\0" in name + value or "=" in name or not name:
            raise PlanError(f"env: {name!r} cannot be an environment variable", host=host.name, next_step="rename it")
    return tuple(sorted((_defaults(place) | wanted | _contract(job, host, place)).items()))


def _defaults(place: Place) -> dict[str, str]:
    """Return what the inventory may override."""
    defaults = {"OMP_NUM_THREADS": str(place.threads)} if place.threads else {}
    if place.devices.kind == "cpu":
        defaults |= MALLOC
    return defaults


def _contract(job: Job, host: Host, place: Place) -> dict[str, str]:
    ranks = range(place.first_rank, place.first_rank + len(place.devices.names))
    variables = {
        "RANK": str(place.first_rank),
        "WORLD_SIZE": str(job.world_size),
        "LOCAL_WORLD_SIZE": str(len(ranks)),
        "NODE_RANK": str(place.node_rank),
        "MASTER_ADDR": job.master_address,
        "MASTER_PORT": str(job.master_port),
        "GLOO_SOCKET_IFNAME": place.interface,
        # "=" asks for this very name; without it NCCL takes any interface that begins so (eth1, eth10).
        # https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-socket-ifname
        "NCCL_SOCKET_IFNAME": f"={place.interface}" if place.interface else "",
        "PYTHONUNBUFFERED": "1",
        "HETERO_RUN_ID": job.run_id,
        "HETERO_HOST": host.name,
        "HETERO_BACKEND": job.backend,
        "HETERO_RANKS": ",".join(str(rank) for rank in ranks),
        "HETERO_DEVICES": ",".join(place.devices.names),
        "HETERO_MASTER": "1" if place.is_master else "0",
        "HETERO_CONTROL": place.control,
        "HETERO_OUTPUT": place.output,
    }
    if host.simulated_samples_per_second is not None:
        variables["HETERO_SIMULATED_SAMPLES_PER_SECOND"] = _number(host.simulated_samples_per_second)
    return variables | _visible_devices(host, place.devices)


def _visible_devices(host: Host, devices: Devices) -> dict[str, str]:
    """Return what makes ``cuda:0`` the first GPU of the plan, and hides every GPU from CPU ranks.

    UUIDs, because an index means something else in a container, and on the next boot.
    """
    if devices.gpus and devices.gpus[0].vendor != "nvidia":
        return {"HIP_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in devices.gpus)}
    uuids = ",".join(gpu.uuid for gpu in devices.gpus)
    if host.runtime == "process":
        return {"CUDA_VISIBLE_DEVICES": uuids}
    return {"CUDA_VISIBLE_DEVICES": uuids, "NVIDIA_VISIBLE_DEVICES": uuids or "void"}


def threads_per_rank(facts: Mapping[str, Facts], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return the CPU threads of each rank by host name; 0 where the number of CPUs is unknown.

    Entries that are one machine (same machine id and host name) share its CPUs.
    """
    on_machine: dict[tuple[str, ...], int] = {}
    for host, count in ranks.items():
        key = machine_of(host, facts[host])
        on_machine[key] = on_machine.get(key, 0) + count
    return {host: _threads(facts[host], on_machine[machine_of(host, facts[host])]) for host in ranks}


def machine_of(host: str, facts: Facts) -> tuple[str, ...]:
    """Return what is equal for two entries that are one machine. Cloned disks share the machine id, not the name."""
    return (facts.machine_id, facts.hostname) if facts.machine_id and facts.hostname else (host,)


def _threads(facts: Facts, ranks: int) -> int:
    cpus = facts.cpu_quota or float(facts.cpu_count)
    return max(1, int(cpus // ranks)) if cpus > 0 else 0


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)

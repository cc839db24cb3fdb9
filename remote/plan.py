"""From inventory and facts to a launch plan: a value that can be read, compared and printed before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, ParamSpec, TypeVar

from remote.errors import InventoryError, PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.overlay import Overlay, is_encrypted, plan_overlay
from remote.plan_contract import (
    CONTROL_FOLDER,
    DATA_FOLDER,
    LABEL_CLUSTER,
    LABEL_HOST,
    LABEL_RANKS,
    LABEL_RUN,
    OUTPUT_FOLDER,
)
from remote.plan_devices import Devices, choose_backend, choose_devices, no_gpu_twice
from remote.plan_environment import Job, machine_of, threads_per_rank
from remote.plan_folders import run_folder
from remote.plan_host import Node, container_name, host_plan
from remote.plan_model import Backend, HostPlan, LaunchPlan, MountMode, RankPlan
from remote.plan_network import MasterAddress, is_loopback_cluster, master_address
from remote.plan_text import equivalent_command, equivalent_docker_command, plan_from_json, plan_to_json, render_plan

__all__ = [
    "CONTROL_FOLDER",
    "DATA_FOLDER",
    "LABEL_CLUSTER",
    "LABEL_HOST",
    "LABEL_RANKS",
    "LABEL_RUN",
    "OUTPUT_FOLDER",
    "Backend",
    "HostPlan",
    "LaunchPlan",
    "MountMode",
    "RankPlan",
    "container_name",
    "equivalent_command",
    "equivalent_docker_command",
    "make_plan",
    "plan_from_json",
    "plan_to_json",
    "render_plan",
    "run_folder",
]

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def make_plan(inventory: Inventory, facts: Mapping[str, Facts], run_id: str, *, code: str = "") -> LaunchPlan:
    """Assign ranks, devices, addresses, interfaces and environment.

    The master's host comes first, so rank 0 is on it; the other hosts follow in the order of the inventory.

    Args:
        inventory: the validated ``cluster.toml``.
        facts: what every host said, by name.
        run_id: id of the run, see ``remote.run_dir.new_run_id``.
        code: digest of the snapshot of ``training.workdir``, see ``remote.workdir``.

    Raises:
        PlanError: no runnable plan; the message tells every obstacle that was found.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise PlanError(f"{run_id!r} cannot be a run id", next_step="take one from remote.run_dir.new_run_id")
    master = inventory.master
    hosts = (master, *(host for host in inventory.hosts if host.name != master.name))
    missing = [host.name for host in hosts if host.name not in facts]
    if missing:
        raise PlanError(
            f"nothing is known of {', '.join(missing)}",
            next_step="connect and run the checklist first (hetero-tui check)",
        )
    obstacles = Obstacles()
    devices = _devices(inventory, hosts, facts, obstacles)
    backend = obstacles.attempt(choose_backend, inventory.cluster.backend, list(devices.items()))
    address = obstacles.attempt(master_address, inventory, facts)
    if backend is None or address is None or obstacles.found:
        raise obstacles.error()
    world_size = sum(len(each.names) for each in devices.values())
    if world_size > inventory.training.global_batch:
        raise PlanError(
            f"{world_size} ranks cannot share a global batch of {inventory.training.global_batch}",
            next_step="raise training.global_batch, or leave hosts out",
        )
    overlay = plan_overlay(inventory, facts, run_id, address.address) if is_encrypted(inventory) else None
    dialled = overlay.host(master.name).address if overlay else address.address
    inside = overlay.interface if overlay else ""
    job = Job(run_id, backend[0], world_size, dialled, inventory.cluster.port, code, inside)
    threads = threads_per_rank(facts, {name: len(each.names) for name, each in devices.items()})
    planned: list[HostPlan] = []
    first_rank = 0
    for node_rank, host in enumerate(hosts):
        node = Node(host, facts[host.name], devices[host.name], node_rank, first_rank, threads[host.name])
        plan = obstacles.attempt(host_plan, inventory, job, node)
        if plan is not None:
            planned.append(plan)
        first_rank += len(devices[host.name].names)
    if obstacles.found:
        raise obstacles.error()
    return LaunchPlan(
        run_id=run_id,
        cluster=inventory.cluster.name,
        master=master.name,
        master_address=dialled,
        master_port=inventory.cluster.port,
        backend=backend[0],
        world_size=world_size,
        hosts=tuple(planned),
        global_batch=inventory.training.global_batch,
        policy=inventory.training.policy,
        notes=(
            backend[1],
            f"rank 0 is on {master.name}, the master; ranks dial {dialled}: {_why(address, overlay)}",
            *_notes(inventory, hosts, facts, devices),
        ),
        overlay=overlay,
    )


def _why(address: MasterAddress, overlay: Overlay | None) -> str:
    if overlay is None:
        return address.reason
    return (
        f"{overlay.network} is a WireGuard overlay on interface {overlay.interface}, encrypted, "
        f"over UDP {overlay.port} of each host"
    )


class Obstacles:
    """What stands in the way of a plan, collected over all hosts so that a person mends it in one go."""

    def __init__(self) -> None:
        self.found: list[PlanError | InventoryError] = []

    def attempt(self, decide: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Return what ``decide`` returns, or None when it found an obstacle."""
        try:
            return decide(*args, **kwargs)
        except (PlanError, InventoryError) as error:
            self.found.append(error)
            return None

    def error(self) -> PlanError:
        """Return one error that tells them all."""
        if len(self.found) == 1:
            only = self.found[0]
            return PlanError(only.message, host=only.host, next_step=only.next_step)
        return PlanError("\n".join(dict.fromkeys(str(each) for each in self.found)))


def _devices(
    inventory: Inventory, hosts: tuple[Host, ...], facts: Mapping[str, Facts], obstacles: Obstacles
) -> dict[str, Devices]:
    devices: dict[str, Devices] = {}
    for host in hosts:
        chosen = obstacles.attempt(choose_devices, host, facts[host.name])
        if chosen is not None:
            devices[host.name] = chosen
        if not is_loopback_cluster(inventory):
            obstacles.attempt(_refuse_virtual_machine, host, facts[host.name])
    obstacles.attempt(no_gpu_twice, devices)
    return devices


def _refuse_virtual_machine(host: Host, facts: Facts) -> None:
    """Refuse containers that run in a virtual machine: they cannot bind to the address others dial.

    https://docs.docker.com/engine/network/drivers/host/#limitations
    """
    if host.runtime != "docker" or facts.system not in ("Darwin", "Windows"):
        return
    how = (
        'set runtime = "process"' if facts.system == "Darwin" else "let it join through WSL 2 with an engine of its own"
    )
    raise PlanError(
        f"containers on {facts.system} run in a virtual machine that other hosts cannot dial",
        host=host.name,
        next_step=f"{how} for this host",
    )


def _notes(
    inventory: Inventory, hosts: tuple[Host, ...], facts: Mapping[str, Facts], devices: Mapping[str, Devices]
) -> list[str]:
    notes = [each.reason for each in devices.values() if each.reason]
    notes += [
        f"{host.name} is held down to {host.simulated_samples_per_second:g} samples/s (simulated)"
        for host in hosts
        if host.simulated_samples_per_second is not None
    ]
    for machine in _shared_machines(hosts, facts):
        notes.append(f"{' and '.join(machine)} are one machine; their ranks share its CPUs")
    if inventory.needs_docker and not inventory.training.checkpoint_dir:
        notes.append(
            "the newest checkpoint comes home when the run ends; training.checkpoint_dir keeps them on the hosts"
        )
    return notes


def _shared_machines(hosts: tuple[Host, ...], facts: Mapping[str, Facts]) -> list[list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for host in hosts:
        groups.setdefault(machine_of(host.name, facts[host.name]), []).append(host.name)
    return [names for names in groups.values() if len(names) > 1]

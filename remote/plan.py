"""From inventory and facts to a launch plan: a value that can be read, compared and printed before anything runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, ParamSpec, TypeVar

from remote.errors import InventoryError, PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.plan_command import trainer_command
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
from remote.plan_environment import Job, Place, environment, machine_of, threads_per_rank
from remote.plan_model import Backend, HostPlan, LaunchPlan, MountMode, RankPlan
from remote.plan_network import choose_interface, is_loopback_cluster, master_address
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
_LONGEST_NAME: Final = 200
_P = ParamSpec("_P")
_T = TypeVar("_T")


def make_plan(inventory: Inventory, facts: Mapping[str, Facts], run_id: str) -> LaunchPlan:
    """Assign ranks, devices, addresses, interfaces and environment.

    The master's host comes first, so rank 0 is on it; the other hosts follow in the order of the inventory.

    Args:
        inventory: the validated ``cluster.toml``.
        facts: what every host said, by name.
        run_id: id of the run, see ``remote.run_dir.new_run_id``.

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
    job = Job(run_id, backend[0], world_size, address.address, inventory.cluster.port)
    threads = threads_per_rank(facts, {name: len(each.names) for name, each in devices.items()})
    planned: list[HostPlan] = []
    first_rank = 0
    for node_rank, host in enumerate(hosts):
        node = _Node(host, facts[host.name], devices[host.name], node_rank, first_rank, threads[host.name])
        plan = obstacles.attempt(_host_plan, inventory, job, node)
        if plan is not None:
            planned.append(plan)
        first_rank += len(devices[host.name].names)
    if obstacles.found:
        raise obstacles.error()
    return LaunchPlan(
        run_id=run_id,
        cluster=inventory.cluster.name,
        master=master.name,
        master_address=address.address,
        master_port=inventory.cluster.port,
        backend=backend[0],
        world_size=world_size,
        hosts=tuple(planned),
        global_batch=inventory.training.global_batch,
        policy=inventory.training.policy,
        notes=(
            backend[1],
            f"rank 0 is on {master.name}, the master; ranks dial {address.address}: {address.reason}",
            *_notes(inventory, hosts, facts, devices),
        ),
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


@dataclass(frozen=True, slots=True)
class _Node:
    """One host with what was decided for it so far."""

    host: Host
    facts: Facts
    devices: Devices
    node_rank: int
    first_rank: int
    threads: int


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


def _host_plan(inventory: Inventory, job: Job, node: _Node) -> HostPlan:
    host = node.host
    ranks = tuple(
        RankPlan(node.first_rank + position, position, device, uuid)
        for position, (device, uuid) in enumerate(
            zip_longest(node.devices.names, (gpu.uuid for gpu in node.devices.gpus), fillvalue="")
        )
    )
    interface = choose_interface(inventory, host, node.facts, job.master_address)
    if not interface and job.backend == "gloo":
        raise PlanError(
            "cannot tell which interface its ranks should talk over",
            host=host.name,
            next_step="set the host's interface (ip -4 addr shows them)",
        )
    places = _Folders.of(inventory, node, job.run_id)
    image = inventory.image_for(host, node.devices.image_class) if host.runtime == "docker" else ""
    return HostPlan(
        host=host.name,
        runtime=host.runtime,
        ranks=ranks,
        container_name=container_name(inventory.cluster.name, job.run_id, host.name),
        image=image,
        argv=trainer_command(inventory.training, python=places.python, data_folder=places.data, script=places.script),
        env=environment(
            job,
            inventory,
            host,
            Place(
                node_rank=node.node_rank,
                first_rank=node.first_rank,
                devices=node.devices,
                interface=interface,
                threads=node.threads,
                control=places.control,
                output=places.output,
                is_master=node.node_rank == 0,
            ),
        ),
        labels=(
            (LABEL_CLUSTER, inventory.cluster.name),
            (LABEL_HOST, host.name),
            (LABEL_RANKS, ",".join(str(each.rank) for each in ranks)),
            (LABEL_RUN, job.run_id),
        ),
        gpu_uuids=tuple(gpu.uuid for gpu in node.devices.gpus) if host.runtime == "docker" else (),
        mounts=places.mounts,
        simulated=host.simulated_samples_per_second is not None,
        run_folder=places.run,
    )


@dataclass(frozen=True, slots=True)
class _Folders:
    """Paths as the agent of one host sees them, and what must be mounted for that."""

    python: str
    script: str
    data: str
    control: str
    output: str
    run: str = ""
    mounts: tuple[tuple[str, str, MountMode], ...] = ()

    @classmethod
    def of(cls, inventory: Inventory, node: _Node, run_id: str) -> _Folders:
        """Return the paths of one host.

        Raises:
            PlanError: a path begins with ``~`` and the host's home folder is unknown.
        """
        training = inventory.training
        data = _expanded(node, training.data_dir)
        checkpoints = _expanded(node, training.checkpoint_dir)
        if node.host.runtime == "docker":
            mounts: list[tuple[str, str, MountMode]] = []
            if data:
                mounts.append((data, DATA_FOLDER, "ro"))
            if checkpoints:
                mounts.append((checkpoints, OUTPUT_FOLDER, "rw"))
            return cls(
                python="python3",
                script=training.script,
                data=DATA_FOLDER if data else "",
                control=CONTROL_FOLDER,
                output=OUTPUT_FOLDER,
                mounts=tuple(mounts),
            )
        run = run_folder(_home(node), run_id, node.host.name)
        return cls(
            python=_expanded(node, node.host.python),
            script=_expanded(node, training.script),
            data=data,
            control=f"{run}/control",
            output=checkpoints or f"{run}/output",
            run=run,
        )


def _home(node: _Node) -> str:
    home = node.facts.home.rstrip("/")
    if home.startswith("/") and home.isprintable():
        return home
    raise PlanError(
        f"its home folder is unknown ({node.facts.home[:40]!r})",
        host=node.host.name,
        next_step="check that the SSH user has a home folder there",
    )


def _expanded(node: _Node, path: str) -> str:
    return f"{_home(node)}/{path[2:]}" if path.startswith("~/") else path


def run_folder(home: str, run_id: str, host: str) -> str:
    """Return the folder on a host that belongs to one run (runtime ``process``): control messages, log, output.

    ``remote.process_runtime`` makes it; a host with ``XDG_CACHE_HOME`` set has it there.
    """
    return f"{home}/.cache/hetero-tui/runs/{run_id}/{host}"


def container_name(cluster: str, run_id: str, host: str) -> str:
    """Return ``hetero-<cluster>-<run>-<host>`` in the characters the engine allows.

    Where characters had to be replaced, a digest of the original keeps different names different.
    """
    name = f"hetero-{cluster}-{run_id}-{host}"
    allowed = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:_LONGEST_NAME]
    if allowed == name:
        return name
    return f"{allowed}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


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
        notes.append("checkpoints stay in the containers; set training.checkpoint_dir to keep them on the hosts")
    return notes


def _shared_machines(hosts: tuple[Host, ...], facts: Mapping[str, Facts]) -> list[list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for host in hosts:
        groups.setdefault(machine_of(host.name, facts[host.name]), []).append(host.name)
    return [names for names in groups.values() if len(names) > 1]

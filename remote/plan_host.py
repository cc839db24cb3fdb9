"""One host's part of the launch plan, once the decisions that concern all hosts are made."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.plan_command import trainer_command
from remote.plan_contract import LABEL_CLUSTER, LABEL_HOST, LABEL_RANKS, LABEL_RUN
from remote.plan_devices import Devices
from remote.plan_environment import Job, Place, environment
from remote.plan_folders import Folders
from remote.plan_model import HostPlan, RankPlan
from remote.plan_network import choose_interface

_LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Node:
    """One host with what was decided for it so far."""

    host: Host
    facts: Facts
    devices: Devices
    node_rank: int
    first_rank: int
    threads: int


def host_plan(inventory: Inventory, job: Job, node: Node) -> HostPlan:
    """Return everything one host is told.

    Raises:
        PlanError: its interface or its home folder cannot be told, or its variables contradict the plan.
        InventoryError: it has no image for its class of device.
    """
    host = node.host
    ranks = tuple(
        RankPlan(node.first_rank + position, position, device, uuid)
        for position, (device, uuid) in enumerate(
            zip_longest(node.devices.names, (gpu.uuid for gpu in node.devices.gpus), fillvalue="")
        )
    )
    interface = job.interface or choose_interface(inventory, host, node.facts, job.master_address)
    if not interface and job.backend == "gloo":
        raise PlanError(
            "cannot tell which interface its ranks should talk over",
            host=host.name,
            next_step="set the host's interface (ip -4 addr shows them)",
        )
    places = Folders.of(inventory, node.host, node.facts, job.run_id, job.code)
    image = inventory.image_for(host, node.devices.image_class) if host.runtime == "docker" else ""
    return HostPlan(
        host=host.name,
        runtime=host.runtime,
        ranks=ranks,
        container_name=container_name(inventory.cluster.name, job.run_id, host.name),
        image=image,
        argv=trainer_command(
            inventory.training,
            python=places.python,
            data_folder=places.data,
            script=places.script,
            lost_rank_seconds=inventory.limits.lost_rank_seconds,
        ),
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
        working_dir=places.code,
    )


def container_name(cluster: str, run_id: str, host: str) -> str:
    """Return ``hetero-<cluster>-<run>-<host>`` in the characters the engine allows.

    Where characters had to be replaced, a digest of the original keeps different names different.
    """
    name = f"hetero-{cluster}-{run_id}-{host}"
    allowed = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:_LONGEST_NAME]
    if allowed == name:
        return name
    return f"{allowed}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"

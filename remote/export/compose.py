"""The launch plan as one Compose file with a profile a host.

https://github.com/compose-spec/compose-spec/blob/main/spec.md
"""

from __future__ import annotations

from typing import Any

from remote.export.shared import environment, header, only_containers, to_yaml
from remote.plan_model import HostPlan, LaunchPlan


def compose_file(plan: LaunchPlan) -> str:
    """Return one file for all hosts; each host starts the profile that bears its name.

    The labels are those of this program, so that its ``status``, ``watch`` and ``stop`` find the containers.

    Raises:
        PlanError: some host runs plain processes.
    """
    only_containers(plan, "Compose")
    usage = (
        "Copy this file to every host and start there the profile with the host's name:",
        *(f"    docker compose --file FILE --profile {host.host} up --detach" for host in plan.hosts),
        "The image must be on every host already: hetero-tui images CLUSTER --bring",
    )
    services = {host.host: _service(host) for host in plan.hosts}
    return header(plan, usage) + to_yaml({"services": services})


def _service(host: HostPlan) -> dict[str, Any]:
    service: dict[str, Any] = {
        "profiles": [host.host],
        "image": host.image,
        "container_name": host.container_name,
        "network_mode": host.network_mode,
        "init": True,
        "shm_size": host.shm_size,
        "entrypoint": [host.argv[0]],
        "command": [_literal(word) for word in host.argv[1:]],
        "environment": {name: _literal(value) for name, value in environment(host).items()},
        "labels": {name: _literal(value) for name, value in host.labels},
    }
    if host.working_dir:
        service["working_dir"] = host.working_dir
    if host.user:
        service["user"] = host.user
    if host.mounts:
        service["volumes"] = [
            {"type": "bind", "source": _literal(source), "target": target, "read_only": mode == "ro"}
            for source, target, mode in host.mounts
        ]
    if host.gpu_uuids:
        device = {"driver": "nvidia", "device_ids": list(host.gpu_uuids), "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _literal(text: str) -> str:
    """Keep Compose from reading ``$NAME`` as a variable."""
    return text.replace("$", "$$")

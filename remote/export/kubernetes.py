"""The launch plan as Kubernetes Jobs, one a host.

https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/#job-v1-batch
"""

from __future__ import annotations

import re
from typing import Any, Final

from remote.export.shared import environment, header, only_containers, to_yaml
from remote.plan_model import HostPlan, LaunchPlan

GPU_RESOURCE: Final = "nvidia.com/gpu"
_CHOSEN_BY_THE_DEVICE_PLUGIN: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def kubernetes_manifest(plan: LaunchPlan) -> str:
    """Return a List of Jobs, each bound to the node with its host's name and to the node's network.

    Raises:
        PlanError: some host runs plain processes.
    """
    only_containers(plan, "Kubernetes")
    usage = (
        "    kubectl apply --filename FILE",
        "Each Job runs on the node whose label kubernetes.io/hostname is the host's name, on that node's network.",
        "GPUs are asked for by number: the device plugin picks them.",
    )
    jobs = [_job(plan, host) for host in plan.hosts]
    return header(plan, usage) + to_yaml({"apiVersion": "v1", "kind": "List", "items": jobs})


def _job(plan: LaunchPlan, host: HostPlan) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "hetero-tui",
        "app.kubernetes.io/instance": _label(plan.run_id),
        "hetero-tui/cluster": _label(plan.cluster),
        "hetero-tui/host": _label(host.host),
    }
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "hostNetwork": True,
            "dnsPolicy": "ClusterFirstWithHostNet",
            "nodeSelector": {"kubernetes.io/hostname": host.host},
            "containers": [_container(host)],
            "volumes": _volumes(host),
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": _name(host.container_name), "labels": labels},
        # The trainer starts a dead rank again itself; a second pod beside a first would be a second rank.
        "spec": {"backoffLimit": 0, "template": pod},
    }


def _container(host: HostPlan) -> dict[str, Any]:
    chosen_elsewhere = _CHOSEN_BY_THE_DEVICE_PLUGIN if host.gpu_uuids else ()
    variables = environment(host, without=chosen_elsewhere)
    container: dict[str, Any] = {
        "name": "trainer",
        "image": host.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [host.argv[0]],
        "args": [_literal(word) for word in host.argv[1:]],
        "env": [{"name": name, "value": _literal(value)} for name, value in variables.items()],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            *(
                {"name": f"mount-{number}", "mountPath": target, "readOnly": mode == "ro"}
                for number, (_, target, mode) in enumerate(host.mounts)
            ),
        ],
    }
    if host.working_dir:
        container["workingDir"] = host.working_dir
    if host.user.isdigit():
        container["securityContext"]["runAsUser"] = int(host.user)
    if host.gpu_uuids:
        container["resources"] = {"limits": {GPU_RESOURCE: len(host.gpu_uuids)}}
    return container


def _volumes(host: HostPlan) -> list[dict[str, Any]]:
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(host.shm_size)}}
    mounts = ({"name": f"mount-{at}", "hostPath": {"path": source}} for at, (source, _, _) in enumerate(host.mounts))
    return [shm, *mounts]


def _literal(text: str) -> str:
    """Keep the kubelet from reading ``$(NAME)`` as a variable."""
    return text.replace("$(", "$$(")


def _name(text: str) -> str:
    """Return a DNS label: at most 63 of lower-case letters, digits and inner dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[-63:].strip("-")


def _label(text: str) -> str:
    """Return a label value: at most 63 letters, digits, dashes, dots and underscores, letters or digits outside."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-._")

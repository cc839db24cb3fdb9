"""From one host's plan to what the engine is asked to create. Pure."""

from __future__ import annotations

import io
import posixpath
import tarfile
from dataclasses import dataclass
from typing import Any, Final

from docker.types import ContainerConfig, DeviceRequest, HostConfig, LogConfig, Mount, Ulimit

from remote.plan_contract import LABEL_HOST, LABEL_RANKS, LABEL_RUN
from remote.plan_model import HostPlan

STACK_BYTES: Final = 64 << 20
OPEN_FILES: Final = 65536
LOG_FILE_SIZE: Final = "200m"
LOG_FILES: Final = "20"
"""Together 4 GB of text, ten million lines and more, for a master that comes back late; the engine packs old files."""
KEPT_CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL")
"""Of what engines give: enough for root in the container to write folders of a person's and to signal its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One container. Always without a terminal, never restarted, never removed by the engine on its own."""

    image: str
    argv: tuple[str, ...]
    name: str = ""
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    shm_size: int = 1 << 30
    """Bytes of /dev/shm."""
    mounts: tuple[tuple[str, str, bool], ...] = ()
    """(path on the host, path in the container, read only)."""
    network_mode: str = "host"
    user: str = ""
    working_dir: str = ""
    """Where the command starts; the image's own when empty."""
    raises_limits: bool = False
    """Ask for more locked memory, stack and open files than the engine gives by default."""


def spec_of(plan: HostPlan, run_id: str) -> ContainerSpec:
    """Return the container of one host's plan. The labels by which it is found again are set whatever the plan says."""
    labels = dict(plan.labels) | {
        LABEL_RUN: run_id,
        LABEL_HOST: plan.host,
        LABEL_RANKS: ",".join(str(each.rank) for each in plan.ranks),
    }
    return ContainerSpec(
        image=plan.image,
        argv=plan.argv,
        name=plan.container_name,
        env=plan.env,
        labels=tuple(sorted(labels.items())),
        gpu_uuids=plan.gpu_uuids,
        shm_size=plan.shm_size,
        mounts=tuple((source, target, mode == "ro") for source, target, mode in plan.mounts),
        network_mode=plan.network_mode,
        user=plan.user,
        working_dir=plan.working_dir,
        raises_limits=True,
    )


def container_config(spec: ContainerSpec, api_version: str) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    ``Init`` is a must: a PID 1 without handlers ignores SIGTERM, so every stop would wait for its SIGKILL. The image's
    entrypoint is replaced by the command, for it may change the command or print into the event stream.
    """
    limits = [
        Ulimit(name="memlock", soft=-1, hard=-1),
        Ulimit(name="stack", soft=STACK_BYTES, hard=STACK_BYTES),
        Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
    ]
    host_config = HostConfig(
        version=api_version,
        network_mode=spec.network_mode,
        device_requests=[DeviceRequest(device_ids=list(spec.gpu_uuids), capabilities=[["gpu"]])]
        if spec.gpu_uuids
        else None,
        shm_size=spec.shm_size,
        ulimits=limits if spec.raises_limits else None,
        init=True,
        log_config=LogConfig(type="local", config={"max-size": LOG_FILE_SIZE, "max-file": LOG_FILES}),
        cap_drop=["ALL"],
        cap_add=list(KEPT_CAPABILITIES),
        security_opt=["no-new-privileges"],
        mounts=[Mount(target, source, type="bind", read_only=only) for source, target, only in spec.mounts],
        restart_policy={"Name": "no"},
        auto_remove=False,
    )
    config: dict[str, Any] = ContainerConfig(
        version=api_version,
        image=spec.image,
        entrypoint=list(spec.argv[:1]),
        command=list(spec.argv[1:]),
        environment=dict(spec.env),
        labels=dict(spec.labels),
        user=spec.user or None,
        working_dir=spec.working_dir or None,
        host_config=host_config,
    )
    return config


def archive(path: str, data: bytes, mode: int) -> bytes:
    """Pack one file at an absolute path, with its folders, as a tar to unpack at ``/``.

    The engine unpacks a file by creating it empty and filling it, so a reader could see half of it. Here the content
    goes to a hidden name and the real name is a hard link to it: it appears complete.
    """
    folder, name = posixpath.split(posixpath.normpath(path).lstrip("/"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        parts = folder.split("/") if folder else []
        for depth in range(len(parts)):
            member = tarfile.TarInfo("/".join(parts[: depth + 1]))
            member.type = tarfile.DIRTYPE
            member.mode = 0o755
            tar.addfile(member)
        hidden = posixpath.join(folder, f".{name}.part")
        content = tarfile.TarInfo(hidden)
        content.size, content.mode = len(data), mode
        tar.addfile(content, io.BytesIO(data))
        link = tarfile.TarInfo(posixpath.join(folder, name))
        link.type, link.linkname, link.mode = tarfile.LNKTYPE, hidden, mode
        tar.addfile(link)
    return buffer.getvalue()

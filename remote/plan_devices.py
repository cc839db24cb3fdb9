"""Which devices the ranks of a host get, and which collective backend all ranks can speak."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from remote.errors import PlanError
from remote.facts import Facts, Gpu
from remote.inventory_model import BackendChoice, DeviceClass, Host
from remote.plan_model import Backend

_UUID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
Kind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one host, one for each of its ranks."""

    kind: Kind
    gpus: tuple[Gpu, ...] = ()
    """In the order of the ranks; empty for ``cpu`` and ``mps``."""
    reason: str = ""
    """Why, where the inventory left it open."""

    @property
    def names(self) -> tuple[str, ...]:
        """Torch device string of every rank."""
        if self.kind != "cuda":
            return (self.kind,)
        return tuple(f"cuda:{position}" for position in range(len(self.gpus)))

    @property
    def image_class(self) -> DeviceClass:
        """Which image variant these ranks need."""
        return "cuda" if self.kind == "cuda" else "cpu"


def choose_devices(host: Host, facts: Facts) -> Devices:
    """Return the devices that the inventory asks for and the host has.

    Raises:
        PlanError: the host does not have them, or they cannot be used with its runtime.
    """
    match host.devices:
        case "cpu":
            return Devices("cpu")
        case "mps":
            return _apple(host, facts)
        case "auto":
            return _every_gpu(host, facts)
        case wanted:
            return _usable(host, tuple(_find(host, facts, each) for each in wanted))


def _apple(host: Host, facts: Facts) -> Devices:
    if facts.system and facts.system != "Darwin":
        raise PlanError(
            f'devices = "mps", but this is {facts.system}', host=host.name, next_step='use devices = "auto"'
        )
    if host.runtime != "process":
        raise PlanError(
            "Apple GPUs are not visible in containers",
            host=host.name,
            next_step='set runtime = "process" for this host',
        )
    return Devices("mps")


def _every_gpu(host: Host, facts: Facts) -> Devices:
    if not facts.gpus:
        why = "nvidia-smi fails there" if facts.gpu_error else "it has no GPU that PyTorch can use"
        if facts.system == "Darwin" and host.runtime == "process":
            why = 'devices = "mps" would use its Apple GPU'
        return Devices("cpu", reason=f"{host.name} computes on its CPU: {why}")
    vendors = {gpu.vendor for gpu in facts.gpus}
    if len(vendors) == 1:
        return _usable(host, facts.gpus)
    nvidia = tuple(gpu for gpu in facts.gpus if gpu.vendor == "nvidia")
    reason = f"{host.name} uses its NVIDIA GPUs only: one PyTorch build knows one vendor"
    return replace(_usable(host, nvidia), reason=reason)


def _find(host: Host, facts: Facts, wanted: int | str) -> Gpu:
    """Return the GPU of that index, UUID or unique beginning of a UUID."""
    if isinstance(wanted, int):
        found = [gpu for gpu in facts.gpus if gpu.index == wanted]
    else:
        found = [gpu for gpu in facts.gpus if gpu.uuid == wanted]
        found = found or [gpu for gpu in facts.gpus if gpu.uuid.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    has = ", ".join(f"{gpu.index} = {gpu.name[:40]!r} ({gpu.uuid[:48]!r})" for gpu in facts.gpus) or "no GPU"
    what = "is ambiguous" if found else "is not there"
    raise PlanError(f"GPU {wanted!r} {what}; this host has: {has}", host=host.name, next_step="correct its devices")


def _usable(host: Host, gpus: tuple[Gpu, ...]) -> Devices:
    for position, gpu in enumerate(gpus):
        if gpu in gpus[:position]:
            raise PlanError(
                f"GPU {gpu.index} ({gpu.uuid}) is listed twice", host=host.name, next_step="correct its devices"
            )
        if gpu.vendor == "nvidia" and not _UUID.fullmatch(gpu.uuid):
            raise PlanError(
                f"GPU {gpu.index} has the odd UUID {gpu.uuid[:40]!r}",
                host=host.name,
                next_step="run nvidia-smi -L there",
            )
    if not gpus:
        raise PlanError("the list of devices is empty", host=host.name, next_step='write devices = "auto" or "cpu"')
    vendors = sorted({gpu.vendor for gpu in gpus})
    if len(vendors) > 1:
        raise PlanError(
            f"GPUs of {' and '.join(vendors)} together: one PyTorch build knows one vendor",
            host=host.name,
            next_step="list the GPUs of one vendor in devices",
        )
    if vendors != ["nvidia"] and host.runtime == "docker":
        raise PlanError(
            f"{vendors[0]} GPUs cannot be given to a container by this program",
            host=host.name,
            next_step='set runtime = "process", or devices = "cpu"',
        )
    return Devices("cuda", gpus)


def no_gpu_twice(devices: Mapping[str, Devices]) -> None:
    """Check that no two hosts claim the same GPU, as happens when one machine is listed twice.

    Raises:
        PlanError: two hosts do.
    """
    owners: dict[str, str] = {}
    for host, chosen in devices.items():
        for gpu in chosen.gpus:
            first = owners.setdefault(gpu.uuid, host) if gpu.uuid else host
            if first != host:
                raise PlanError(
                    f"GPU {gpu.uuid} belongs to {first} too: both entries are the same machine",
                    host=host,
                    next_step="list the machine once, or give each entry GPUs of its own in devices",
                )


def choose_backend(choice: BackendChoice, devices: Sequence[tuple[str, Devices]]) -> tuple[Backend, str]:
    """Return the backend of the whole job and why.

    NCCL speaks between NVIDIA GPUs only; one rank that cannot speak it makes everybody use Gloo.

    Args:
        choice: what the inventory asks for.
        devices: (host name, its devices) of every host.

    Raises:
        PlanError: NCCL was asked for and some rank cannot speak it.
    """
    obstacles = [
        f"{host} {_cannot_nccl(chosen)}"
        for host, chosen in devices
        if chosen.kind != "cuda" or any(gpu.vendor != "nvidia" for gpu in chosen.gpus)
    ]
    if choice == "gloo":
        return "gloo", "Gloo, because cluster.backend says so"
    if choice == "nccl":
        if obstacles:
            raise PlanError(
                f"NCCL was asked for, but {'; '.join(obstacles)}",
                next_step='set cluster.backend = "auto", or leave these hosts out',
            )
        return "nccl", "NCCL, because cluster.backend says so"
    if obstacles:
        if len(obstacles) == len(devices) > 1:
            return "gloo", "Gloo, because no rank has an NVIDIA GPU"
        return "gloo", f"Gloo, because {'; '.join(obstacles)}"
    return "nccl", "NCCL, because every rank has an NVIDIA GPU"


def _cannot_nccl(devices: Devices) -> str:
    match devices.kind:
        case "cpu":
            return "computes on its CPU"
        case "mps":
            return "computes on an Apple GPU"
        case "cuda":
            return f"has a GPU of {devices.gpus[0].vendor}"

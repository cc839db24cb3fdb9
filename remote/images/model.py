"""What is decided and told about images: plain values, for screens that must not load SSH or Docker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Method = Literal["none", "present", "registry", "build", "send", "impossible"]
"""``none`` is a host without containers; ``impossible`` one for which there is no way, and why is said."""
Phase = Literal["waiting", "reading", "building", "sending", "pulling", "unpacking", "checking", "done", "failed"]

THIS_MACHINE = "this machine"
"""Stands for the engine of the machine the program runs on where it is no host of the inventory."""


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image as one engine has it."""

    id: str
    layers: tuple[str, ...]
    """Diff ids, the lowest first."""
    architecture: str
    size: int
    """Bytes, unpacked."""
    build_label: str = ""
    """What it was built from, where this program built it."""


@dataclass(frozen=True, slots=True)
class ImageState:
    """What one host (or this machine) has, and what it is to have."""

    host: str
    ref: str
    """The image its ranks run; for a machine that only serves as source, what it is asked for."""
    architecture: str
    """As Go calls it: ``amd64``, ``arm64``; empty when unknown."""
    image: KnownImage | None = None
    """What ``ref`` is there now."""
    chains: tuple[tuple[str, ...], ...] = ()
    """Layers of every image there: what need not travel."""
    free_bytes: int = 0
    """Free on the disk of the images; 0 when unknown."""
    uses_containers: bool = True
    problem: str = ""
    """Why its engine could not be asked."""
    layer_sizes: tuple[int, ...] = ()
    """Unpacked bytes of what each build step of ``image`` added."""
    device_class: str = "cpu"
    """What its ranks run on: ``cpu`` or ``cuda``."""


@dataclass(frozen=True, slots=True)
class HostImagePlan:
    """How one host gets its image."""

    host: str
    ref: str
    method: Method
    why: str
    source: str = ""
    """Where ``send`` takes it from, or where ``build`` builds it."""
    bytes_to_move: int | None = None
    """About how much is missing there, unpacked; None when nobody knows before the registry is asked."""
    bytes_needed: int | None = None
    """Free disk space it takes while it arrives: the layers once packed and once unpacked."""
    bytes_free: int = 0
    next_step: str = ""
    """What a person can do where it is impossible."""
    warning: str = ""
    """What may go wrong later although there is a way."""
    wants_most: bool = False
    """Most of the image is missing, and it is not small: another host may as well serve all of it."""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How every host gets its image."""

    hosts: tuple[HostImagePlan, ...]

    @property
    def missing(self) -> tuple[HostImagePlan, ...]:
        """Hosts to which something is brought."""
        return tuple(each for each in self.hosts if each.method in ("registry", "build", "send"))

    @property
    def impossible(self) -> tuple[HostImagePlan, ...]:
        """Hosts for which there is no way."""
        return tuple(each for each in self.hosts if each.method == "impossible")

    def host(self, name: str) -> HostImagePlan:
        """Return one host's part.

        Raises:
            KeyError: no such host.
        """
        for each in self.hosts:
            if each.host == name:
                return each
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """One layer on its way to one host."""

    layer: str
    """Short name: the beginning of its digest."""
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """One host moved on."""

    host: str
    phase: Phase
    done: int = 0
    """Bytes."""
    total: int = 0
    """Bytes; 0 when unknown."""
    rate: float = 0.0
    """Bytes/s over the last seconds."""
    layers: tuple[LayerProgress, ...] = ()
    detail: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of this phase at the present rate, or None when that cannot be told."""
        return (self.total - self.done) / self.rate if self.rate > 0 and self.total else None


Report = Callable[[ImageProgress], None]
"""Told whenever a host has moved on."""

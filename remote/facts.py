"""What a host is, read in one round trip by one POSIX-sh script sent over standard input."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the host's own tool lists it."""

    index: int
    name: str
    uuid: str
    memory: int
    """Bytes."""
    driver: str
    compute_capability: str
    vendor: str = "nvidia"


@dataclass(frozen=True, slots=True)
class EngineSocket:
    """A Docker Engine socket found on the host."""

    path: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What one host said about itself. Absent facts keep their default; nothing here is trusted further."""

    host: str
    """Name in the inventory."""
    system: str = ""
    """``Linux``, ``Darwin`` or ``Windows``."""
    distribution: str = ""
    kernel: str = ""
    architecture: str = ""
    """As ``uname -m`` says: ``x86_64``, ``aarch64``, ``arm64``."""
    hostname: str = ""
    user: str = ""
    user_id: int = -1
    groups: tuple[str, ...] = ()
    home: str = ""
    cpu_count: int = 0
    cpu_model: str = ""
    cpu_quota: float | None = None
    """CPUs this session may use by cgroup, or None when unlimited."""
    memory_total: int = 0
    """Bytes."""
    memory_available: int = 0
    """Bytes."""
    disk_free: int = 0
    """Bytes free where images or runs are stored."""
    disk_path: str = ""
    machine_id: str = ""
    wsl: bool = False
    interface: str = ""
    """Network interface on the route to the master (on the master: the one that owns its address)."""
    address: str = ""
    """This host's source address on that route."""
    addresses: tuple[tuple[str, str], ...] = ()
    """(interface, IPv4 address) of everything the host has."""
    mtu: int = 0
    port_listening: bool = False
    """Somebody listens on the master port on this host."""
    ephemeral_ports: tuple[int, int] = (32768, 60999)
    clock_offset: float = 0.0
    """Seconds the host's clock is ahead of the master's, corrected by half the round trip."""
    round_trip: float = 0.0
    """Seconds of one SSH round trip."""
    reverse_dns_seconds: float = 0.0
    firewalls: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str = ""
    """What nvidia-smi said when it failed."""
    nvidia_container_toolkit: str = ""
    engine_sockets: tuple[EngineSocket, ...] = ()
    docker_cli: str = ""
    python: str = ""
    """Path of a python3 on the host, or empty."""
    sudo: str = ""
    """``root``, ``nopass`` or ``no``."""
    raw: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Every key and value as the script printed them (evidence)."""

    @property
    def engine_socket(self) -> str:
        """The first socket this user may write to, or an empty string."""
        return next((each.path for each in self.engine_sockets if each.writable), "")

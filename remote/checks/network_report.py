"""What the network probe found: one value for all hosts, and the matrix of ordered pairs for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class LinkError(StrEnum):
    """How a connection failed."""

    REFUSED = "refused"
    """An answer came back at once: nothing listens, or a firewall rejects."""
    TIMEOUT = "timeout"
    """Nothing came back: a firewall drops, or the address is wrong."""
    UNREACHABLE = "unreachable"
    """The network says there is no way there, or a firewall rejects with that message."""
    NAME = "name"
    """The name does not resolve."""
    STALLED = "stalled"
    """The connection stands and then data stops: full-size packets are lost on the way."""
    STRANGER = "stranger"
    """Somebody else answered at that address and port."""
    CLOSED = "closed"
    """The peer closed the connection in the middle."""


@dataclass(frozen=True, slots=True)
class ProbeTimings:
    """Durations of the network probe in seconds."""

    dial: float = 8.0
    """How long a host goes on dialling the others."""
    linger: float = 2.0
    """How much longer it listens after that."""
    connect: float = 2.0
    """One attempt to connect."""
    stall: float = 5.0
    """Without a single byte until a connection counts as stalled."""
    transfer: float = 20.0
    """The whole exchange of data over one connection; on a link too slow for that the rate is taken so far."""
    load: float = 5.0
    """How much longer than the dialling hosts take turns at exchanging data; then the rest do it all at once."""
    start: float = 20.0
    """Until the probe must have started on a host."""
    lookup: float = 3.0
    """How long the probe waits for the name server at its end."""
    payload: int = 10_000_000
    """Bytes sent each way between every ordered pair, unless ``enough`` time has passed before."""

    def enough(self, hosts: int) -> float:
        """Seconds one way after which a rate counts as known.

        A host takes part in two exchanges with each other host, both ways each: together they fill ``load``.
        """
        return min(1.0, max(0.05, self.load / (4 * max(1, hosts - 1))))

    @property
    def limit(self) -> float:
        """Seconds after which a probe that has not ended is given up."""
        return self.start + self.dial + self.load + self.connect + 2 * self.transfer + self.linger + 2 * self.lookup


@dataclass(frozen=True, slots=True)
class PairLink:
    """One ordered pair: ``source`` dialled ``target``."""

    source: str
    target: str
    address: str
    """What was dialled."""
    port: int
    round_trip: float | None = None
    """Seconds of the smallest message there and back; None when it failed."""
    sent_bytes_per_second: float | None = None
    """Rate from source to target while no other pair that is tried uses either host."""
    received_bytes_per_second: float | None = None
    """Rate from target to source, likewise."""
    moved_bytes: int | None = None
    """How much arrived each way, the smaller of both; None when one way was too slow to end."""
    seen_as: str = ""
    """Source address the target saw."""
    error: LinkError | None = None
    detail: str = ""
    """What the system said."""
    seconds: float = 0.0
    """How long the last attempt took to succeed or fail."""


@dataclass(frozen=True, slots=True)
class PairMatrix:
    """Every ordered pair of hosts that was tried."""

    hosts: tuple[str, ...]
    links: Mapping[tuple[str, str], PairLink]
    """(source, target) to what happened; a pair that could not be tried is missing."""

    def link(self, source: str, target: str) -> PairLink | None:
        """What happened from ``source`` to ``target``, or None when it was not tried."""
        return self.links.get((source, target))


@dataclass(frozen=True, slots=True)
class PortBind:
    """An attempt to listen on a port."""

    port: int
    error: str = ""
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class HostReport:
    """What the probe on one host said about the place the job will run in."""

    host: str
    place: str
    """``container`` or ``host``: where it ran."""
    python: str = ""
    data_ports: tuple[int, ...] = ()
    """Ports it could listen on."""
    binds: tuple[PortBind, ...] = ()
    master_bind: PortBind | None = None
    """The rendezvous port; on the master only."""
    membership_bind: PortBind | None = None
    """The port after it, where ranks join and leave; on the master only."""
    interface_addresses: tuple[str, ...] | None = None
    """IPv4 addresses of the interface the ranks will use; None when there is no such interface."""
    hostname: str = ""
    hostname_addresses: tuple[str, ...] | None = None
    """What the own host name resolves to; None when that was not found out."""
    reverse_seconds: float | None = None
    """A reverse look-up of the master's address; None when it did not end in time."""
    shared_memory: int = 0
    """Bytes of /dev/shm; 0 when there is none."""
    open_files: int = 0
    """Soft limit on open files."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of that place that could disturb the job."""


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """Everything the probes found out together."""

    hosts: Mapping[str, HostReport]
    """The hosts whose probe ran."""
    missing: Mapping[str, str]
    """Hosts whose probe did not run, and why."""
    matrix: PairMatrix
    """Data ports, every ordered pair."""
    master_links: Mapping[str, PairLink]
    """Rendezvous port, by the host that dialled."""
    master_port: int = 0
    membership_links: Mapping[str, PairLink] = field(default_factory=dict)
    """The port after the rendezvous port, where ranks join and leave, by the host that dialled."""

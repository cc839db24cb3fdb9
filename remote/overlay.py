"""The encrypted overlay between the hosts as a value: who has which address inside it, and how it is reached. Pure.

WireGuard knows a peer by its public key and sends it what is for the peer's allowed addresses
(https://www.wireguard.com/papers/wireguard.pdf, section 2). Keys are made on the hosts when the overlay is raised and
are no part of the plan.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.plan_network import is_loopback_cluster

PREFIX: Final = "hetero-"
"""Begins the name of every interface this program makes."""
OVERHEAD: Final = 80
"""Bytes WireGuard adds to a packet over IPv6: 40 IP, 8 UDP, 32 of its own; 20 fewer over IPv4."""
LEAST_MTU: Final = 576
_USUAL_MTU: Final = 1500
_SPACE: Final = ipaddress.IPv4Network("10.0.0.0/8")
_ENGINES_APART: Final = {"/run/user/": "a rootless engine's", "/.docker/": "Docker Desktop's"}
"""By a part of the socket's path: engines whose ``--network host`` is not the host's own
(https://docs.docker.com/engine/security/rootless/troubleshoot/)."""
_LARGEST: Final = 253
"""Hosts in a /24 without its first and last two addresses."""


@dataclass(frozen=True, slots=True)
class OverlayHost:
    """One host's place in the overlay."""

    host: str
    address: str
    """Inside the overlay: what the ranks dial."""
    endpoint: str
    """Outside: where the others send encrypted packets first. Who is behind NAT is found once it has sent one."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is set up before the ranks start and taken down behind them."""

    cluster: str
    run_id: str
    interface: str
    """The same name on every host."""
    network: str
    """IPv4 network in CIDR notation that no host has a route to."""
    port: int
    """UDP port every host listens on."""
    mtu: int
    """Bytes of the largest packet inside."""
    hub: str
    """Host that passes packets on between two that cannot reach each other: the master."""
    hosts: tuple[OverlayHost, ...]

    def host(self, name: str) -> OverlayHost:
        """Return one host's place.

        Raises:
            KeyError: it has none.
        """
        for each in self.hosts:
            if each.host == name:
                return each
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(each.host == name for each in self.hosts)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield every unordered pair of hosts once."""
        names = [each.host for each in self.hosts]
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                yield one, other


def interface_name(run_id: str) -> str:
    """Return the interface of a run, in the 15 characters Linux allows."""
    return PREFIX + hashlib.sha256(run_id.encode()).hexdigest()[:8]


def is_encrypted(inventory: Inventory) -> bool:
    """Whether the ranks talk through an overlay: asked for, and there is more than one machine."""
    return inventory.network.encryption == "wireguard" and not is_loopback_cluster(inventory)


def plan_overlay(inventory: Inventory, facts: Mapping[str, Facts], run_id: str, master_address: str) -> Overlay:
    """Choose network, addresses, endpoints and packet size.

    Args:
        inventory: the validated ``cluster.toml``.
        facts: what every host said, by name.
        run_id: id of the run, or of a trial.
        master_address: the master's address outside the overlay.

    Raises:
        PlanError: a host cannot take part, with the reason.
    """
    master = inventory.master
    hosts = (master, *(host for host in inventory.hosts if host.name != master.name))
    reasons = [(host, why) for host in hosts if (why := why_not(host, facts[host.name]))]
    if reasons:
        host, why = reasons[0]
        told = why if len(reasons) == 1 else "; ".join(f"{each.name}: {reason}" for each, reason in reasons)
        raise PlanError(
            f'network.encryption = "wireguard" cannot be set up: {told}',
            host=host.name if len(reasons) == 1 else "",
            next_step='mend that, or set network.encryption = "none" on a network you trust',
        )
    _refuse_one_machine(hosts, facts)
    if len(hosts) > _LARGEST:
        raise PlanError(f"an overlay has at most {_LARGEST} hosts, not {len(hosts)}")
    network = choose_network(inventory.cluster.name, facts.values())
    mtus = [each.mtu for each in facts.values() if each.mtu]
    return Overlay(
        cluster=inventory.cluster.name,
        run_id=run_id,
        interface=interface_name(run_id),
        network=str(network),
        port=inventory.cluster.port,
        mtu=max(LEAST_MTU, min(mtus, default=_USUAL_MTU) - OVERHEAD),
        hub=master.name,
        hosts=tuple(
            OverlayHost(host.name, str(network[number]), _endpoint(host, facts[host.name], master, master_address))
            for number, host in enumerate(hosts, 1)
        ),
    )


def why_not(host: Host, facts: Facts) -> str:
    """Return why a host's ranks cannot talk through an overlay that this program sets up, or an empty string."""
    if facts.system != "Linux":
        return f"this program sets WireGuard up on Linux only, not on {facts.system or 'an unknown system'}"
    if facts.sudo not in ("root", "nopass"):
        who = facts.user or "the account"
        return f"it needs root, and {who} is neither root nor may use sudo without a password there"
    if host.runtime == "docker":
        socket = host.docker_socket or facts.engine_socket
        for mark, whose in _ENGINES_APART.items():
            if mark in socket and "podman" not in socket:
                return f"{whose} containers are in a network of their own, in which the host's interfaces are not"
    return ""


def _refuse_one_machine(hosts: Sequence[Host], facts: Mapping[str, Facts]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for host in hosts:
        known = facts[host.name]
        if not known.machine_id:
            continue
        other = seen.setdefault((known.machine_id, known.hostname), host.name)
        if other != host.name:
            raise PlanError(
                f"{other} and {host.name} are one machine, which can be in the overlay once",
                next_step='list it once with several devices, or set network.encryption = "none"',
            )


def _endpoint(host: Host, facts: Facts, master: Host, master_address: str) -> str:
    if host.train_address:
        return host.train_address
    return master_address if host.name == master.name else facts.address


def choose_network(cluster: str, facts: Iterable[Facts]) -> ipaddress.IPv4Network:
    """Return a /24 that no host has a route into; the same for a cluster every time, so firewall rules stay right.

    Raises:
        PlanError: the hosts' routes cover all of 10.0.0.0/8.
    """
    taken = frozenset(_taken(facts))
    first = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:2], "big")
    for step in range(1 << 16):
        network = ipaddress.IPv4Network((int(_SPACE[0]) + ((first + step) % (1 << 16) << 8), 24))
        if not any(network.overlaps(other) for other in taken):
            return network
    raise PlanError(
        "no network is free for the overlay: the hosts' routes cover all of 10.0.0.0/8",
        next_step="use a VPN of your own and name its interface with network.interface",
    )


def _taken(facts: Iterable[Facts]) -> Iterator[ipaddress.IPv4Network]:
    for each in facts:
        for interface, network in each.networks:
            if not interface.startswith(PREFIX):  # an overlay that is about to go
                yield ipaddress.IPv4Network(network)
        for interface, address in each.addresses:
            if not interface.startswith(PREFIX):
                yield ipaddress.IPv4Network(f"{address}/24", strict=False)

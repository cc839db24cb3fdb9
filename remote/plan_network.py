"""Which address the ranks dial and which interface each host talks over.

Gloo binds to the address of exactly one interface, and the address of rank 0 must be one that every other host can
reach: not loopback, not a bridge of the container engine.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.inventory_rules import is_ip_address

_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,31}")
_VIRTUAL: Final = re.compile(r"docker\d|br-[0-9a-f]{6}|veth|virbr|cni|flannel|podman|lxcbr|lxdbr|vmnet|vboxnet|lo\d*$")
LOOPBACK_ADDRESS: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MasterAddress:
    """The address of the rendezvous, and where it comes from."""

    address: str
    reason: str


def is_loopback_cluster(inventory: Inventory) -> bool:
    """Whether no rank ever leaves one machine's loopback interface."""
    return len(inventory.hosts) == 1 or all(host.is_loopback for host in inventory.hosts)


def master_address(inventory: Inventory, facts: Mapping[str, Facts]) -> MasterAddress:
    """Return the IP address that every rank dials.

    Raises:
        PlanError: no address is known that the other hosts could reach.
    """
    master = inventory.master
    loopback = is_loopback_cluster(inventory)
    for key, given in (
        ("cluster.master_address", inventory.cluster.master_address),
        (f"train_address of {master.name}", master.train_address),
    ):
        if given:
            return _given(key, given, loopback=loopback)
    if loopback:
        return MasterAddress(LOOPBACK_ADDRESS, "all ranks are on one machine")
    known = facts[master.name]
    owner = interface_of(known, known.address)
    if is_reachable(known.address) and not _VIRTUAL.match(owner):
        return MasterAddress(known.address, f"{master.name}'s address on the way to the other hosts")
    return _guessed(inventory, facts)


def _given(key: str, address: str, *, loopback: bool) -> MasterAddress:
    if not is_ip_address(address):
        raise PlanError(
            f"{key} = {address!r} is not an IP address; a name may mean another machine on each host",
            next_step="write the IP address",
        )
    if not loopback and not is_reachable(address):
        raise PlanError(
            f"{key} = {address!r} cannot be reached from other hosts",
            next_step="write the master's address on the network all hosts share",
        )
    return MasterAddress(address, f"{key} says so")


def _guessed(inventory: Inventory, facts: Mapping[str, Facts]) -> MasterAddress:
    """Choose among the master's addresses the one in the network of the other hosts."""
    master = inventory.master
    candidates = [
        address
        for interface, address in facts[master.name].addresses
        if is_reachable(address) and not _VIRTUAL.match(interface)
    ]
    others = {facts[host.name].address for host in inventory.hosts if host.name != master.name}
    near = [address for address in candidates if any(_same_network(address, other) for other in others)]
    for chosen, reason in (
        (near, f"the one address of {master.name} in the network of the other hosts"),
        (candidates, f"the one address of {master.name} that other hosts could reach"),
    ):
        if len(chosen) == 1:
            return MasterAddress(chosen[0], reason)
    found = ", ".join(candidates) or "none that other hosts could reach"
    raise PlanError(
        f"cannot tell which address the other hosts reach the master at; found: {found}",
        host=master.name,
        next_step="set cluster.master_address",
    )


def choose_interface(inventory: Inventory, host: Host, facts: Facts, address: str) -> str:
    """Return the interface this host's ranks talk over, or an empty string when it cannot be told.

    Args:
        inventory: the whole inventory.
        host: the host in question.
        facts: what the host said.
        address: the master's address.

    Raises:
        PlanError: the interface that the inventory names is not there.
    """
    wanted = host.interface or (inventory.network.interface if inventory.network.interface != "auto" else "")
    if wanted and wanted != "auto":
        return _named(host, facts, wanted, is_ipv6=":" in address)
    if is_loopback_cluster(inventory) and ipaddress.ip_address(address).is_loopback:
        return _checked(host, interface_of(facts, address) or ("lo0" if facts.system == "Darwin" else "lo"))
    if host.train_address and (owner := interface_of(facts, host.train_address)):
        return _checked(host, owner)
    if host.name == inventory.master.name and (owner := interface_of(facts, address)):
        # The route from the master to itself says loopback.
        return _checked(host, owner)
    by_route = facts.interface or interface_of(facts, facts.address)
    return "" if re.fullmatch(r"lo\d*", by_route) else _checked(host, by_route)


def _named(host: Host, facts: Facts, wanted: str, *, is_ipv6: bool) -> str:
    names = sorted({name for name, _ in facts.addresses if _INTERFACE.fullmatch(name)})
    if names and wanted not in names and not is_ipv6:
        raise PlanError(
            f"there is no interface {wanted!r} with an IPv4 address; this host has: {', '.join(names)}",
            host=host.name,
            next_step="set the host's own interface, or leave it out to have it found",
        )
    return _checked(host, wanted)


def _checked(host: Host, interface: str) -> str:
    if interface and not _INTERFACE.fullmatch(interface):
        raise PlanError(
            f"{interface[:40]!r} cannot be the name of an interface",
            host=host.name,
            next_step="set the host's interface by hand",
        )
    return interface


def interface_of(facts: Facts, address: str) -> str:
    """Return the interface that owns ``address`` on this host, or an empty string."""
    return next((name for name, own in facts.addresses if own == address), "") if address else ""


def is_reachable(address: str) -> bool:
    """Whether another machine could reach this address at all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if "%" in address:  # a scope is a word of that host's own, and may be anything
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified or parsed.is_multicast)


def _same_network(one: str, other: str) -> bool:
    """Whether two IPv4 addresses share their first 24 bits, the size of nearly every home network."""
    try:
        return ipaddress.ip_address(other) in ipaddress.ip_network(f"{one}/24", strict=False)
    except ValueError:
        return False

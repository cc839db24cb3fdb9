"""One connection that came about or did not: what it means in words, and what mends the way."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from remote.checks.model import Fix
from remote.checks.network_firewall import Firewall, open_ports
from remote.checks.network_report import LinkError, NetworkReport, PairLink
from remote.facts import Facts

HIGH_SUBNET = "198.19.0.0/16"
"""Above every private IPv4 range, and used by no home network (RFC 2544)."""


@dataclass(frozen=True, slots=True)
class Target:
    """The host that is dialled, with what is known of the way into it."""

    facts: Facts
    address: str = ""
    """What the others dial, and what Gloo announces."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Host that dials → its address."""
    firewall: Firewall | None = None
    """None where the host was not asked."""
    seen_as: str = ""
    """Another address than its own, under which the others see it: it is behind NAT."""


def explain(link: PairLink) -> str:
    """Say in words how one connection failed."""
    where = f"{link.target} at {link.address}:{link.port}"
    match link.error:
        case LinkError.REFUSED:
            return f"{link.source} is refused by {where} in {link.seconds * 1e3:.0f} ms, though it listens: REJECT rule"
        case LinkError.TIMEOUT:
            return f"{link.source} gets no answer from {where}: DROP rule, or a wrong address"
        case LinkError.UNREACHABLE:
            return f"{link.source} has no way to {where} ({link.detail}): other network, or a REJECT rule"
        case LinkError.NAME:
            return f"{link.source} cannot resolve {link.address} ({link.detail})"
        case LinkError.STRANGER:
            return f"{link.source} reaches something else at {link.address}:{link.port} ({link.detail})"
        case LinkError.STALLED | LinkError.CLOSED:
            return f"{link.source} reaches {where}, then {link.detail}"
        case None:
            return f"{link.source} reaches {where}"


def reached(link: PairLink) -> bool:
    """Whether a connection came about, whatever became of the data on it."""
    return link.error in {None, LinkError.STALLED, LinkError.CLOSED}


def gloo_dials(source: str, target: str) -> bool:
    """Whether a rank at ``source`` may dial one at ``target``: of two addresses, Gloo's numerically larger one does.

    Source: gloo/transport/tcp/device.cc, ``isInitiator``. Ranks on one address are told apart by their ports, which
    nobody knows before, and what is no IPv4 address counts as dialled.
    """
    try:
        return ipaddress.IPv4Address(source) >= ipaddress.IPv4Address(target)
    except ValueError:
        return True


def translated(report: NetworkReport, host: str, address: str) -> str:
    """Return the address the others see a host under when it is not its own, else an empty string."""
    try:
        own = ipaddress.ip_address(address)
    except ValueError:
        return ""
    seen = {link.seen_as for (source, _), link in report.matrix.links.items() if source == host and link.seen_as}
    seen |= {link.seen_as for source, link in report.master_links.items() if source == host and link.seen_as}
    return next((each for each in sorted(seen) if each != str(own)), "")


def why_untried(report: NetworkReport, source: str, target: str) -> str:
    """Say why one host did not dial another."""
    for host in (source, target):
        if host in report.missing:
            return f"the probe did not run on {host}: {report.missing[host]}"
        if host not in report.hosts:
            return f"{host} was not asked"
    if not report.hosts[target].data_ports:
        return f"{target} could not listen: {'; '.join(each.error for each in report.hosts[target].binds)}"
    return f"the probes on {source} and {target} did not run at the same time"


def path_fix(links: Sequence[PairLink], target: Target, ports: str) -> Fix:
    """Mend the way into a host."""
    errors = {link.error for link in links}
    facts = target.facts
    if errors == {LinkError.NAME}:
        return Fix("name an IP address instead of a host name as train_address or master_address in cluster.toml")
    if LinkError.STRANGER in errors:
        return Fix(
            f"{links[0].address} leads to another machine or program: give {facts.host} its own address as "
            "train_address, and see whether something forwards the port"
        )
    if target.seen_as:
        return behind_nat(target, ports)
    fix = open_ports(facts, target.firewall, ports, tuple(dict.fromkeys(target.sources[link.source] for link in links)))
    if errors == {LinkError.UNREACHABLE}:
        return replace(
            fix,
            text=f"{fix.text}. If {links[0].address} answers nothing at all, the hosts are on different networks: "
            "guest Wi-Fi, client isolation or another VLAN; put them on one, or join them by a VPN",
        )
    return fix


def behind_nat(target: Target, ports: str) -> Fix:
    """Say which ways lead to a host behind address translation."""
    host = target.facts.host
    if target.facts.wsl:
        native = "set networkingMode=mirrored under [wsl2] in %UserProfile%\\.wslconfig on Windows"
    else:
        native = "bridge the virtual machine or the access point instead of NAT"
    return Fix(
        f"{host} is behind NAT (seen as {target.seen_as}): {native}. Or, where it is the only such host, give its own "
        f"network a subnet of {HIGH_SUBNET}: of two ranks the one with the higher address dials, so it needs no "
        f"inbound port. Or publish TCP {ports} of {target.seen_as} to it, with port_range set, and lead "
        f"{target.address} there on the hosts that dial. Or join the hosts by a VPN and name its addresses as "
        "train_address",
        host=host,
    )

"""Addresses, names and ranges: what each rank is told of the network, and what the system makes of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, skip, warn
from remote.checks.network_probe import port_range
from remote.checks.network_report import HostReport
from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory import Inventory

SLOW_LOOKUP = 1.0
"""Seconds of a reverse look-up; torch makes one for each peer while it forms the process group."""


def interface_finding(
    facts: Facts, interface: str, address: str, report: HostReport, *, loopback: bool, is_given: bool = True
) -> Finding:
    """Judge the interface and the address that Gloo will be told.

    Args:
        facts: what the host said.
        interface: what the plan will name, or an empty string.
        address: what the other ranks dial.
        report: what was seen where the ranks will run.
        loopback: all hosts are one machine on purpose.
        is_given: the inventory names the address, so that it may be one that leads here through NAT or a tunnel.
    """
    listing = ", ".join(f"{name} {each}" for name, each in facts.addresses) or "none"
    evidence = f"route to the master: {facts.interface or 'none'} {facts.address or 'none'}; addresses: {listing}"
    if report.hostname_addresses:
        evidence += f"; {report.hostname} resolves to {', '.join(report.hostname_addresses)}"
    if not interface:
        return fail(
            "no route to the master, so no interface for the ranks",
            evidence,
            Fix(
                "check the network between the hosts, or name the interface of this host in cluster.toml",
                ("ip -4 addr show",),
                host=facts.host,
            ),
        )
    if address.startswith("127.") and not loopback:
        return fail(
            f"it would announce {address}, which leads every other host to itself",
            evidence,
            Fix(
                "name an address the others can reach: master_address under [cluster], or train_address of the host",
                host=facts.host,
            ),
        )
    inside = report.interface_addresses
    if report.place == "container" and (inside is None or (facts.addresses and address not in inside)):
        has = "does not exist" if inside is None else f"has {', '.join(inside) or 'no address'}, not {address}"
        on_host = tuple(each for name, each in facts.addresses if name == interface)
        if inside is None or (address in on_host):
            return fail(
                f"inside the container {interface} {has}: its network is not the host's",
                f"{evidence}; inside: {interface} {has}",
                Fix(
                    'use an engine whose host network is the host\'s (not Docker Desktop), or runtime = "process"',
                    host=facts.host,
                ),
            )
    on_interface = tuple(each for name, each in facts.addresses if name == interface)
    if on_interface and is_address(address) and address not in on_interface:
        if not is_given:
            return fail(
                f"the ranks would announce {on_interface[0]} of {interface}; the way to the others is {address}",
                evidence,
                Fix(
                    "correct interface of the host (or under [network]) in cluster.toml, or leave it out",
                    host=facts.host,
                ),
            )
        return warn(
            f"{address} is not on {interface} ({', '.join(on_interface)}): right only behind NAT or a tunnel",
            evidence,
            Fix("correct train_address or interface of the host, or leave both out", host=facts.host),
        )
    return ok(f"{interface} {address}", evidence)


def is_address(text: str) -> bool:
    """Whether a text is an IP address and not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _interface(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    master = context.inventory.master.name
    if master not in context.known_facts and not context.inventory.cluster.master_address:
        return skip(f"needs “System and architecture” (system) on {master}, whose address is not known without it")
    try:
        interface = await context.interface(name)
    except PlanError as error:
        return fail(error.message, str(error), Fix(error.next_step, host=name))
    address = await context.address(name)
    is_given = bool(context.host(name).train_address or (context.is_master(name) and _names_master(context)))
    seen = context.report.hosts[name]
    return interface_finding(facts, interface, address, seen, loopback=context.is_loopback, is_given=is_given)


def _names_master(context: CheckContext) -> bool:
    return bool(context.inventory.cluster.master_address)


def lookup_finding(facts: Facts, report: HostReport, peers: Mapping[str, str]) -> Finding:
    """Judge how long a reverse look-up takes; ``peers`` is host name → address."""
    inside = report.reverse_seconds
    told = "not ended" if inside is None else f"{inside:.2f} s"
    evidence = f"reverse look-up: on the host {facts.reverse_dns_seconds:.2f} s, where the ranks run {told}"
    if not peers:
        return skip("one host only")
    if inside is not None and max(facts.reverse_dns_seconds, inside) < SLOW_LOOKUP:
        return ok(f"{max(facts.reverse_dns_seconds, inside) * 1e3:.0f} ms", evidence)
    lines = tuple(f"{address} {name}" for name, address in peers.items() if is_address(address))
    return warn(
        "the name server answers reverse look-ups too slowly: forming the process group takes up to 20 s",
        evidence,
        Fix(
            "write the hosts into /etc/hosts, or correct the name server",
            tuple(f"echo '{line}' | sudo tee -a /etc/hosts" for line in lines),
            host=facts.host,
            needs_root=True,
            safe=True,
        ),
    )


async def _lookup(context: CheckContext, name: str) -> Finding:
    report = context.report
    peers = {each: await context.address(each) for each in report.hosts if each != name}
    return lookup_finding(await context.facts(name), report.hosts[name], peers)


def ephemeral_finding(inventory: Inventory, facts: Facts, is_master: bool) -> Finding:
    """Judge the system's range of ephemeral ports: Gloo's data ports come from it, the master port must not."""
    first, last = facts.ephemeral_ports
    port = inventory.cluster.port
    evidence = f"net.ipv4.ip_local_port_range = {first} {last}; [cluster] port = {port}"
    promised = port_range(inventory.network.port_range)
    if promised is not None and not (promised[0] <= first and last <= promised[1]):
        return fail(
            f"Gloo takes its data ports from {first}-{last}, but [network] port_range says {promised[0]}-{promised[1]}",
            evidence,
            Fix(
                "narrow the system's range to the promised one (until the next boot; /etc/sysctl.d makes it last). It "
                "is the range of the whole host: Gloo and NCCL ask the system for any port, and a container in the "
                "host's network cannot be given a range of its own",
                (f'sudo sysctl -w net.ipv4.ip_local_port_range="{promised[0]} {promised[1]}"',),
                host=facts.host,
                needs_root=True,
                safe=True,
            ),
        )
    if is_master and first <= port <= last and port not in _reserved(facts):
        return warn(
            f"master port {port} lies in the ephemeral range {first}-{last}: any program may be given it at any time",
            evidence,
            Fix(
                "choose a port outside that range, or reserve it",
                (f"sudo sysctl -w net.ipv4.ip_local_reserved_ports={port}",),
                host=facts.host,
                needs_root=True,
                safe=True,
            ),
        )
    return ok(f"{first}-{last}", evidence)


def _reserved(facts: Facts) -> set[int]:
    """Ports the system hands out to nobody, as ``net.ipv4.ip_local_reserved_ports`` lists them."""
    text = dict(facts.raw).get("reserved_ports", "")
    ports: set[int] = set()
    for first, _, last in (part.partition("-") for part in text.split(",")):
        if first.isdecimal() and (not last or last.isdecimal()):
            ports.update(range(int(first), min(int(last or first), 65535) + 1))
    return ports


async def _ephemeral(context: CheckContext, name: str) -> Finding:
    return ephemeral_finding(context.inventory, await context.facts(name), context.is_master(name))


EPHEMERAL = Check(
    id="ephemeral-ports",
    title="Ephemeral ports",
    codes=("PF-42",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is the master port outside the range the system hands out, and does that range lie in `port_range` where "
    "one is promised? Gloo's data ports come from it.",
    remedy="Choose another master port; narrow `net.ipv4.ip_local_port_range`.",
    probe=each_host(_ephemeral),
    needs=("system",),
)
INTERFACE = Check(
    id="interface",
    title="Interface and address",
    codes=("PF-17", "PF-35", "PF-36", "PF-37", "PF-38", "PF-39"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the interface Gloo will be told exist, with the address the others dial, inside the job's container "
    "too? An interface is always named, so a host name that resolves to 127.0.1.1 does no harm.",
    remedy="Correct `interface`, `train_address` or `master_address`; use the host's network for containers.",
    probe=each_host(_interface),
    needs=("probe",),
)
LOOKUP = Check(
    id="reverse-dns",
    title="Reverse look-up",
    codes=("PF-50",),
    severity=Severity.WARNS,
    scope="host",
    question=f"Does a reverse look-up of another host's address end within {SLOW_LOOKUP:g} s, where the ranks run?",
    remedy="Write the hosts into /etc/hosts, or correct the name server.",
    probe=each_host(_lookup),
    needs=("probe",),
)
CHECKS = (INTERFACE, LOOKUP)

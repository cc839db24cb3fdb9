"""The network between the ranks, tried from where they will run: ports, routes, names, and real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from remote.checks.addresses import INTERFACE, is_address
from remote.checks.context import CheckContext
from remote.checks.devices import wants_gpu
from remote.checks.model import Check, Finding, Fix, Severity, Verdict, each_host, fail, ok, skip, unknown, warn
from remote.checks.network_firewall import Firewall, ask_firewall
from remote.checks.network_paths import Target, explain, gloo_dials, path_fix, reached, translated, why_untried
from remote.checks.network_report import LinkError, NetworkReport, PairLink, PortBind
from remote.checks.shared import between_hosts
from remote.facts import Facts
from remote.inventory import Inventory

SLOW_LINK = 12.5e6
"""Bytes a second: 100 Mbit/s. simple_cnn moves 9.9 MB a step."""
BLOCKED = frozenset({LinkError.REFUSED, LinkError.TIMEOUT, LinkError.UNREACHABLE})
"""Ways to fail that a firewall may be behind."""
PROBE_DEADLINE = 200.0
"""Seconds, for two tries: a container starts, all dial, take turns at exchanging data, and end the last transfer."""


def probe_finding(name: str, runtime: str, report: NetworkReport) -> Finding:
    """Say where the probe ran, or why it did not."""
    seen = report.hosts.get(name)
    if seen is None:
        return unknown(report.missing.get(name, "the probe did not run"))
    evidence = f"Python {seen.python}; listened on {', '.join(map(str, seen.data_ports)) or 'nothing'}"
    if not seen.data_ports:
        return unknown(f"could not listen: {'; '.join(each.error for each in seen.binds)}", evidence)
    if seen.place == "host" and runtime == "docker":
        return warn("ran on the host, for the image is not there yet: containers may see another network", evidence)
    return ok("in the job's image" if seen.place == "container" else "with the host's Python", evidence)


async def _probe(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = await context.probe_network(hosts)
    return {host: probe_finding(host, context.host(host).runtime, report) for host in hosts}


def master_port_finding(facts: Facts, bind: PortBind, listener: str) -> Finding:
    """Judge whether the master can listen on the rendezvous port; ``listener`` is who holds it, if known."""
    port = bind.port
    evidence = f"listening on {port}: {bind.error or 'worked'}; {listener or 'no listener seen'}"
    if not bind.error:
        return ok(f"port {port} is free", evidence)
    if bind.in_use:
        return fail(
            f"port {port} is in use{f' by {listener}' if listener else ''}",
            evidence,
            Fix(
                f"end that program, or set port = {port + 1} under [cluster] in cluster.toml",
                (f"sudo ss -Hltnp 'sport = :{port}'" if facts.system != "Darwin" else f"sudo lsof -nP -iTCP:{port}",),
                host=facts.host,
                needs_root=True,
            ),
        )
    return fail(
        f"cannot listen on port {port}: {bind.error}",
        evidence,
        Fix("set another port above 1023 under [cluster] in cluster.toml", host=facts.host),
    )


def listener_command(port: int) -> str:
    """Names who listens on a TCP port, on Linux or macOS; other users' programs need root."""
    return f"ss -Hltnp 'sport = :{port}' 2>/dev/null || lsof -nP -iTCP:{port} -sTCP:LISTEN 2>/dev/null"


async def _master_port(context: CheckContext, name: str) -> Finding:
    if not context.is_master(name):
        return skip("only the master listens on it")
    bind = context.report.hosts[name].master_bind
    if bind is None:
        return unknown("the probe did not try to listen on it")
    listener = ""
    if bind.in_use:
        completed = await context.runner(name).run(listener_command(bind.port), timeout=10.0)
        listener = " ".join(completed.stdout.split())[:300]
    return master_port_finding(await context.facts(name), bind, listener)


def master_link_finding(
    links: Sequence[PairLink], target: Target, ports: tuple[int, int], why: str, *, others: Sequence[PairLink] = ()
) -> Finding:
    """Judge whether one worker reaches the rendezvous port and, where it listens, the membership port.

    Args:
        links: What the worker found, the rendezvous port first.
        target: The master.
        ports: Both ports.
        why: Said where there is no link.
        others: Links of other workers that failed: one fix lets all of them in.
    """
    if not links:
        return unknown(f"not tried: {why}")
    evidence = "\n".join(map(explain, links))
    broken = [link for link in links if not reached(link)]
    if not broken:
        return ok(f"{(links[0].round_trip or 0) * 1e3:.1f} ms", evidence)
    same = [link for link in others if link.error in {each.error for each in broken}]
    fix = path_fix([*broken, *same], target, "-".join(map(str, ports)))
    if target.seen_as:
        fix = replace(fix, text=f"make a host that is not behind NAT the master. Else: {fix.text}")
    return fail("; ".join(map(explain, broken)), evidence, fix)


async def _master_reachable(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    master = context.inventory.master.name
    at_master = report.hosts.get(master)
    findings: dict[str, Finding] = {}
    if at_master is None:
        why = report.missing.get(master, "it could not be asked")
        reason = skip(f"needs “{PROBE.title}” ({PROBE.id}), which did not run on {master}: {why}")
        return {host: skip("this host is the master") if host == master else reason for host in hosts}
    for need, broken in (
        (MASTER_PORT, at_master.master_bind is not None and bool(at_master.master_bind.error)),
        (INTERFACE, _failed(context, INTERFACE, master)),
    ):
        if broken:
            reason = skip(f"needs “{need.title}” ({need.id}), which failed on {master}")
            return dict.fromkeys(hosts, reason) | {master: skip("this host is the master")}

    links = {
        host: [link for link in (report.master_links.get(host), report.membership_links.get(host)) if link is not None]
        for host in hosts
    }
    broken_links = [link for each in links.values() for link in each if not reached(link)]
    target = await _target(context, master, broken_links)
    port = context.inventory.cluster.port
    for host in hosts:
        if host == master:
            findings[host] = skip("this host is the master")
            continue
        why = why_untried(report, host, master)
        findings[host] = master_link_finding(links[host], target, (port, port + 1), why, others=broken_links)
    return findings


def _failed(context: CheckContext, check: Check, host: str) -> bool:
    finding = context.findings.get((check.id, host))
    return finding is not None and finding.verdict is Verdict.FAIL


async def _target(context: CheckContext, host: str, broken: Sequence[PairLink]) -> Target:
    """Gather what the way into a host depends on; its firewall is asked for only where a connection failed."""
    address = await context.address(host)
    firewall: Firewall | None = None
    facts = context.known_facts[host]
    if any(link.error in BLOCKED for link in broken):
        firewall = await ask_firewall(context.runner(host), facts)
    return Target(
        facts=facts,
        address=address,
        sources={each: await context.address(each) for each in context.host_names if each in context.known_facts},
        firewall=firewall,
        seen_as=translated(context.report, host, address),
    )


def data_ports_finding(
    inventory: Inventory, target: Target, report: NetworkReport, sources: Sequence[str], *, both_ways: bool
) -> Finding:
    """Judge whether every other host that will dial this one reaches a listener on one of its data ports.

    Args:
        inventory: The inventory.
        target: The host that is dialled.
        report: What the probes found.
        sources: The other hosts that could be asked.
        both_ways: Every rank may dial every other (NCCL); with Gloo only the higher address does.
    """
    host = target.facts.host
    links = {source: report.matrix.link(source, host) for source in sources}
    tried = [link for link in links.values() if link is not None]
    evidence = "\n".join(explain(link) for link in tried)
    broken = [link for link in tried if not reached(link)]
    needed = [link for link in broken if both_ways or gloo_dials(target.sources.get(link.source, ""), target.address)]
    untried = [source for source, link in links.items() if link is None]
    if needed or (broken and not untried):
        first, last = target.facts.ephemeral_ports
        ports = inventory.network.port_range or f"{first}-{last}"
        fix = path_fix(broken, target, ports)
        if not inventory.network.port_range and fix.needs_root:
            fix = replace(
                fix,
                text=f"{fix.text} (every rank listens on one port of the ephemeral range; to open fewer, set port_range"
                ' = "29900-29950" under [network], and its check says how it is kept)',
            )
        reasons = "; ".join(explain(link) for link in broken)
        if needed:
            return fail(reasons, evidence, fix)
        if target.seen_as:
            dialling = ", ".join(link.source for link in tried if reached(link)) or "nobody"
            others = ", ".join(link.source for link in broken)
            return ok(f"behind NAT as {target.seen_as}: dialled by {dialling}, and itself dials {others}", evidence)
        return warn(f"{reasons}; not needed as addresses are now, for the higher one dials", evidence, fix)
    if untried:
        reasons = "; ".join(dict.fromkeys(why_untried(report, source, host) for source in untried))
        return unknown(f"not tried from {', '.join(untried)}: {reasons}", evidence)
    silent = f"; not tried from {', '.join(report.missing)}" if report.missing else ""
    return ok(f"reached by {', '.join(sources)}{silent}", evidence)


async def _data_ports(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    both_ways = await _uses_nccl(context)
    findings: dict[str, Finding] = {}
    for host in hosts:
        sources = [each for each in context.host_names if each != host and each in report.hosts]
        if not sources:
            findings[host] = unknown("no other host could be asked")
            continue
        links = [link for source in sources if (link := report.matrix.link(source, host)) is not None]
        target = await _target(context, host, [link for link in links if not reached(link)])
        findings[host] = data_ports_finding(context.inventory, target, report, sources, both_ways=both_ways)
    return findings


async def _uses_nccl(context: CheckContext) -> bool:
    """Whether every rank may dial every other one."""
    choice = context.inventory.cluster.backend
    if choice != "auto":
        return choice == "nccl"
    known = context.known_facts
    return all(wants_gpu(host, known[host.name]) for host in context.inventory.hosts if host.name in known)


def packets_finding(host: Facts, links: Sequence[PairLink]) -> Finding:
    """Judge whether full-size packets arrive: where they are lost, small messages pass and gradients hang."""
    evidence = "\n".join(explain(link) for link in links)
    stalled = [link for link in links if link.error in {LinkError.STALLED, LinkError.CLOSED}]
    if stalled:
        interface = host.interface or "INTERFACE"
        return fail(
            "; ".join(explain(link) for link in stalled),
            evidence,
            Fix(
                f"packets of {host.mtu or 'full'} bytes are lost on the way (VPN, PPPoE, jumbo frames): use a smaller "
                "MTU on the interface at both ends",
                (f"sudo ip link set dev {interface} mtu 1280",),
                host=host.host,
                needs_root=True,
                safe=True,
            ),
        )
    proven = {frozenset((link.source, link.target)) for link in links if link.error is None}
    if not proven:
        return unknown("no connection to send data over", evidence)
    least = min((link.moved_bytes for link in links if link.moved_bytes is not None), default=None)
    data = "a part of the data, for it is slow," if least is None else f"{_megabytes(least)} there and back"
    return ok(f"{data} with {len(proven)} hosts", evidence)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 10e6 else f"{count / 1e6:.1f} MB"


async def _packets(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    return {host: packets_finding(await context.facts(host), _with(report, host)) for host in hosts}


def _into(report: NetworkReport, host: str) -> list[PairLink]:
    return [link for (_, target), link in report.matrix.links.items() if target == host]


def _with(report: NetworkReport, host: str) -> list[PairLink]:
    """Links into and out of a host: over each of them data went both ways."""
    return [link for pair, link in report.matrix.links.items() if host in pair]


def seen_as_finding(host: str, address: str, links: Sequence[PairLink]) -> Finding:
    """Judge whether the others see this host under the address they are told to dial."""
    seen = {link.target: link.seen_as for link in links if link.seen_as}
    evidence = "; ".join(f"{target} sees {source}" for target, source in seen.items())
    if not seen:
        return skip("needs “Data ports” (data-ports): no other host has seen a connection from it")
    other = sorted({source for source in seen.values() if source != address})
    if not is_address(address) or not other:
        return ok(f"seen as {', '.join(sorted(set(seen.values())))}", evidence)
    return warn(
        f"the others see {', '.join(other)}, not {address}: something translates addresses in between, so only "
        "connections it makes itself are sure to work",
        evidence,
        Fix(
            "use direct addresses: bridge the virtual machine or the access point instead of NAT, or join the hosts by "
            "a VPN and name its addresses as train_address. As long as “Data ports” is ok, the run does without",
            host=host,
        ),
    )


async def _seen_as(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    findings: dict[str, Finding] = {}
    for host in hosts:
        links = [link for (source, _), link in report.matrix.links.items() if source == host]
        findings[host] = seen_as_finding(host, await context.address(host), links)
    return findings


def speed_finding(host: str, links: Sequence[PairLink]) -> Finding:
    """Judge the slowest rate into the host."""
    rates = {link.source: link.sent_bytes_per_second for link in links if link.sent_bytes_per_second}
    evidence = "; ".join(f"from {source}: {rate / 1e6:.1f} MB/s" for source, rate in rates.items())
    if not rates:
        return unknown("no rate was measured", evidence)
    source, slowest = min(rates.items(), key=lambda each: each[1])
    if slowest < SLOW_LINK:
        return warn(
            f"{slowest * 8 / 1e6:.0f} Mbit/s from {source}: most of a step may be spent waiting for gradients",
            evidence,
            Fix(
                "use a cable instead of Wi-Fi, or compress gradients: communication under [training]",
                host=host,
            ),
        )
    return ok(f"at least {slowest * 8 / 1e6:.0f} Mbit/s, one pair at a time", evidence)


async def _speed(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    return {host: _speed_of(report, host) for host in hosts}


def _speed_of(report: NetworkReport, host: str) -> Finding:
    into = _into(report, host)
    if any(link.sent_bytes_per_second for link in into):
        return speed_finding(host, into)
    # Nobody dials a host behind NAT, but what it received over its own connections came the same way.
    own = [link for (source, _), link in report.matrix.links.items() if source == host]
    turned = [replace(link, source=link.target, sent_bytes_per_second=link.received_bytes_per_second) for link in own]
    return speed_finding(host, turned)


PROBE = Check(
    id="probe",
    title="Network probe",
    codes=(),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Can a listener and a dialler run on every host at the same time, in the job's image where it is there, "
    "else with the host's python3? The checks below read what they found.",
    remedy="Bring the image to the host, or install python3 there.",
    probe=_probe,
    needs=("system",),
    after=("image", "python", "image-python", "stale-runs", "wireguard"),
    is_source=True,
    deadline=PROBE_DEADLINE,
)
MASTER_PORT = Check(
    id="master-port",
    title="Master port free",
    codes=("PF-41",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Can the master listen on the rendezvous port? It does, where rank 0 will run.",
    remedy="End the program that holds it, or choose another `port`.",
    probe=each_host(_master_port),
    needs=("probe",),
)
MASTER_REACHABLE = Check(
    id="master-reachable",
    title="Master port reachable",
    codes=("PF-31", "PF-32", "PF-40"),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Does each worker reach a real listener on the master's port, and on the next one, where ranks join and "
    "leave? Refused within milliseconds means REJECT, silence means DROP. Ping is never asked: it proves nothing about "
    "TCP.",
    remedy="Open both ports in the master's firewall for the workers' addresses; the command is for the firewall that "
    "was found there (ufw, firewalld, nftables, iptables).",
    probe=between_hosts(_master_reachable),
    needs=("probe",),
    after=("interface", "master-port"),
)
DATA_PORTS = Check(
    id="data-ports",
    title="Data ports",
    codes=("PF-33", "PF-34", "PF-43"),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Does every other host reach a real listener on a port of this host's ephemeral range (or of "
    "`port_range`)? Every ordered pair is tried, all at once. Of two ranks Gloo lets the one with the higher address "
    "dial, so a direction it does not use only warns; with NCCL both count.",
    remedy="Open the range in the firewall of the host that is dialled; the command is for the one that was found "
    "there. One host behind NAT needs no inbound port if its address is the highest; several need published ports or "
    "a VPN.",
    probe=between_hosts(_data_ports),
    needs=("probe", "interface"),
)
PACKETS = Check(
    id="full-packets",
    title="Full-size packets",
    codes=("PF-45",),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Do 10 MB arrive in both directions on every pair, or on a slow one as much as passes in about a second? "
    "A path that swallows big packets lets the process group form and hangs on the first gradient.",
    remedy="Lower the MTU at both ends.",
    probe=between_hosts(_packets),
    needs=("probe", "data-ports"),
)
SEEN_AS = Check(
    id="addresses-seen",
    title="No translation in between",
    codes=("PF-44",),
    severity=Severity.WARNS,
    scope="pair",
    question="Do the others see this host under the address they are told to dial?",
    remedy="Bridge instead of NAT, or a VPN with direct addresses.",
    probe=between_hosts(_seen_as),
    needs=("probe", "data-ports"),
)
SPEED = Check(
    id="link-speed",
    title="Link speed",
    codes=("PF-46", "PF-47"),
    severity=Severity.WARNS,
    scope="pair",
    question=f"Is every rate into this host above {SLOW_LINK * 8 / 1e6:.0f} Mbit/s? Measured by pairs that have no "
    "host in common, so that none slows down another.",
    remedy="A cable; gradient compression; fewer hosts.",
    probe=between_hosts(_speed),
    needs=("probe", "full-packets"),
)
CHECKS = (MASTER_PORT, MASTER_REACHABLE, DATA_PORTS, PACKETS, SEEN_AS, SPEED)

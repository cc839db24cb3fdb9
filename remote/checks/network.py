"""The network between the ranks, tried from where they will run: ports, routes, names, and real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from remote.checks import systems
from remote.checks.addresses import is_address
from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, skip, unknown, warn
from remote.checks.network_report import LinkError, NetworkReport, PairLink, PortBind
from remote.facts import Facts
from remote.inventory import Inventory

SLOW_LINK = 12.5e6
"""Bytes a second: 100 Mbit/s. simple_cnn moves 9.9 MB a step."""
PROBE_DEADLINE = 90.0
"""Seconds: the start of a container, the dialling window, the last transfer."""


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


def master_link_finding(
    link: PairLink | None, master: Facts, source_address: str, port: int, why_untried: str
) -> Finding:
    """Judge whether one worker reaches the rendezvous port."""
    if link is None:
        return unknown(f"not tried: {why_untried}")
    if reached(link):
        return ok(f"{(link.round_trip or 0) * 1e3:.1f} ms", explain(link))
    return fail(explain(link), explain(link), _path_fix((link,), master, {link.source: source_address}, str(port)))


def _path_fix(links: Sequence[PairLink], target: Facts, addresses: Mapping[str, str], ports: str) -> Fix:
    """Mend the way into ``target``; ``addresses`` are those of the hosts that dialled."""
    errors = {link.error for link in links}
    if errors == {LinkError.NAME}:
        return Fix("name an IP address instead of a host name as train_address or master_address in cluster.toml")
    if LinkError.STRANGER in errors:
        return Fix(
            f"{links[0].address} leads to another machine or program: give {target.host} its own address as "
            "train_address, and see whether something forwards the port"
        )
    fix = systems.open_ports(target, ports, tuple(addresses[link.source] for link in links))
    if errors == {LinkError.UNREACHABLE}:
        text = (
            f"{fix.text}. If {links[0].address} answers nothing at all, the hosts are on different networks: guest "
            "Wi-Fi, client isolation or another VLAN; put them on one, or join them by a VPN"
        )
        return replace(fix, text=text)
    return fix


async def _master_reachable(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    master = context.inventory.master.name
    if len(context.host_names) == 1:
        return {host: skip("one host only") for host in hosts}
    findings: dict[str, Finding] = {}
    for host in hosts:
        if host == master:
            findings[host] = skip("this host is the master")
            continue
        at_master = report.hosts.get(master)
        if at_master is None:
            findings[host] = unknown(f"not tried: {report.missing.get(master, f'{master} could not be asked')}")
            continue
        if at_master.master_bind is not None and at_master.master_bind.error:
            findings[host] = skip(f"needs “Master port free” (master-port), which failed on {master}")
            continue
        facts = context.known_facts[master]
        why = why_untried(report, host, master)
        address = await context.address(host)
        link = report.master_links.get(host)
        findings[host] = master_link_finding(link, facts, address, context.inventory.cluster.port, why)
    return findings


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


def data_ports_finding(
    inventory: Inventory,
    target: Facts,
    report: NetworkReport,
    sources: Sequence[str],
    addresses: Mapping[str, str],
) -> Finding:
    """Judge whether every other host reaches a listener on one of this host's data ports."""
    links = {source: report.matrix.link(source, target.host) for source in sources}
    tried = [link for link in links.values() if link is not None]
    evidence = "\n".join(explain(link) for link in tried)
    broken = [link for link in tried if not reached(link)]
    if broken:
        first, last = target.ephemeral_ports
        ports = inventory.network.port_range or f"{first}-{last}"
        fix = _path_fix(broken, target, addresses, ports)
        if not inventory.network.port_range and fix.needs_root:
            fix = replace(
                fix,
                text=f"{fix.text} (every rank listens on one port of the ephemeral range; to open fewer, set "
                'port_range = "29900-29950" under [network] and narrow net.ipv4.ip_local_port_range to it everywhere)',
            )
        return fail("; ".join(explain(link) for link in broken), evidence, fix)
    untried = [source for source, link in links.items() if link is None]
    if untried:
        reasons = dict.fromkeys(why_untried(report, source, target.host) for source in untried)
        return unknown(f"not tried from {', '.join(untried)}: {'; '.join(reasons)}", evidence)
    silent = f"; not tried from {', '.join(report.missing)}" if report.missing else ""
    return ok(f"reached by {', '.join(sources)}{silent}", evidence)


async def _data_ports(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    if len(context.host_names) == 1:
        return {host: skip("one host only") for host in hosts}
    findings: dict[str, Finding] = {}
    for host in hosts:
        sources = [each for each in context.host_names if each != host and each in report.hosts]
        addresses = {each: await context.address(each) for each in sources}
        if not sources:
            findings[host] = unknown("no other host could be asked")
            continue
        findings[host] = data_ports_finding(context.inventory, await context.facts(host), report, sources, addresses)
    return findings


def packets_finding(host: Facts, links: Sequence[PairLink], payload: int) -> Finding:
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
    proven = [link for link in links if link.error is None]
    if not proven:
        return unknown("no connection to send data over", evidence)
    return ok(f"{payload / 1e6:.0f} MB there and back with {len(proven)} hosts", evidence)


async def _packets(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    return {
        host: packets_finding(await context.facts(host), _into(report, host), context.timings.payload)
        if len(context.host_names) > 1
        else skip("one host only")
        for host in hosts
    }


def _into(report: NetworkReport, host: str) -> list[PairLink]:
    return [link for (_, target), link in report.matrix.links.items() if target == host]


def seen_as_finding(host: str, address: str, links: Sequence[PairLink]) -> Finding:
    """Judge whether the others see this host under the address they are told to dial."""
    seen = {link.target: link.seen_as for link in links if link.seen_as}
    evidence = "; ".join(f"{target} sees {source}" for target, source in seen.items())
    if not seen:
        return unknown("no other host has seen a connection from it", evidence)
    other = sorted({source for source in seen.values() if source != address})
    if not is_address(address) or not other:
        return ok(f"seen as {', '.join(sorted(set(seen.values())))}", evidence)
    return warn(
        f"the others see {', '.join(other)}, not {address}: something translates addresses in between",
        evidence,
        Fix(
            "use direct addresses: bridge the virtual machine or the access point instead of NAT, or join the hosts by "
            "a VPN and name its addresses as train_address",
            host=host,
        ),
    )


async def _seen_as(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    findings: dict[str, Finding] = {}
    for host in hosts:
        links = [link for (source, _), link in report.matrix.links.items() if source == host]
        alone = len(context.host_names) == 1
        findings[host] = skip("one host only") if alone else seen_as_finding(host, await context.address(host), links)
    return findings


def speed_finding(host: str, links: Sequence[PairLink]) -> Finding:
    """Judge the slowest rate into the host while all pairs talk at once."""
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
    return ok(f"at least {slowest * 8 / 1e6:.0f} Mbit/s, all pairs at once", evidence)


async def _speed(context: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    report = context.report
    alone = len(context.host_names) == 1
    return {host: skip("one host only") if alone else speed_finding(host, _into(report, host)) for host in hosts}


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
    after=("image", "python", "image-python", "stale-runs"),
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
    question="Does each worker reach a real listener on the master's port? Refused within milliseconds means REJECT, "
    "silence means DROP. Ping is never asked: it proves nothing about TCP.",
    remedy="Open the port in the master's firewall for the workers' addresses.",
    probe=_master_reachable,
    needs=("probe",),
)
DATA_PORTS = Check(
    id="data-ports",
    title="Data ports",
    codes=("PF-33", "PF-34", "PF-43"),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Does every other host reach a real listener on a port of this host's ephemeral range (or of "
    "`port_range`)? Every ordered pair is tried, all at once.",
    remedy="Open the range in the firewall of the host that is dialled.",
    probe=_data_ports,
    needs=("probe",),
)
PACKETS = Check(
    id="full-packets",
    title="Full-size packets",
    codes=("PF-45",),
    severity=Severity.BLOCKS,
    scope="pair",
    question="Do 1 MB arrive in both directions on every pair? A path that swallows big packets lets the process group "
    "form and hangs on the first gradient.",
    remedy="Lower the MTU at both ends.",
    probe=_packets,
    needs=("data-ports",),
)
SEEN_AS = Check(
    id="addresses-seen",
    title="No translation in between",
    codes=("PF-44",),
    severity=Severity.WARNS,
    scope="pair",
    question="Do the others see this host under the address they are told to dial?",
    remedy="Bridge instead of NAT, or a VPN with direct addresses.",
    probe=_seen_as,
    needs=("data-ports",),
)
SPEED = Check(
    id="link-speed",
    title="Link speed",
    codes=("PF-46", "PF-47"),
    severity=Severity.WARNS,
    scope="pair",
    question=f"Is every rate into this host above {SLOW_LINK * 8 / 1e6:.0f} Mbit/s while all pairs talk at once?",
    remedy="A cable; gradient compression; fewer hosts.",
    probe=_speed,
    needs=("data-ports",),
)
CHECKS = (MASTER_PORT, MASTER_REACHABLE, DATA_PORTS, PACKETS, SEEN_AS, SPEED)

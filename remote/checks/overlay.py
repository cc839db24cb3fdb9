"""The encrypted overlay: can every host take part, and do all of them meet in it?"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from dataclasses import replace

from remote import plan_network
from remote.checks.context import CheckContext, told
from remote.checks.model import (
    Check,
    Finding,
    Fix,
    Severity,
    Verdict,
    each_host,
    fail,
    ok,
    skip,
    unknown,
    warn,
    whole_cluster,
)
from remote.checks.network import PROBE_DEADLINE
from remote.checks.network_firewall import ask_firewall, open_ports
from remote.checks.network_probe import probe_network
from remote.checks.network_report import NetworkReport, PairMatrix
from remote.checks.systems import install
from remote.errors import OverlayError, PlanError, RemoteError
from remote.facts import Facts
from remote.overlay import Overlay, is_encrypted, plan_overlay, why_not
from remote.overlay_host import Available, NoHandshake, Raised, look, trial
from remote.runtime import State

NOT_ASKED = 'network.encryption is "none"'


def wireguard_finding(facts: Facts, found: Available, port: int) -> Finding:
    """Judge whether an overlay can be set up on a host.

    Args:
        facts: what the host said.
        found: what it has of what WireGuard needs.
        port: UDP port of the overlay.
    """
    what = {
        "wg": found.tools,
        "ip": found.ip,
        "kernel module": found.kernel,
        "wireguard-go": found.userspace,
        "/dev/net/tun": found.tun,
    }
    evidence = "; ".join(f"{name}: {'there' if there else 'not there'}" for name, there in what.items())
    if found.port_taken:
        fix = Fix(
            f"end the program that holds UDP {port}, or set another port under [cluster] in cluster.toml",
            (f"sudo ss -Hlunp 'sport = :{port}'",),
            host=facts.host,
            needs_root=True,
        )
        return fail(f"UDP port {port} is in use by another program", evidence, fix)
    if found.usable:
        return ok("the kernel's WireGuard" if found.kernel else "wireguard-go, for the kernel has none", evidence)
    if found.tools and found.ip and found.userspace:
        fix = Fix("load the kernel's tun module", ("sudo modprobe tun",), host=facts.host, needs_root=True, safe=True)
        return fail("neither the kernel's WireGuard nor /dev/net/tun, which wireguard-go needs", evidence, fix)
    lacking = [name for name in ("wg", "ip") if not what[name]]
    if not found.kernel and not found.userspace:
        lacking.append("WireGuard in the kernel or wireguard-go")
    daemon = "" if found.kernel else " wireguard-go"
    fix = install(
        facts,
        {
            "debian": f"wireguard-tools iproute2{daemon}",
            "fedora": "wireguard-tools iproute",
            "suse": "wireguard-tools iproute2",
            "arch": f"wireguard-tools iproute2{daemon}",
            "alpine": f"wireguard-tools iproute2{daemon}",
        },
        "install wireguard-tools, and wireguard-go where the kernel is older than 5.6 or was built without WireGuard",
    )
    return fail(f"missing: {', '.join(lacking)}", evidence, fix)


def refused_finding(facts: Facts, why: str) -> Finding:
    """Say why this program cannot set an overlay up on a host, and the ways out."""
    evidence = f"{facts.system} {facts.distribution}; user {facts.user}; sudo: {facts.sudo or 'unknown'}"
    if facts.system != "Linux":
        text = 'leave the host out, or use a VPN of your own with network.interface and network.encryption = "none"'
        return fail(why, evidence, Fix(text, host=facts.host))
    if facts.sudo in ("root", "nopass"):
        text = 'install the Docker Engine as root there, or set runtime = "process" for this host'
        return fail(why, evidence, Fix(text, host=facts.host))
    rule = f"{facts.user or 'ACCOUNT'} ALL=(ALL) NOPASSWD: ALL"
    return fail(
        why,
        evidence,
        Fix(
            "log in as root (user of the host), or let the account use sudo without a password: the overlay is also "
            "taken down when nobody is there to type one",
            (f"echo {shlex.quote(rule)} | sudo tee /etc/sudoers.d/hetero-tui",),
            host=facts.host,
            needs_root=True,
        ),
    )


async def _wireguard(context: CheckContext, name: str) -> Finding:
    if not is_encrypted(context.inventory):
        return skip(NOT_ASKED)
    facts = await context.facts(name)
    if why := why_not(context.host(name), facts):
        return refused_finding(facts, why)
    port = context.inventory.cluster.port
    return wireguard_finding(facts, await look(context.runner(name), port), port)


async def probe_in_trial(context: CheckContext, hosts: tuple[str, ...]) -> NetworkReport:
    """Probe the network inside an overlay that is set up for it and taken down behind it."""
    context.overlay_outcome = None
    await asyncio.gather(*(context.facts(host) for host in hosts), return_exceptions=True)
    missing = {host: why for host in context.host_names if (why := _obstacle(context, host))}
    usable = tuple(host for host in hosts if host not in missing)
    try:
        overlay = _trial_overlay(context, usable)
        runners = {host: context.runner(host) for host in usable}
        living = dict(zip(usable, await asyncio.gather(*(_living(context, host) for host in usable)), strict=True))
        async with trial(overlay, runners, living) as raised:
            context.overlay, context.overlay_outcome = overlay, raised
            report = await probe_network(context, usable)
            return replace(report, missing={**report.missing, **missing})
    except (OverlayError, PlanError) as error:
        context.overlay_outcome = error
        missing |= dict.fromkeys(usable, f"the overlay could not be set up: {error.message}")
    return NetworkReport({}, missing, PairMatrix(hosts, {}), {}, context.inventory.cluster.port)


def _obstacle(context: CheckContext, host: str) -> str:
    if host not in context.known_facts:
        return "it could not be asked"
    finding = context.findings.get((WIREGUARD.id, host))
    return finding.reason if finding is not None and finding.verdict is Verdict.FAIL else ""


def _trial_overlay(context: CheckContext, usable: tuple[str, ...]) -> Overlay:
    inventory = context.inventory
    master = inventory.master.name
    if master not in usable or len(usable) < 2:
        raise PlanError(f"it needs {master}, the master, and one more host")
    some = inventory.model_copy(update={"hosts": tuple(host for host in inventory.hosts if host.name in usable)})
    facts = {name: context.known_facts[name] for name in usable}
    address = plan_network.master_address(some, facts).address
    return plan_overlay(some, facts, f"check-{secrets.token_hex(4)}", address)


async def _living(context: CheckContext, host: str) -> tuple[str, ...]:
    try:
        return tuple(run.run_id for run in await context.runs(host) if run.state is not State.EXITED)
    except RemoteError:
        return ()  # the checks of its engine tell it; without an engine nothing of ours lives there


def overlay_finding(outcome: Raised | RemoteError | None, way_in: Fix | None) -> Finding:
    """Judge how the hosts met in the trial.

    Args:
        outcome: what became of the trial; None when there was none.
        way_in: lets the others in on the host that all must reach, where they did not reach it.
    """
    if outcome is None:
        return unknown("no overlay was tried")
    if isinstance(outcome, NoHandshake) and way_in is not None:
        return fail(outcome.message, str(outcome), way_in)
    if isinstance(outcome, OverlayError):
        text = 'mend what the host says there, or set network.encryption = "none" on a network you trust'
        return fail(told(outcome), str(outcome), Fix(text, host=outcome.host))
    if isinstance(outcome, RemoteError):
        return fail(told(outcome), str(outcome), Fix(outcome.next_step, host=outcome.host))
    overlay = outcome.overlay
    kinds = ", ".join(f"{name}: {kind}" for name, kind in outcome.kinds.items())
    evidence = f"{overlay.network} on {overlay.interface}, MTU {overlay.mtu}, UDP {overlay.port}; {kinds}"
    if not outcome.relayed:
        return ok(f"every host has met every other over UDP {overlay.port}", evidence)
    pairs = ", ".join(f"{one} and {other}" for one, other in sorted(outcome.relayed))
    return warn(
        f"{pairs} meet over {overlay.hub} only, which passes their gradients on",
        evidence,
        Fix(f"let UDP {overlay.port} in on one host of each pair, and in its router; it works without, but slower"),
    )


async def _overlay(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    if not is_encrypted(context.inventory):
        return skip(NOT_ASKED)
    if context.overlay_outcome is None:  # this check alone was asked for
        await context.probe_network(hosts)
    outcome = context.overlay_outcome
    return overlay_finding(outcome, await _way_in(context) if isinstance(outcome, NoHandshake) else None)


async def _way_in(context: CheckContext) -> Fix:
    master = context.inventory.master.name
    facts = await context.facts(master)
    firewall = await ask_firewall(context.runner(master), facts)
    # A router may give the others any address, and WireGuard answers nobody whose key it does not know.
    return open_ports(facts, firewall, str(context.inventory.cluster.port), (), protocol="udp")


WIREGUARD = Check(
    id="wireguard",
    title="WireGuard available",
    codes=(),
    severity=Severity.BLOCKS,
    scope="host",
    question='With `network.encryption = "wireguard"`: is it Linux, is the login root or may it use sudo without a '
    "password, and are `wg` and the kernel's WireGuard, or wireguard-go with /dev/net/tun, there?",
    remedy="Install wireguard-tools, and wireguard-go where the kernel has no WireGuard.",
    probe=each_host(_wireguard),
    needs=("system",),
)
OVERLAY = Check(
    id="overlay",
    title="Encrypted overlay",
    codes=(),
    severity=Severity.BLOCKS,
    scope="cluster",
    question='With `network.encryption = "wireguard"`: does every host prove its key to every other over UDP `port`? '
    "An overlay is set up for the network probe, whose connections then run inside it, and is taken down behind it.",
    remedy="Let UDP `port` in on the master; hosts that cannot reach each other meet over the master.",
    probe=whole_cluster(_overlay),
    needs=("wireguard",),
    after=("probe",),
    deadline=PROBE_DEADLINE,
)
CHECKS = (WIREGUARD, OVERLAY)

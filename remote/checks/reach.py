"""Reaching the hosts: SSH, the shell behind it, the system, and whether each host is a machine of its own."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Mapping

from remote.checks.context import CheckContext
from remote.checks.model import (
    Check,
    Finding,
    Fix,
    Severity,
    each_host,
    fail,
    ok,
    skip,
    unknown,
    warn,
    whole_cluster,
)
from remote.checks.platforms import platform_finding, shell_finding
from remote.checks.shared import destination
from remote.errors import CommandFailed, ConnectError, HostKeyChanged, HostKeyUnknown, HostUnreachable, LoginRefused
from remote.facts import Facts
from remote.inventory import Host

CLOCK_LIMIT = 1.0
"""Seconds; certificates and merged logs bear less than this."""
ARCHITECTURES = ("x86_64", "amd64", "aarch64", "arm64")


def connection_finding(host: Host, error: ConnectError) -> Finding:
    """Say why there is no connection, and what mends it."""
    where = destination(host)
    port = f" -p {host.port}" if host.port else ""
    match error:
        case HostKeyUnknown():
            return fail(
                f"first contact: {error.key_type} key {error.fingerprint} is not known yet",
                str(error),
                Fix(
                    "compare the fingerprint with the one the host shows at its own screen, then accept the key",
                    ("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",),
                    host=host.name,
                ),
            )
        case HostKeyChanged():
            return fail(
                "the host key has changed: another machine answers, or the host was installed anew",
                str(error),
                Fix(
                    error.next_step
                    or "find out why before anything else; if the host was installed anew, remove the "
                    "old key on this machine and connect again",
                    tuple(re.findall(r"ssh-keygen -R .+$", error.next_step)),
                ),
            )
        case LoginRefused():
            return fail(
                f"login refused: {error.message}",
                str(error),
                Fix("put your public key on the host, from this machine", (f"ssh-copy-id{port} {where}",)),
            )
        case HostUnreachable():
            return fail(
                f"not reachable: {error.message}",
                str(error),
                Fix(
                    error.next_step or "switch the host on, check address and port, and that its SSH server runs",
                    (f"ssh -v{port} {where} true",),
                ),
            )
        case _:
            return fail(error.message, str(error), Fix(error.next_step) if error.next_step else None)


async def _ssh(context: CheckContext, name: str) -> Finding:
    try:
        context.runner(name)
    except ConnectError as error:
        return connection_finding(context.host(name), error)
    return ok("connected")


async def _shell(context: CheckContext, name: str) -> Finding:
    """Read the facts: what their script ran in is the answer, so that one round trip serves this and all others."""
    try:
        facts = await context.facts(name)
    except CommandFailed as error:
        give = f"sudo chsh -s /bin/sh {shlex.quote(context.host(name).user or 'USER')}"
        text = f"{error.next_step}; give the account a login shell that runs commands, from another account"
        reason = f"connected, but the account does not run commands: {error.message}"
        return fail(reason, str(error), Fix(text, (give,), host=name, needs_root=True))
    return shell_finding(context.host(name), facts)


def system_finding(host: Host, facts: Facts) -> Finding:
    """Judge system, architecture and runtime together."""
    what = " ".join(part for part in (facts.distribution or facts.system, facts.architecture) if part)
    evidence = f"uname: {facts.system} {facts.kernel} {facts.architecture}; {facts.distribution}"
    if not facts.system or not facts.architecture:
        return unknown("the host did not say what system it runs", evidence)
    if facts.system not in {"Linux", "Darwin", "Windows"}:
        return fail(
            f"{facts.system} is not supported",
            evidence,
            Fix('use Linux, macOS with runtime = "process", or WSL 2 on Windows', host=host.name),
        )
    if facts.architecture not in ARCHITECTURES:
        return fail(
            f"no torch wheels for {facts.architecture}",
            evidence,
            Fix("use a 64-bit Intel, AMD or ARM system (on a Raspberry Pi: the 64-bit image)", host=host.name),
        )
    return platform_finding(host, facts, what, evidence) or ok(what, evidence)


async def _system(context: CheckContext, name: str) -> Finding:
    return system_finding(context.host(name), await context.facts(name))


def duplicates_finding(facts: Mapping[str, Facts], *, loopback: bool) -> Finding:
    """Find inventory lines that lead to one machine, unless all hosts are meant to (``loopback``)."""
    by_machine: dict[str, list[str]] = {}
    for name, fact in facts.items():
        if fact.machine_id:
            by_machine.setdefault(fact.machine_id, []).append(name)
    nameless = [name for name, fact in facts.items() if not fact.machine_id]
    doubles = [names for names in by_machine.values() if len(names) > 1]
    evidence = "; ".join(f"{name}: machine id {fact.machine_id or 'none'}" for name, fact in facts.items())
    if doubles and loopback:
        return ok("several hosts on one machine, as meant for the demo", evidence)
    if doubles:
        pairs = "; ".join(" = ".join(names) for names in doubles)
        return fail(
            f"the same machine under several names: {pairs}",
            evidence,
            Fix(
                "remove all but one of them from cluster.toml (one host entry uses all its GPUs); if the machines were "
                "cloned from one disk, give each its own id",
                ("sudo rm -f /etc/machine-id && sudo systemd-machine-id-setup",),
                host=doubles[0][-1],
                needs_root=True,
            ),
        )
    if len(nameless) > 1:
        return unknown(f"no machine id on {', '.join(nameless)}, so they cannot be told apart", evidence)
    return ok("every host is a machine of its own" if len(facts) > 1 else "one host", evidence)


async def _duplicates(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    gathered = await asyncio.gather(*(context.facts(name) for name in hosts))
    return duplicates_finding(dict(zip(hosts, gathered, strict=True)), loopback=context.is_loopback)


def clock_finding(facts: Facts) -> Finding:
    """Judge the offset of the host's clock from this machine's."""
    offset = facts.clock_offset
    evidence = f"offset {offset:+.3f} s, corrected by half of a round trip of {facts.round_trip * 1e3:.1f} ms"
    if abs(offset) - facts.round_trip <= CLOCK_LIMIT:
        return ok(f"{offset:+.2f} s", evidence)
    direction = "ahead of" if offset > 0 else "behind"
    commands = ("sudo sntp -sS time.apple.com",) if facts.system == "Darwin" else ("sudo timedatectl set-ntp true",)
    return warn(
        f"the clock is {abs(offset):.1f} s {direction} this machine's; log times are corrected, certificates are not",
        evidence,
        Fix("let the host set its clock from the network", commands, host=facts.host, needs_root=True, safe=True),
    )


async def _clock(context: CheckContext, name: str) -> Finding:
    return clock_finding(await context.facts(name))


def power_finding(host: str, reply: str) -> Finding:
    """Read ``POWER_QUESTION``'s answer."""
    said = dict(line.split("=", 1) for line in reply.splitlines() if "=" in line)
    if "mains" not in said and "lid" not in said:
        return unknown("the host did not say how it is powered", reply)
    fix = Fix(
        "keep the host awake while it trains",
        (
            "caffeinate -ims &"
            if said.get("system") == "Darwin"
            else "sudo systemd-inhibit --what=sleep:idle:handle-lid-switch --why=training sleep infinity &",
        ),
        host=host,
        needs_root=said.get("system") != "Darwin",
    )
    if said.get("mains") == "0":
        return warn("on battery: it will slow down, and may sleep in the middle of training", reply, fix)
    if said.get("lid") == "closed":
        return warn("its lid is closed: it may sleep in the middle of training", reply, fix)
    return ok("on mains" if said.get("mains") == "1" else "no battery", reply)


POWER_QUESTION = """
system=$(uname -s); echo "system=$system"
if [ "$system" = Darwin ]; then
  case $(pmset -g batt 2>/dev/null) in
    *"Battery Power"*) echo mains=0 ;; *"AC Power"*) echo mains=1 ;; *) echo mains=none ;;
  esac
else
  battery=none; mains=none
  for supply in /sys/class/power_supply/*; do
    [ -r "$supply/type" ] || continue
    read -r kind < "$supply/type"
    [ "$kind" = Battery ] && battery=yes
    [ "$kind" = Mains ] && [ -r "$supply/online" ] && read -r mains < "$supply/online"
  done
  [ "$battery" = none ] && mains=none
  echo "mains=$mains"
  for state in /proc/acpi/button/lid/*/state; do
    [ -r "$state" ] || continue
    case $(cat "$state") in *closed*) echo lid=closed ;; *open*) echo lid=open ;; esac
  done
fi
"""


async def _power(context: CheckContext, name: str) -> Finding:
    if context.host(name).is_local:
        return skip("this is the machine in front of you")
    completed = await context.runner(name).run("exec /bin/sh -s", input=POWER_QUESTION.encode(), timeout=10.0)
    return power_finding(name, completed.stdout)


SSH = Check(
    id="ssh",
    title="SSH login",
    codes=("PF-01",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is there an authenticated connection with a known host key?",
    remedy="`ssh-copy-id` for a refused login; compare and accept the fingerprint at first contact; find out why a key "
    "changed. Host keys are never accepted unseen.",
    probe=each_host(_ssh),
)
SHELL = Check(
    id="shell",
    title="Login shell",
    codes=("PF-03",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the account run commands, and in which shell? The facts script is handed to /bin/sh whatever the "
    "login shell is; where there is none, to PowerShell.",
    remedy="On Windows, log in to WSL 2: run its own SSH server or make `wsl.exe` the default shell. Elsewhere, give "
    "the account a login shell that runs commands.",
    probe=each_host(_shell),
    needs=("ssh",),
    deadline=100.0,
)
SYSTEM = Check(
    id="system",
    title="System and architecture",
    codes=("PF-48", "PF-49"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is it 64-bit Linux or macOS, and may the others reach it? WSL 2 in NAT mode, containers on macOS and on "
    "Windows are behind address translation. Read with all other facts in one round trip.",
    remedy='Use Linux, macOS with `runtime = "process"`, or WSL 2 with `networkingMode=mirrored`.',
    probe=each_host(_system),
    needs=("shell",),
    deadline=30.0,
)
DUPLICATES = Check(
    id="duplicates",
    title="One line, one machine",
    codes=("PF-05",),
    severity=Severity.BLOCKS,
    scope="cluster",
    question="Do two hosts of the inventory lead to the same machine? Compared by machine id; hosts that are all on "
    "loopback addresses are meant to be one machine.",
    remedy="Remove the second entry; give cloned disks a machine id of their own.",
    probe=whole_cluster(_duplicates),
    needs=("system",),
)
CLOCK = Check(
    id="clock",
    title="Clock",
    codes=("PF-06",),
    severity=Severity.WARNS,
    scope="host",
    question=f"Is the clock within {CLOCK_LIMIT:g} s of this machine's, corrected by half the round trip?",
    remedy="Switch on network time: `sudo timedatectl set-ntp true`.",
    probe=each_host(_clock),
    needs=("system",),
)
POWER = Check(
    id="power",
    title="Mains and lid",
    codes=("PF-07",),
    severity=Severity.WARNS,
    scope="host",
    question="Does the host run on battery, or with its lid closed, so that it may sleep? Read from "
    "/sys/class/power_supply, /proc/acpi/button and `pmset`.",
    remedy="Plug it in; hold sleep off with `systemd-inhibit` or `caffeinate`.",
    probe=each_host(_power),
    needs=("system",),
)
CHECKS = (SSH, SHELL, SYSTEM, DUPLICATES, CLOCK, POWER)

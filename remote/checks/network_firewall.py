"""Which firewall closes a port on the host that is dialled, and the command that opens it there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from remote.checks import systems
from remote.checks.model import Fix
from remote.checks.systems import Protocol
from remote.facts import Facts
from remote.runner import Runner

FIREWALL_QUESTION = r"""
PATH="$PATH:/usr/sbin:/sbin"
has() { command -v "$1" >/dev/null 2>&1; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
grep -qi '^ENABLED=yes' /etc/ufw/ufw.conf 2>/dev/null && echo 'on ufw'
has firewall-cmd && [ "$(firewall-cmd --state 2>&1)" = running ] && echo 'on firewalld'
for tool in nft iptables; do has $tool && echo "has $tool"; done
read=no
if has nft && rules=$(root nft list ruleset 2>/dev/null); then read=yes; printf '%s\n' "$rules"; fi
if has iptables && rules=$(root iptables -S INPUT 2>/dev/null); then read=yes; printf '%s\n' "$rules"; fi
[ $read = yes ] || { echo 'closed'; cat /etc/nftables.conf 2>/dev/null; }
echo end
"""
"""Reads only. Rules are seen by root, or where sudo asks for no password; else what is written for the next boot."""


@dataclass(frozen=True, slots=True)
class Firewall:
    """What filters packets on their way into a host."""

    names: tuple[str, ...] = ()
    """``ufw``, ``firewalld``, ``iptables``; the one that a person works with comes first."""
    chains: tuple[str, ...] = ()
    """nftables' own chains that drop or reject, as ``inet filter input``."""
    seen: bool = False
    """Whether the rules in force could be read."""
    tools: tuple[str, ...] = ()
    evidence: str = ""


_TABLE = re.compile(r"^table (\w+) ([\w.-]+) \{")
_CHAIN = re.compile(r"^\s+chain ([\w.-]+) \{")
_CLOSES = re.compile(r"\b(policy drop|drop|reject)\b")
_IPTABLES_CLOSES = re.compile(r"^-P INPUT DROP|^-A INPUT .*-j (DROP|REJECT)\b")
# What these two write is in tables of their own, whose chains nobody edits by hand.
_KEPT_BY_OTHERS = {("ip", "filter", "INPUT"), ("ip6", "filter", "INPUT")}


def read_firewall(reply: str) -> Firewall:
    """Read ``FIREWALL_QUESTION``'s answer; what does not look like one says nothing."""
    lines = reply.splitlines()
    managers = tuple(line.split()[1] for line in lines if line in {"on ufw", "on firewalld"})
    tools = tuple(line.split()[1] for line in lines if line in {"has nft", "has iptables"})
    closes_by_iptables = any(_IPTABLES_CLOSES.match(line) for line in lines)
    names = managers or (("iptables",) if closes_by_iptables else ())
    chains = () if managers else _closing_chains(lines)
    return Firewall(names, chains, "end" in lines and "closed" not in lines, tools, "\n".join(lines)[:4000])


async def ask_firewall(runner: Runner, facts: Facts) -> Firewall | None:
    """Ask a host what filters packets on their way in; None where this program does not know how.

    Raises:
        RemoteError: it could not be asked.
        TimeoutError: it did not answer in time.
    """
    if facts.system != "Linux":
        return None
    completed = await runner.run("exec /bin/sh -s", input=FIREWALL_QUESTION.encode(), timeout=15.0)
    return read_firewall(completed.stdout)


def _closing_chains(lines: Sequence[str]) -> tuple[str, ...]:
    """Find the base chains for incoming packets that hold anything that drops or rejects."""
    table: tuple[str, str] = ("", "")
    chain, is_input = "", False
    found: list[str] = []
    for line in lines:
        if start := _TABLE.match(line):
            table = (start[1], start[2])
        elif start := _CHAIN.match(line):
            chain, is_input = start[1], False
        is_input = is_input or ("type filter" in line and "hook input" in line)
        name = f"{table[0]} {table[1]} {chain}"
        if is_input and _CLOSES.search(line) and (*table, chain) not in _KEPT_BY_OTHERS and name not in found:
            found.append(name)
    return tuple(found)


def open_ports(
    target: Facts, firewall: Firewall | None, ports: str, sources: Sequence[str], *, protocol: Protocol = "tcp"
) -> Fix:
    """Let ``sources`` (addresses) reach ``ports`` (``29500`` or ``29900-29950``) of the host, by its firewall.

    Args:
        target: The host that is dialled.
        firewall: What it said of its firewall; None where it was not asked.
        ports: One port or a range.
        sources: Addresses of those who dial; everybody when there is none.
        protocol: Of the ports.
    """
    known = tuple(sources)
    if firewall is None or target.wsl or target.system != "Linux":
        return systems.open_ports(target, ports, known, protocol=protocol)
    words = f"let {', '.join(known) or 'the other hosts'} reach {protocol.upper()} {ports} on {target.host}"
    names = [*firewall.names, *(["nftables"] if firewall.chains else [])]
    commands = (
        *_nft(firewall.chains, ports, known, protocol),
        *_by_name(target, firewall.names, ports, known, protocol),
    )
    if commands:
        text = f"{words}: {' and '.join(names)} {'is' if len(names) == 1 else 'are'} in the way"
        return Fix(text, commands, host=target.host, needs_root=True, safe=True)
    if firewall.seen:
        return Fix(
            f"{words}: no rule of the host itself is in the way, so look at what lies between the hosts: the router, "
            "the switch, an access point with client isolation, the cloud's security group",
            ("sudo nft list ruleset || sudo iptables -S",),
            host=target.host,
            needs_root=True,
        )
    name = "iptables" if "iptables" in firewall.tools else "nft"
    guess = systems.open_ports(replace(target, firewalls=(name,)), ports, known, protocol=protocol)
    return replace(
        guess,
        text=f"{words}: its rules cannot be read without root, so see what closes the port "
        f"(`sudo nft list ruleset || sudo iptables -S`); if it is {name}, this opens it",
        safe=False,
    )


def _nft(chains: Sequence[str], ports: str, sources: Sequence[str], protocol: Protocol) -> tuple[str, ...]:
    everyone = sources or ("0.0.0.0/0",)
    return tuple(
        f"sudo nft insert rule {chain} ip saddr {source} {protocol} dport {ports} accept"
        for chain in chains
        for source in everyone
    )


def _by_name(
    target: Facts, names: Sequence[str], ports: str, sources: tuple[str, ...], protocol: Protocol
) -> tuple[str, ...]:
    return tuple(
        command
        for name in names
        for command in systems.open_ports(
            replace(target, firewalls=(name,)), ports, sources, protocol=protocol
        ).commands
    )

"""Commands that differ from one operating system to the next, for fixes. Nothing here is run by a check."""

from __future__ import annotations

import shlex
from typing import Literal

from remote.checks.model import Fix
from remote.facts import Facts

Protocol = Literal["tcp", "udp"]
Family = Literal["debian", "fedora", "suse", "arch", "alpine", "macos", "other"]

_FAMILIES: dict[str, Family] = {
    "debian": "debian", "ubuntu": "debian", "linuxmint": "debian", "pop": "debian", "raspbian": "debian",
    "elementary": "debian", "kali": "debian", "zorin": "debian", "neon": "debian",
    "fedora": "fedora", "rhel": "fedora", "centos": "fedora", "rocky": "fedora", "almalinux": "fedora",
    "ol": "fedora", "amzn": "fedora",
    "opensuse-leap": "suse", "opensuse-tumbleweed": "suse", "sles": "suse",
    "arch": "arch", "manjaro": "arch", "endeavouros": "arch", "cachyos": "arch",
    "alpine": "alpine",
}  # fmt: skip


def family(facts: Facts) -> Family:
    """The family whose package manager the host has."""
    if facts.system == "Darwin":
        return "macos"
    words = facts.distribution.lower().split()
    return _FAMILIES.get(words[0], "other") if words else "other"


def install(facts: Facts, packages: dict[Family, str], otherwise: str) -> Fix:
    """Install a package by the host's own means; ``otherwise`` is said where no command is known."""
    which = family(facts)
    package = packages.get(which)
    managers: dict[Family, str] = {
        "debian": "sudo apt-get update && sudo apt-get install -y",
        "fedora": "sudo dnf install -y",
        "suse": "sudo zypper install -y",
        "arch": "sudo pacman -S --needed",
        "alpine": "sudo apk add",
        "macos": "brew install",
    }
    if package is None or which not in managers:
        return Fix(otherwise, host=facts.host)
    return Fix(otherwise, (f"{managers[which]} {package}",), host=facts.host, needs_root=which != "macos")


def start_service(facts: Facts, service: str) -> tuple[str, ...]:
    """Start a service now and at every boot."""
    match family(facts):
        case "alpine":
            return (f"sudo rc-update add {service} default", f"sudo rc-service {service} start")
        case "macos":
            return ("open -a Docker",)
        case _:
            return (f"sudo systemctl enable --now {service}",)


def open_ports(facts: Facts, ports: str, sources: tuple[str, ...], *, protocol: Protocol = "tcp") -> Fix:
    """Let ``sources`` (addresses) reach ``ports`` (``29500`` or ``29900-29950``) of the host."""
    words = f"let {', '.join(sources) or 'the other hosts'} reach {protocol.upper()} {ports} on {facts.host}"
    if facts.system == "Darwin":
        return Fix(
            f"{words}: the firewall of macOS blocks programs, not ports; allow the Python that runs the job",
            (
                "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add /path/to/python3",
                "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --unblockapp /path/to/python3",
            ),
            host=facts.host,
            needs_root=True,
        )
    if facts.system == "Windows":
        addresses = f" -RemoteAddress {','.join(sources)}" if sources else ""
        return Fix(
            f"{words}: in PowerShell as administrator",
            (
                (
                    "New-NetFirewallRule -DisplayName hetero-tui -Direction Inbound -Action Allow "
                    f"-Protocol {protocol.upper()} -LocalPort {ports}{addresses}"
                ),
            ),
            host=facts.host,
            needs_root=True,
        )
    if facts.wsl:
        rule = shlex.join(("-LocalPorts", ports))
        return Fix(
            f"{words}: in PowerShell as administrator on Windows (WSL 2 with networkingMode=mirrored)",
            (
                (
                    "New-NetFirewallHyperVRule -Name hetero-tui -DisplayName hetero-tui -Direction Inbound "
                    f"-Action Allow -Protocol {protocol.upper()} {rule} "
                    "-VMCreatorId '{40E0AC32-46A5-438A-A0B2-2B479E8F2E90}'"
                ),
            ),
            host=facts.host,
            needs_root=True,
        )
    found = tuple(dict.fromkeys(each.split()[0].lower() for each in facts.firewalls if each.strip()))
    for name in ("ufw", "firewalld", "nft", "nftables", "iptables"):
        if name in found:
            return Fix(
                f"{words}: {name} is on",
                _firewall_commands(name, ports, sources, protocol),
                host=facts.host,
                needs_root=True,
                safe=True,
            )
    return Fix(
        f"{words}: no firewall was seen on the host itself (reading its rules may need root), so look there first, "
        "then at the router, the switch or the cloud's security group between the hosts",
        ("sudo nft list ruleset || sudo iptables -S",),
        host=facts.host,
        needs_root=True,
    )


def _firewall_commands(name: str, ports: str, sources: tuple[str, ...], protocol: Protocol) -> tuple[str, ...]:
    colon = ports.replace("-", ":")
    everyone = sources or ("0.0.0.0/0",)
    match name:
        case "ufw":
            return tuple(f"sudo ufw allow proto {protocol} from {source} to any port {colon}" for source in everyone)
        case "firewalld":
            rules = (
                f'rule family="ipv4" source address="{source}" port port="{ports}" protocol="{protocol}" accept'
                for source in everyone
            )
            return (
                *(f"sudo firewall-cmd --permanent --add-rich-rule={shlex.quote(rule)}" for rule in rules),
                "sudo firewall-cmd --reload",
            )
        case "nft" | "nftables":
            return tuple(
                f"sudo nft insert rule inet filter input ip saddr {source} {protocol} dport {ports} accept"
                for source in everyone
            )
        case _:
            return tuple(
                f"sudo iptables -I INPUT -p {protocol} -s {source} --dport {colon} -j ACCEPT" for source in everyone
            )

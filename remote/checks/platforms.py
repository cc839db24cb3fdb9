"""What a host's system means for the ranks: WSL 2 and its network modes, macOS, Windows, and their ways to an engine.

Nothing here was tried on a real Windows, WSL 2 or macOS; docs/hosts.md says where each statement comes from.
"""

from __future__ import annotations

import ipaddress
import shlex

from remote.checks.model import Finding, Fix, fail, ok, warn
from remote.facts import Facts
from remote.inventory import Host

MIRRORED = "set networkingMode=mirrored under [wsl2] in %UserProfile%\\.wslconfig on Windows"
RECIPE = (
    "the pairs of “Data ports” prove what gets through: one such host needs no inbound port if its network has the "
    "highest addresses, several need published ports or a VPN"
)
_WSL_NAT = ipaddress.ip_network("172.16.0.0/12")
_SHELLS = {"cmd": "cmd.exe", "powershell": "PowerShell"}


def shell_finding(host: Host, facts: Facts) -> Finding:
    """Judge what reads the account's commands."""
    if facts.login_shell == "posix":
        return ok("POSIX shell", "the facts script ran in /bin/sh")
    which = f"{_SHELLS[facts.login_shell]} of Windows"
    if host.runtime == "docker":
        return ok(f"{which}: facts by PowerShell, the engine by `docker system dial-stdio`")
    return fail(
        f"the login shell is {which}; ranks that run as processes need Linux or macOS",
        f"facts by PowerShell: {facts.distribution} {facts.kernel}",
        Fix(
            "log in to Linux on that machine: run the SSH server inside WSL 2, or make wsl.exe the default shell of "
            "Windows' SSH server (PowerShell as administrator)",
            (
                (
                    "New-ItemProperty -Path HKLM:\\SOFTWARE\\OpenSSH -Name DefaultShell "
                    "-Value C:\\Windows\\System32\\wsl.exe -PropertyType String -Force"
                ),
            ),
            host=facts.host,
            needs_root=True,
        ),
    )


def platform_finding(host: Host, facts: Facts, what: str, evidence: str) -> Finding | None:
    """Judge a system that needs more than plain Linux does; None where nothing is to be said.

    Args:
        host: The inventory's entry.
        facts: What the host said.
        what: System and architecture in words.
        evidence: What was asked and what came back.
    """
    if facts.system == "Windows":
        return _windows(host, what, evidence)
    if facts.system == "Darwin" and host.runtime == "docker":
        return warn(
            f"{what}: containers on macOS run in a virtual machine, without the GPU and behind its network",
            evidence,
            Fix(f'set runtime = "process" for this host in cluster.toml; with containers, {RECIPE}', host=host.name),
        )
    if facts.wsl:
        return _wsl(host, facts, what, f"{evidence}; wslinfo --networking-mode: {facts.wsl_networking or 'no answer'}")
    return None


def _windows(host: Host, what: str, evidence: str) -> Finding:
    in_wsl = (
        f"run the ranks in WSL 2 instead: a distribution with its own SSH server and Docker Engine, and {MIRRORED}",
        (
            "wsl --install -d Ubuntu",
            "wsl -d Ubuntu -u root -- apt-get install -y openssh-server docker.io",
        ),
    )
    if host.runtime == "process":
        return fail(f"{what}: ranks as processes run on Linux and macOS only", evidence, Fix(*in_wsl, host=host.name))
    text = f"{in_wsl[0]}. With Docker Desktop, {RECIPE}"
    return warn(
        f"{what}: containers run in Docker Desktop's virtual machine, behind its network",
        evidence,
        Fix(text, in_wsl[1], host=host.name),
    )


def _wsl(host: Host, facts: Facts, what: str, evidence: str) -> Finding:
    mode = facts.wsl_networking or ("nat" if _looks_like_nat(facts) else "")
    if mode in ("mirrored", "bridged"):
        return ok(f"{what} under WSL 2, {mode} network", evidence)
    if mode == "virtioproxy":
        reason = f"{what} under WSL 2 in virtioproxy mode, which WSL falls back to: the other hosts cannot reach it"
    elif mode:
        reason = f"{what} under WSL 2 in {mode.upper()} mode: the other hosts cannot reach it"
    else:
        reason = f"{what} under WSL 2, whose network mode is not known: in its default, NAT, no other host reaches it"
    return warn(
        reason,
        evidence,
        Fix(
            f"{MIRRORED} (Windows 11 22H2 or newer), then restart WSL; this ends everything that runs in it",
            ("wsl.exe --shutdown",),
            host=host.name,
        ),
    )


def _looks_like_nat(facts: Facts) -> bool:
    """Whether the address is one of those WSL gives out itself, when wslinfo (WSL 2.0.4 or newer) is not there."""
    try:
        return ipaddress.ip_address(facts.address) in _WSL_NAT
    except ValueError:
        return False


def no_engine_finding(facts: Facts, evidence: str) -> Finding | None:
    """Say why there is no engine where the system has a way of its own to have one; None elsewhere."""
    if facts.docker_is_podman and not facts.engine_sockets:
        return fail(
            "`docker` is Podman's stand-in here (podman-docker): there is no Docker Engine behind it",
            evidence,
            Fix(
                'put Docker\'s engine in its place, or set runtime = "process" for this host',
                (
                    "sudo dnf swap -y podman-docker moby-engine",
                    "sudo systemctl enable --now docker",
                    f"sudo usermod -aG docker {shlex.quote(facts.user)}",
                ),
                host=facts.host,
                needs_root=True,
                new_login=True,
            ),
        )
    if facts.system == "Windows":
        return _no_engine_on_windows(facts, evidence)
    if facts.system == "Darwin" and facts.colima and not facts.docker_desktop:
        return fail(
            "colima is installed, but its engine does not answer",
            evidence,
            Fix("start it", ("colima start",), host=facts.host, safe=True),
        )
    if facts.docker_cli.startswith("/snap/"):
        return _not_running("Docker's snap", "sudo snap start docker", facts, evidence, needs_root=True)
    if facts.rootless_engine and not facts.engine_socket:
        return _not_running("the rootless engine", "systemctl --user enable --now docker", facts, evidence)
    return None


def _not_running(what: str, command: str, facts: Facts, evidence: str, *, needs_root: bool = False) -> Finding:
    lasting = "" if needs_root else f" (`sudo loginctl enable-linger {shlex.quote(facts.user)}` keeps it after logout)"
    fix = Fix(f"start it{lasting}", (command,), host=facts.host, needs_root=needs_root, safe=True)
    return fail(f"{what} is installed, but does not answer", evidence, fix)


def _no_engine_on_windows(facts: Facts, evidence: str) -> Finding:
    if facts.docker_desktop:
        return fail(
            "Docker Desktop is installed, but its engine does not answer: it runs only while somebody is logged in",
            evidence,
            Fix("log in at the machine and start Docker Desktop", ("docker desktop start",), host=facts.host),
        )
    return fail(
        "no Docker Engine was found on Windows",
        evidence,
        Fix(
            "install an engine inside WSL 2 and log in there; Docker Desktop works too, behind its network",
            ("wsl --install -d Ubuntu", "wsl -d Ubuntu -u root -- apt-get install -y openssh-server docker.io"),
            host=facts.host,
            needs_root=True,
        ),
    )

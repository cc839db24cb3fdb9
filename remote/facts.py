"""What a host is, read in one round trip by one script sent over standard input: POSIX sh, or PowerShell on Windows."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from remote.errors import CommandFailed
from remote.runner import Completed, Runner
from remote.shells import (
    NAMED_PIPE,
    SHELL_QUESTION,
    LoginShell,
    RunCommand,
    RunsInLoginShell,
    WindowsShell,
    powershell_command,
    which_shell,
)

_EPHEMERAL_PORTS = (32768, 60999)
"""Linux's default ``net.ipv4.ip_local_port_range``."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the host's own tool lists it."""

    index: int
    name: str
    uuid: str
    memory: int
    """Bytes."""
    driver: str
    compute_capability: str
    vendor: str = "nvidia"


@dataclass(frozen=True, slots=True)
class EngineSocket:
    """A Docker Engine socket found on the host."""

    path: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What one host said about itself. Absent facts keep their default; nothing here is trusted further."""

    host: str
    """Name in the inventory."""
    system: str = ""
    """``Linux``, ``Darwin`` or ``Windows``."""
    login_shell: LoginShell = "posix"
    """What reads the commands of the account: a POSIX shell, possibly behind another one, or one of Windows'."""
    distribution: str = ""
    kernel: str = ""
    architecture: str = ""
    """As ``uname -m`` says: ``x86_64``, ``aarch64``, ``arm64``."""
    hostname: str = ""
    user: str = ""
    user_id: int = -1
    groups: tuple[str, ...] = ()
    home: str = ""
    cpu_count: int = 0
    cpu_model: str = ""
    cpu_quota: float | None = None
    """CPUs this session may use by cgroup, or None when unlimited."""
    memory_total: int = 0
    """Bytes."""
    memory_available: int = 0
    """Bytes."""
    disk_free: int = 0
    """Bytes free where images or runs are stored."""
    disk_path: str = ""
    machine_id: str = ""
    wsl: bool = False
    wsl_networking: str = ""
    """What ``wslinfo --networking-mode`` says: ``nat``, ``mirrored``, ``virtioproxy``, ``none``; empty if unknown."""
    selinux_enforcing: bool = False
    interface: str = ""
    """Network interface on the route to the master (on the master: the one that owns its address)."""
    address: str = ""
    """This host's source address on that route."""
    addresses: tuple[tuple[str, str], ...] = ()
    """(interface, IPv4 address) of everything the host has."""
    networks: tuple[tuple[str, str], ...] = ()
    """(interface, IPv4 network in CIDR notation) of every route, the default route apart; Linux only."""
    mtu: int = 0
    port_listening: bool = False
    """Somebody listens on the master port on this host."""
    ephemeral_ports: tuple[int, int] = _EPHEMERAL_PORTS
    clock_offset: float = 0.0
    """Seconds the host's clock is ahead of the master's, accurate to half of ``round_trip``."""
    round_trip: float = 0.0
    """Seconds of one SSH round trip."""
    reverse_dns_seconds: float = 0.0
    """Time the host takes to look up the name of the master's address; given up after 2 s."""
    firewalls: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str = ""
    """What nvidia-smi said when it failed."""
    nvidia_container_toolkit: str = ""
    engine_sockets: tuple[EngineSocket, ...] = ()
    docker_cli: str = ""
    docker_is_podman: bool = False
    """The program called docker is the script of Fedora's podman-docker."""
    docker_desktop: bool = False
    """Docker Desktop is installed, running or not."""
    rootless_engine: bool = False
    """The account has set up a Docker Engine of its own, running or not."""
    colima: str = ""
    """Path of colima on a Mac, or empty."""
    python: str = ""
    """Path of a python3 on the host, or empty."""
    sudo: str = ""
    """``root``, ``nopass`` or ``no``."""
    raw: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Every key and value as the script printed them (evidence)."""

    @property
    def engine_socket(self) -> str:
        """The first socket this user may write to, or an empty string."""
        return next((each.path for each in self.engine_sockets if each.writable), "")


_SCRIPT = Path(__file__).with_name("scripts") / "facts.sh"
_WINDOWS_SCRIPT = Path(__file__).with_name("scripts") / "facts.ps1"
SECONDS = 30.0
WINDOWS_SECONDS = 60.0
"""PowerShell and CIM may take many seconds to start on a machine that has not used them since it was switched on."""
_BEGIN, _END = "@@HTUI1", "@@END"
_MAX_LINES = 2000
_MAX_VALUE = 4000
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,31}")


async def gather_facts(
    runner: Runner, *, master_address: str = "", port: int = 29500, clock: Callable[[], float] = time.time
) -> Facts:
    """Read what a host is. Nothing on the host is changed.

    Args:
        runner: The host.
        master_address: Address (or name) of the master the route is looked up for; the default route when empty.
        port: Rendezvous port; the facts tell whether somebody listens on it already.
        clock: Seconds since the epoch on this machine.

    Raises:
        ConnectionDropped: the connection was lost meanwhile.
        CommandFailed: the host has neither a POSIX shell nor PowerShell, did not answer in time, or its answer is no
            set of facts.
    """
    arguments = f"{port:d} {shlex.quote(master_address)}"
    posix = _Question(f"exec /bin/sh -s -- {arguments}", _SCRIPT.read_bytes(), SECONDS)
    completed, asked_at = await _ask(runner, runner.run, posix, clock)
    if _BEGIN not in completed.stdout:
        shell = await _windows_shell(runner, completed)
        assert isinstance(runner, RunsInLoginShell)
        # What PowerShell runs is one text; the arguments are its first two lines, so that nothing has to be quoted.
        script = f"{port:d}\n{master_address}\n".encode() + _WINDOWS_SCRIPT.read_bytes()
        question = _Question(powershell_command(), script, WINDOWS_SECONDS)
        completed, asked_at = await _ask(runner, runner.run_in_login_shell, question, clock)
        if _BEGIN not in completed.stdout:
            raise _no_facts(runner.host, completed)
        facts = parse_facts(runner.host, completed.stdout, sent_at=asked_at, received_at=clock())
        return replace(facts, login_shell=shell)
    return parse_facts(runner.host, completed.stdout, sent_at=asked_at, received_at=clock())


@dataclass(frozen=True, slots=True)
class _Question:
    command: str
    script: bytes
    seconds: float


async def _ask(
    runner: Runner, run: RunCommand, question: _Question, clock: Callable[[], float]
) -> tuple[Completed, float]:
    """Run a script; return its answer and when it was sent."""
    sent_at = clock()
    try:
        return await run(question.command, input=question.script, timeout=question.seconds), sent_at
    except TimeoutError as error:
        raise CommandFailed(
            f"the facts script did not end within {question.seconds:g} s",
            host=runner.host,
            next_step="log in and look what hangs: a start-up file, a network file system, nvidia-smi?",
        ) from error


async def _windows_shell(runner: Runner, completed: Completed) -> WindowsShell:
    """Return which shell of Windows could not make sense of the POSIX script.

    Raises:
        CommandFailed: it is none of them: the script failed for another reason.
    """
    if isinstance(runner, RunsInLoginShell) and completed.exit_status != 0:
        said = await runner.run_in_login_shell(SHELL_QUESTION, timeout=SECONDS)
        shell = which_shell(said.stdout)
        if shell in ("cmd", "powershell"):
            return shell
    raise _no_facts(runner.host, completed)


def parse_facts(host: str, output: str, *, sent_at: float, received_at: float) -> Facts:
    """Make facts of what the script printed, believing nothing that does not look as it should.

    The clock offset is NTP's: the mean of the host's two stamps minus the mean of ours (RFC 5905, section 8). The
    time the script itself took cancels out; what remains is half the difference between the way there and back.

    Args:
        host: Name in the inventory.
        output: Standard output of the session, with whatever start-up files printed around the facts.
        sent_at: Master's clock just before the script was sent, in seconds.
        received_at: Master's clock when its output was complete.

    Raises:
        CommandFailed: the output holds no complete set of facts.
    """
    pairs = _pairs(host, output)
    one = dict(reversed(pairs))  # the first of a kind counts

    def every(key: str) -> list[str]:
        return [value for name, value in pairs if name == key]

    addresses = tuple(pair for value in every("address") if (pair := _address(value)))
    interface, address = _route(one.get("route", ""), addresses)
    memory = one.get("memory", "").split()
    offset, round_trip = _clock(one, sent_at, received_at)
    disk_free, disk_path = _disk(one)
    system, hostname, kernel, architecture = _uname(one)
    user, user_id, groups = _identity(one)
    return Facts(
        host=host,
        system=system,
        distribution=one.get("distribution", ""),
        kernel=kernel,
        architecture=architecture,
        hostname=hostname,
        user=user,
        user_id=user_id,
        groups=groups,
        home=_path(one.get("home", "")),
        cpu_count=_integer(one.get("cpu_count", "")) or _online(one.get("cpu_online", "")),
        cpu_model=one.get("cpu_model", ""),
        cpu_quota=_quota(every("cpu_quota")),
        memory_total=_after(memory, "MemTotal") * 1024,
        memory_available=_after(memory, "MemAvailable") * 1024,
        disk_free=disk_free,
        disk_path=disk_path,
        machine_id=one.get("machine_id", ""),
        wsl=one.get("wsl") == "yes",
        wsl_networking=one.get("wsl_networking", "").lower(),
        selinux_enforcing=one.get("selinux") == "1",
        interface=interface,
        address=address,
        addresses=addresses,
        networks=tuple(pair for value in every("network") if (pair := _network(value))),
        mtu=next((_integer(mtu) for name, mtu in map(_halves, every("mtu")) if name == interface), 0),
        port_listening=_integer(one.get("port_listening", "")) > 0,
        ephemeral_ports=_port_range(one.get("ephemeral_ports", "")),
        clock_offset=offset,
        round_trip=round_trip,
        reverse_dns_seconds=_elapsed(one.get("reverse_dns", "")),
        firewalls=tuple(dict.fromkeys(every("firewall"))),
        gpus=tuple(gpu for value in every("gpu") if (gpu := _gpu(value))),
        gpu_error=one.get("gpu_error", ""),
        nvidia_container_toolkit=one.get("nvidia_ctk", ""),
        engine_sockets=_sockets(every("engine_socket")),
        docker_cli=_path(one.get("path_docker", "")),
        docker_is_podman=one.get("docker_shim") == "podman",
        docker_desktop=one.get("docker_desktop") == "yes",
        rootless_engine=one.get("docker_rootless") == "yes",
        colima=_path(one.get("path_colima", "")),
        python=_path(one.get("path_python3", "")),
        sudo=one.get("sudo", "") if one.get("sudo") in ("root", "nopass", "no") else "",
        raw=tuple(pairs),
    )


def _no_facts(host: str, completed: Completed) -> CommandFailed:
    said = " ".join(f"{completed.stdout} {completed.stderr}".split())
    return CommandFailed(
        f"the facts script did not run (exit status {completed.exit_status}): {_clean(said)[-400:] or 'no output'}",
        host=host,
        next_step="does `ssh HOST /bin/sh -c true` work without a word? A forced command or a menu gets in the way",
    )


def _pairs(host: str, output: str) -> list[tuple[str, str]]:
    lines = output.split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip() == _BEGIN), None)
    if start is None:
        raise CommandFailed("the answer holds no facts", host=host, next_step="log in and look what the shell prints")
    body = lines[start + 1 : start + 1 + _MAX_LINES]
    end = next((number for number, line in enumerate(body) if line.strip() == _END), None)
    if end is None:
        raise CommandFailed(
            "the facts broke off before their end", host=host, next_step="try again; does the shell have a time limit?"
        )
    found = (line.removesuffix("\r").partition("\t") for line in body[:end])
    return [(key, _clean(value)[:_MAX_VALUE].strip()) for key, tab, value in found if tab and re.fullmatch(r"\w+", key)]


def _clean(text: str) -> str:
    """Replace what a terminal would act on, and the rest that does not print."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _integer(text: str, default: int = 0) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else default


def _after(words: list[str], name: str) -> int:
    return next((_integer(value) for key, value in itertools.pairwise(words) if key == name), 0)


def _halves(text: str) -> tuple[str, str]:
    first, _, second = text.partition(" ")
    return first, second.strip()


def _path(text: str) -> str:
    """Keep what is an absolute path of POSIX or of Windows, or a named pipe's address."""
    absolute = text.startswith(("/", NAMED_PIPE)) or re.match(r"[A-Za-z]:[\\/]", text)
    return text if absolute and "\N{REPLACEMENT CHARACTER}" not in text else ""


def _uname(one: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Return system, host name, kernel and architecture: of ``uname -snrm``, or told one by one."""
    words = one.get("uname", "").split()
    if len(words) == 4:
        system, hostname, kernel, architecture = words
        return system, hostname, kernel, architecture
    return one.get("system", ""), one.get("hostname", ""), one.get("kernel", ""), one.get("architecture", "")


def _identity(one: Mapping[str, str]) -> tuple[str, int, tuple[str, ...]]:
    """Return user, user id and groups: of ``id``, or told one by one."""
    if found := re.match(r"uid=([0-9]+)(?:\(([^)]*)\))?", one.get("id", "")):
        listed = re.search(r"groups=(\S.*?)(?: context=|$)", one["id"])
        groups = re.findall(r"[0-9]+\(([^)]*)\)", listed[1]) if listed else []
        return found[2] or "", _integer(found[1], -1), tuple(groups)
    return one.get("user", ""), _integer(one.get("user_id", ""), -1), tuple(one.get("groups", "").split())


def _online(text: str) -> int:
    """Count a kernel's list of CPUs, such as ``0-3,8-11``."""
    total = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return 0
        total += (_integer(last) - _integer(first) if dash else 0) + 1
    return max(0, total)


def _disk(one: Mapping[str, str]) -> tuple[int, str]:
    """Return free bytes and the path they were asked for: of ``PATH`` and ``df -Pk PATH``, or of ``KiB PATH``."""
    if found := re.match(r"(/.*?) Filesystem .*? [0-9]+ [0-9]+ (-?[0-9]+) [0-9]+%", one.get("df", "")):
        return _integer(found[2]) * 1024, _path(found[1])
    free, _, path = one.get("disk", "").partition(" ")
    return _integer(free) * 1024, _path(path)


def _stamp(text: str) -> float | None:
    """Read nanoseconds, seconds with a fraction, or whole seconds, which stand for the middle of their second."""
    if re.fullmatch(r"[0-9]{16,19}", text):
        return int(text) / 1e9
    if re.fullmatch(r"[0-9]{1,11}\.[0-9]{1,9}", text):
        return float(text)
    if re.fullmatch(r"[0-9]{1,11}", text):
        return int(text) + 0.5
    return None


def _clock(one: Mapping[str, str], sent_at: float, received_at: float) -> tuple[float, float]:
    first, last = _stamp(one.get("clock", "")), _stamp(one.get("clock_end", ""))
    if first is None or last is None:
        return 0.0, 0.0
    offset = (first + last) / 2 - (sent_at + received_at) / 2
    return offset, max(0.0, (received_at - sent_at) - (last - first))


def _elapsed(text: str) -> float:
    first, last = map(_stamp, _halves(text))
    return max(0.0, last - first) if first is not None and last is not None else 0.0


def _quota(values: list[str]) -> float | None:
    """Return CPUs by cgroup v2 ``cpu.max`` or v1 ``cfs_quota_us`` and ``cfs_period_us``: the tightest one counts."""
    limits = [
        _integer(quota) / _integer(period)
        for quota, period in map(_halves, values)
        if _integer(quota) and _integer(period)
    ]
    return min(limits, default=None)


def _address(text: str) -> tuple[str, str] | None:
    name, address = _halves(text)
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return None
    return (name, address) if _INTERFACE.fullmatch(name) else None


def _network(text: str) -> tuple[str, str] | None:
    """Read a line of /proc/net/route: interface, destination and mask, in hexadecimal as the processor stores them."""
    found = re.fullmatch(r"(\S+) ([0-9A-F]{8}) ([0-9A-F]{8})", text)
    if found is None or not _INTERFACE.fullmatch(found[1]):
        return None
    destination, mask = (ipaddress.IPv4Address(bytes.fromhex(word)[::-1]) for word in found.groups()[1:])
    try:
        network = ipaddress.IPv4Network(f"{destination}/{mask}")
    except ValueError:
        return None
    return (found[1], str(network)) if network.prefixlen else None


def _route(route: str, addresses: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Return interface and source address of a route as ``ip route get`` prints it.

    The route to an address of the host itself goes over ``lo``; Gloo needs the interface that owns the address.
    """
    words = route.split()
    named = dict(itertools.pairwise(words))
    interface, source = named.get("dev", ""), named.get("src", "")
    try:
        source = str(ipaddress.ip_address(source.partition("%")[0]))
    except ValueError:
        source = ""
    owner = next((name for name, address in addresses if address == source), "")
    interface = owner or interface
    return (interface if _INTERFACE.fullmatch(interface) else ""), source


def _port_range(text: str) -> tuple[int, int]:
    words = text.split()
    if len(words) == 2 and 0 < _integer(words[0]) <= _integer(words[1]) <= 65535:
        return _integer(words[0]), _integer(words[1])
    return _EPHEMERAL_PORTS


def _gpu(text: str) -> Gpu | None:
    fields = [part.strip() for part in text.split(",")]
    if len(fields) < 5 or not re.fullmatch(r"[0-9]{1,4}", fields[0]):
        return None
    return Gpu(
        index=int(fields[0]),
        name=fields[1],
        uuid=fields[2],
        memory=_integer(fields[3]) * 1024 * 1024,  # nvidia-smi counts MiB; unified memory prints [N/A]
        driver=fields[4],
        compute_capability=fields[5] if len(fields) > 5 else "",
    )


def _sockets(values: list[str]) -> tuple[EngineSocket, ...]:
    found = (_halves(value) for value in values)
    sockets = [EngineSocket(path, access == "rw") for access, path in found if _path(path)]
    return tuple(dict.fromkeys(sockets))

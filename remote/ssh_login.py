"""From an inventory entry to an authenticated SSH connection, or to an error that says what to do.

``~/.ssh/config``, the agent, ProxyJump and known_hosts count as they do for ``ssh``. Three things never happen: a host
key is taken on trust, the agent is forwarded, a variable of this machine's environment is sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import asyncssh

from remote.errors import ConnectError, ConnectionDropped, HostKeyChanged, HostUnreachable, LoginRefused
from remote.known_hosts import DEFAULT_SSH_PORT, HostKeyCheck, KnownHosts
from remote.ssh_flow import bound_channels

if TYPE_CHECKING:  # the SSH layer works without the inventory and the validation library behind it
    from remote.inventory import Host

KEEPALIVE_SECONDS = 5.0
KEEPALIVE_COUNT = 3
WINDOW = 16 * 1024 * 1024
"""Bytes a channel may receive ahead of the reader: 2 MiB (the default) caps one channel at 19 MB/s on a 50 ms link."""
ENDING_SECONDS = 10.0
"""How long closing a connection waits for commands that are being ended."""
ENCRYPTION = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes*-ctr"
"""AES-GCM moves about twice as much as asyncssh's first choice, ChaCha20."""


@dataclass(frozen=True, slots=True)
class Target:
    """One machine to log in to, before ``~/.ssh/config`` fills the gaps."""

    label: str
    """Name in messages."""
    address: str
    user: str = ""
    port: int | None = None
    identity_file: str = ""
    jump: str = ""
    """Jump hosts separated by commas; ``none`` goes straight there whatever ssh_config says, as ``ssh -J none``."""
    pinned: str = ""

    @classmethod
    def of(cls, host: Host) -> Target:
        """Return the target of an inventory entry."""
        return cls(
            label=host.name,
            address=host.address or host.name,
            user=host.user,
            port=host.port,
            identity_file=host.identity_file,
            jump=host.jump_host,
            pinned=host.host_key,
        )


def parse_jump(jump: str, label: str) -> Target:
    """Read one ``[user@]host[:port]`` of a ProxyJump list.

    Raises:
        ConnectError: the port is not a number.
    """
    user, _, place = jump.rpartition("@")
    if place.startswith("["):
        address, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    elif place.count(":") == 1:
        address, port = place.split(":")
    else:
        address, port = place, ""
    if not address or (port and not port.isdecimal()):
        raise ConnectError(f"jump host {jump!r} is not user@host:port", host=label, next_step="correct jump_host")
    return Target(label=f"{label} (jump host {place})", address=address, user=user, port=int(port) if port else None)


@dataclass(slots=True)
class Login:
    """A live connection and why it ended, once it did."""

    target: Target
    connection: asyncssh.SSHClientConnection
    client: Client
    is_tunnelled: bool = False
    """Whether it goes through a jump host, so that its ends' addresses are not those of the two machines."""
    spare_session: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a session beyond the usual number is open."""
    _endings: set[asyncio.Task[None]] = field(default_factory=set)

    async def see_to(self, ending: Coroutine[Any, Any, None]) -> None:
        """Let something go to its end on this connection, even if whoever waits for it here is cancelled."""
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Close the connection once everything on it that is being ended has ended."""
        if self._endings and not self.connection.is_closed():
            await asyncio.wait(self._endings, timeout=ENDING_SECONDS)
        self.connection.close()
        await self.connection.wait_closed()

    def dropped(self, doing: str) -> ConnectionDropped:
        """Return the error for something cut off by the loss of this connection."""
        reason = f": {self.client.lost}" if self.client.lost else ""
        return ConnectionDropped(
            f"the SSH connection was lost while {doing}{reason}",
            host=self.target.label,
            next_step="the host may be off, asleep or off the network; the program connects again by itself",
        )


class Client(asyncssh.SSHClient):
    """Callbacks of one connection."""

    def __init__(self, check: HostKeyCheck) -> None:
        self.check = check
        self.lost: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return self.check.accepts(key)


@dataclass(slots=True)
class JumpConnections:
    """Connections to jump hosts, each opened once however many hosts lie behind it.

    One login for all spares the jump host's ``MaxStartups`` (10 pending logins by default, then sshd drops some).
    """

    known_hosts: KnownHosts = field(default_factory=KnownHosts)
    connect_timeout: float = 10.0
    config_files: Sequence[Path] | None = None
    _logins: dict[str, asyncio.Task[Login]] = field(default_factory=dict)

    async def reach(self, jump: str, label: str, via: frozenset[str] = frozenset()) -> Login:
        """Return a live connection to the last jump host of a comma-separated list.

        Args:
            jump: ``[user@]host[:port]``, several separated by commas.
            label: Host that asks, for messages.
            via: Jump hosts that are being reached already, so that ``Host *`` with ``ProxyJump`` does not go round.

        Raises:
            ConnectError: a jump host cannot be reached or refuses.
        """
        task = self._logins.get(jump)
        if task is None or self._is_dead(task):
            task = asyncio.create_task(self._open(jump, label, via | {jump}), name=f"jump {jump}")
            task.add_done_callback(_retrieve)
            self._logins[jump] = task
        return await asyncio.shield(task)

    async def _open(self, jump: str, label: str, via: frozenset[str]) -> Login:
        before, _, last = jump.rpartition(",")
        tunnel = await self.reach(before, label, via) if before else None
        return await log_in(
            parse_jump(last.strip(), label),
            known_hosts=self.known_hosts,
            connect_timeout=self.connect_timeout,
            config_files=self.config_files,
            tunnel=tunnel,
            jumps=self,
            via=via,
        )

    @staticmethod
    def _is_dead(task: asyncio.Task[Login]) -> bool:
        if not task.done():
            return False
        return task.cancelled() or task.exception() is not None or task.result().connection.is_closed()

    async def close(self) -> None:
        """Close every jump connection."""
        tasks, self._logins = tuple(self._logins.values()), {}
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Login):
                outcome.connection.close()
                await outcome.connection.wait_closed()


async def log_in(
    target: Target,
    *,
    known_hosts: KnownHosts,
    connect_timeout: float,
    jumps: JumpConnections,
    config_files: Sequence[Path] | None = None,
    tunnel: Login | None = None,
    via: frozenset[str] = frozenset(),
) -> Login:
    """Open one authenticated connection.

    Args:
        target: Where to.
        known_hosts: Files that vouch for the host key.
        connect_timeout: Seconds for everything from the name lookup to the login, per connection.
        jumps: Where a jump host named by the target or by ssh_config is taken from.
        config_files: ssh_config files; ``~/.ssh/config`` when None.
        tunnel: Connection to go through; overrides the target's jump host.
        via: Jump hosts that are being reached already.

    Raises:
        HostUnreachable: no answer, refused, or the name does not resolve.
        HostKeyUnknown: first contact.
        HostKeyChanged: the key is not the known or pinned one.
        LoginRefused: no key was accepted.
        ConnectError: anything else that leaves no connection.
    """
    check = HostKeyCheck(target.label, pinned=target.pinned, file=known_hosts.writable_file)
    settings = _settings(target, check, connect_timeout, config_files)
    try:
        # client_keys=None keeps this first look at ssh_config from reading private keys.
        looked_up = await asyncssh.SSHClientConnectionOptions.construct(**{**settings, "client_keys": None})
    except (ValueError, OSError) as error:
        raise _bad_settings(target, error) from error
    configured = (looked_up.config.get("UserKnownHostsFile", ()), looked_up.config.get("GlobalKnownHostsFile", ()))
    check.known = known_hosts.load([str(name) for group in configured for name in _as_list(group)])
    jump = target.jump or (looked_up.tunnel if isinstance(looked_up.tunnel, str) else "")
    if tunnel is None and jump and jump.lower() != "none" and jump not in via:
        tunnel = await jumps.reach(jump, target.label, via)
    place = f"{looked_up.host}:{looked_up.port}"

    bound_channels()
    client = Client(check)
    try:
        connection = await asyncssh.connect(
            **settings,
            tunnel=tunnel.connection if tunnel else None,
            client_factory=lambda: client,
        )
    except (asyncssh.Error, OSError, ValueError, TimeoutError) as error:
        await _raise_mapped(error, target, check, place, connect_timeout, settings, tunnel)
    return Login(target, connection, client, is_tunnelled=tunnel is not None)


def _retrieve(task: asyncio.Task[Login]) -> None:
    """Mark a failure as seen: whoever asked may have given up before."""
    if not task.cancelled():
        task.exception()


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _settings(
    target: Target, check: HostKeyCheck, connect_timeout: float, config_files: Sequence[Path] | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "host": target.address,
        "config": () if config_files is None else [str(path) for path in config_files],
        "known_hosts": check.trusted,
        "connect_timeout": connect_timeout,
        "login_timeout": connect_timeout,
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": KEEPALIVE_COUNT,
        "encryption_algs": ENCRYPTION,
        # Keys only, whatever ssh_config prefers; Kerberos would also vouch for a host without its key.
        "preferred_auth": ["publickey"],
        "gss_host": None,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "env": None,
        "send_env": None,
        "command": None,
        "request_pty": False,
        "encoding": None,
        "window": WINDOW,
        "ignore_encrypted": True,
    }
    if target.jump.lower() == "none":
        settings["proxy_command"] = None
    if target.user:
        settings["username"] = target.user
    if target.port is not None:
        settings["port"] = target.port
    if target.identity_file:
        path = str(Path(target.identity_file).expanduser())
        settings["client_keys"] = [path]
        if public := _public_half(path):
            # An agent full of other keys would use up the host's MaxAuthTries before the named key's turn.
            settings["agent_identities"] = [public]
    return settings


def _public_half(path: str) -> asyncssh.SSHKey | None:
    for candidate in (f"{path}.pub", path):
        try:
            return asyncssh.read_public_key(candidate)
        except (OSError, asyncssh.KeyImportError):
            continue
    return None


def _bad_settings(target: Target, error: ValueError | OSError) -> ConnectError:
    if isinstance(error, asyncssh.ConfigParseError):
        return ConnectError(f"~/.ssh/config: {error}", host=target.label, next_step="correct that line")
    return ConnectError(f"the SSH settings do not work: {error}", host=target.label, next_step="check ~/.ssh/config")


async def _raise_mapped(
    error: Exception,
    target: Target,
    check: HostKeyCheck,
    place: str,
    connect_timeout: float,
    settings: dict[str, Any],
    tunnel: Login | None,
) -> NoReturn:
    raise await _mapped(error, target, check, place, connect_timeout, settings, tunnel) from error


async def _mapped(
    error: Exception,
    target: Target,
    check: HostKeyCheck,
    place: str,
    connect_timeout: float,
    settings: dict[str, Any],
    tunnel: Login | None,
) -> ConnectError:
    def unreachable(message: str, next_step: str) -> HostUnreachable:
        return HostUnreachable(message, host=target.label, next_step=next_step)

    match error:
        case asyncssh.HostKeyNotVerifiable():
            return check.error(error.reason)
        case asyncssh.KeyExchangeFailed() if "host key" in error.reason:
            return HostKeyChanged(
                f"the host offers no key of the kind known for it ({error.reason})",
                host=target.label,
                next_step="if the machine was set up anew, remove the old line: "
                f"ssh-keygen -R '{check.dialled}' -f '{check.file}'",
            )
        case asyncssh.PermissionDenied():
            return await _login_refused(error.reason, target, settings)
        case asyncssh.DisconnectError() if "authentication failures" in error.reason.lower():
            return await _login_refused(error.reason, target, settings)
        case asyncssh.ChannelOpenError() if tunnel is not None:
            return unreachable(
                f"jump host {tunnel.target.address} cannot reach {place}: {error.reason}",
                f"on the jump host try: ssh {place.rpartition(':')[0]}; its sshd must allow TCP forwarding",
            )
        case asyncssh.ConnectionLost():
            return unreachable(
                f"{place} closed the connection before the login ({error.reason})",
                "is that the SSH port? A busy sshd also drops logins (MaxStartups); try again",
            )
        case asyncssh.Error():
            return ConnectError(
                f"SSH with {place} failed: {error.reason}",
                host=target.label,
                next_step=f"try: ssh -v -p {place.rpartition(':')[2]} {place.rpartition(':')[0]}",
            )
        case TimeoutError():
            return unreachable(
                f"no answer from {place} within {connect_timeout:g} s",
                "is the machine on, awake and on this network? Does a firewall let SSH through?",
            )
        case ConnectionRefusedError():
            return unreachable(
                f"{place} refused the connection",
                "the machine is there but no SSH server listens on this port: start sshd, or correct port",
            )
        case socket.gaierror():
            return unreachable(
                f"the name {place.rpartition(':')[0]} does not resolve",
                "correct address, or use the IP address",
            )
        case OSError() if error.filename:
            return LoginRefused(
                f"cannot read {error.filename}: {error.strerror}",
                host=target.label,
                next_step="correct identity_file in cluster.toml or IdentityFile in ~/.ssh/config",
            )
        case OSError():
            return unreachable(f"cannot reach {place}: {error}", "check the network and the address")
        case asyncssh.KeyImportError():
            return LoginRefused(
                f"the identity file is not a private key ({error})",
                host=target.label,
                next_step="give the private key, not the .pub file",
            )
        case _:
            return ConnectError(f"SSH with {place} failed: {error}", host=target.label)


async def _login_refused(reason: str, target: Target, settings: dict[str, Any]) -> LoginRefused:
    options = await asyncssh.SSHClientConnectionOptions.construct(**settings)
    offered = [_describe(pair) for pair in options.client_keys or ()]
    if options.agent_path:
        # An agent that went away cannot have offered anything.
        with suppress(OSError, asyncssh.Error, ValueError):
            async with asyncssh.connect_agent(options.agent_path) as agent:
                offered += [f"{_describe(pair)} (agent)" for pair in await agent.get_keys(options.agent_identities)]
    locked = [str(path) for path in _candidate_keys(target) if _is_locked(path)]
    keys = ", ".join(dict.fromkeys(offered)) or "no key at all"
    if locked:
        step = f"{locked[0]} is protected by a passphrase: unlock it first with ssh-add {locked[0]}"
    else:
        port = f"-p {options.port} " if options.port != DEFAULT_SSH_PORT else ""
        step = f"put a key of this machine there: ssh-copy-id {port}{options.username}@{options.host}"
    return LoginRefused(
        f"user {options.username} was refused ({reason}); offered: {keys}", host=target.label, next_step=step
    )


def _describe(pair: asyncssh.SSHKeyPair) -> str:
    name = Path(pair.get_comment() or "").name or "key"
    digest = hashlib.sha256(pair.key_public_data).digest()
    return f"{name} SHA256:{base64.b64encode(digest).rstrip(b'=').decode('ascii')}"


def _candidate_keys(target: Target) -> list[Path]:
    if target.identity_file:
        return [Path(target.identity_file).expanduser()]
    return sorted(path for path in Path("~/.ssh").expanduser().glob("id_*") if path.suffix != ".pub")


def _is_locked(path: Path) -> bool:
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyImportError as error:
        return str(error).startswith("Passphrase")
    except OSError:
        return False
    return False

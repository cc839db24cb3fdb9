"""SSH hosts inside this process, on loopback: what the demo runs on and what the tests talk to.

They speak real SSH on ports of their own and run real commands, each with a home folder per host, so everything from
the login to the log stream takes the same path as with a machine across the room. They are no sandbox: a command can
do what this user can do.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from remote.embedded_session import Answer, Commands, CommandSession, Respond
from remote.inventory import Host
from remote.known_hosts import known_hosts_line

__all__ = ["Answer", "EmbeddedCluster", "EmbeddedHost", "Respond", "RunningHost", "embedded_hosts"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EmbeddedHost:
    """One host to bring up."""

    name: str
    respond: Respond | None = None
    """Plays a host of another kind; commands it answers with None are run."""
    live: str = ""
    """Beginning of commands that are run at once, without ``respond``: those that talk rather than read to the end."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables besides HOME, PATH, USER, LOGNAME, SHELL and LANG."""
    login_shell: tuple[str, ...] = ("/bin/sh",)
    """What reads the commands, as the account's entry in passwd says; it is given ``-c`` and the command."""
    max_sessions: int = 10
    """As sshd's ``MaxSessions``."""
    forward_sockets: bool = True
    """As sshd's ``AllowStreamLocalForwarding``."""
    forward_tcp: bool = True
    """As sshd's ``AllowTcpForwarding``; a jump host needs it, and so does sending an image from a registry here."""


@dataclass(slots=True)
class RunningHost:
    """A host that is up."""

    spec: EmbeddedHost
    home: Path
    """Home folder of the account commands run in."""
    identity_file: Path
    """Private key that logs in."""
    key: asyncssh.SSHKey
    _client_key: bytes
    address: str = LOOPBACK
    port: int = 0
    _acceptor: asyncssh.SSHAcceptor | None = None
    _connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    commands: Commands = field(init=False)
    """What runs on the host."""
    peak_sessions: int = 0
    """Most commands that ran at a time on one connection."""
    login_count: int = 0
    """Connections accepted so far."""

    def __post_init__(self) -> None:
        self.commands = Commands(self.home, self.spec.env, self.spec.respond, self.spec.login_shell, self.spec.live)

    @property
    def name(self) -> str:
        """Name of the host."""
        return self.spec.name

    @property
    def host_key(self) -> str:
        """Fingerprint of the host key, for pinning."""
        return self.key.get_fingerprint()

    @property
    def known_hosts_line(self) -> str:
        """Line that makes the host known."""
        return known_hosts_line(self.address, self.port, self.key)

    @property
    def is_busy(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    async def idle(self) -> None:
        """Wait until nobody is connected."""
        for connection in tuple(self._connections):
            await connection.wait_closed()

    def inventory_host(self, **changes: object) -> Host:
        """Return the inventory entry that reaches this host, with its key pinned."""
        entry: dict[str, object] = {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "user": "demo",
            "identity_file": str(self.identity_file),
            "host_key": self.host_key,
            "jump_host": "none",
            "runtime": "process",
        }
        return Host.model_validate(entry | changes)

    def drop_connections(self) -> None:
        """Cut every connection, as a machine that loses power does. Commands go on, as they do under sshd."""
        for connection in tuple(self._connections):
            connection.abort()

    async def start(self) -> None:
        """Accept logins; on the earlier port when there was one."""
        self._acceptor = await asyncssh.listen(
            self.address,
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self.key],
            encoding=None,
            agent_forwarding=False,
            allow_scp=False,
            compression_algs=None,
        )
        self.port = self._acceptor.get_port()

    async def stop(self) -> None:
        """Refuse logins and cut every connection. Commands go on until ``end_commands``."""
        if self._acceptor is None:
            return
        acceptor, self._acceptor = self._acceptor, None
        acceptor.close()
        self.drop_connections()
        await acceptor.wait_closed()
        for connection in tuple(self._connections):
            await connection.wait_closed()

    async def change_key(self) -> None:
        """Come back with another host key, as a machine that was set up anew."""
        await self.stop()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        await self.start()

    async def end_commands(self) -> None:
        """Kill every command that did not move to a session of its own."""
        await self.commands.end()


class _Server(asyncssh.SSHServer):
    """Callbacks of one connection to one host."""

    def __init__(self, host: RunningHost) -> None:
        self._host = host
        self._connection: asyncssh.SSHServerConnection | None = None
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._host.login_count += 1
        self._host._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._connection is not None:
            self._host._connections.discard(self._connection)

    def session_requested(self) -> asyncssh.SSHServerSession[bytes] | bool:
        if self._sessions >= self._host.spec.max_sessions:
            return False
        self._sessions += 1
        self._host.peak_sessions = max(self._host.peak_sessions, self._sessions)
        return CommandSession(self._host.commands, self._session_ended)

    def _session_ended(self) -> None:
        self._sessions -= 1

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return key.public_data == self._host._client_key

    def unix_connection_requested(self, dest_path: str) -> bool:  # noqa: ARG002
        return self._host.spec.forward_sockets

    def server_requested(self, listen_host: str, listen_port: int) -> bool:  # noqa: ARG002
        return self._host.spec.forward_tcp

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        return self._host.spec.forward_tcp


@dataclass(frozen=True, slots=True)
class EmbeddedCluster:
    """Hosts that are up."""

    hosts: tuple[RunningHost, ...]
    identity_file: Path

    def __getitem__(self, name: str) -> RunningHost:
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


@asynccontextmanager
async def embedded_hosts(
    specs: Iterable[EmbeddedHost], *, folder: Path | None = None
) -> AsyncIterator[EmbeddedCluster]:
    """Bring up hosts, and take them down with every command that is not in a session of its own.

    Args:
        specs: The hosts; their names must differ.
        folder: Where keys and home folders go; a temporary folder when left out.
    """
    with tempfile.TemporaryDirectory(prefix="hetero-hosts-") as temporary:
        base = folder or Path(temporary)
        client_key = asyncssh.generate_private_key("ssh-ed25519", comment="embedded hosts")
        identity_file = base / "id_ed25519"
        identity_file.touch(mode=0o600)
        client_key.write_private_key(identity_file)
        client_key.write_public_key(f"{identity_file}.pub")
        hosts = []
        for spec in specs:
            home = base / spec.name
            home.mkdir(mode=0o700, exist_ok=True)
            host_key = asyncssh.generate_private_key("ssh-ed25519")
            hosts.append(RunningHost(spec, home, identity_file, host_key, client_key.public_data))
        try:
            for host in hosts:
                await host.start()
            yield EmbeddedCluster(tuple(hosts), identity_file)
        finally:
            for host in hosts:
                await host.stop()
                await host.end_commands()

"""A machine over SSH: everything a ``Runner`` does, on one asyncssh connection."""

from __future__ import annotations

import asyncio
import posixpath
import shlex
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from remote.dial_stdio import DialStdio, dial_stdio_command
from remote.errors import CommandFailed, EngineError
from remote.known_hosts import KnownHosts, accept_host_key
from remote.runner import SESSION_SOCKET, ByteStream, Completed, StreamHandler
from remote.shells import NAMED_PIPE
from remote.ssh_command import CHUNK, STDERR_TAIL, Command, posix_command_line
from remote.ssh_login import KEEPALIVE_COUNT, JumpConnections, Login, Target, log_in
from remote.ssh_reverse import serve_reverse

if TYPE_CHECKING:  # the SSH layer works without the inventory and the validation library behind it
    from remote.inventory import Host

__all__ = ["JumpConnections", "KnownHosts", "SshRunner", "accept_host_key", "connect"]

MAX_SESSIONS = 8
"""Commands at a time on one connection. sshd's ``MaxSessions`` is 10; two are left for a person's own use of it."""
MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes of output ``run`` keeps: more is a runaway or hostile command."""
STDERR_KEPT = 1024 * 1024

_SOCKET_PROBE = """
[ -e "$1" ] || { echo missing; exit 0; }
[ -S "$1" ] || { echo no-socket; exit 0; }
[ -w "$1" ] || { echo denied; id -un; exit 0; }
if command -v python3 >/dev/null 2>&1; then
  python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])' "$1" 2>/dev/null ||
    { echo refused; exit 0; }
fi
echo reachable
"""


async def connect(
    host: Host,
    *,
    known_hosts: KnownHosts | None = None,
    connect_timeout: float = 10.0,
    jump_connections: JumpConnections | None = None,
    config_files: Sequence[Path] | None = None,
) -> SshRunner:
    """Log in to a host of the inventory.

    Args:
        host: Address, user, port, identity file, jump host and pinned key; ``~/.ssh/config`` fills the gaps.
        known_hosts: Files that vouch for host keys; OpenSSH's usual ones when left out.
        connect_timeout: Seconds until a silent host counts as unreachable.
        jump_connections: Shared connections to jump hosts; the caller closes them. Without it the runner opens its
            own and closes it in ``close``.
        config_files: ssh_config files to read in place of ``~/.ssh/config``.

    Raises:
        HostUnreachable: no answer, refused, or the name does not resolve.
        HostKeyUnknown: first contact; ``accept_host_key`` then ``connect`` again, if a person says so.
        HostKeyChanged: the key is not the known or pinned one.
        LoginRefused: no key was accepted.
        ConnectError: anything else that leaves no connection.
    """
    known_hosts = known_hosts or KnownHosts()
    own_jumps = JumpConnections(known_hosts, connect_timeout, config_files)
    try:
        login = await log_in(
            Target.of(host),
            known_hosts=known_hosts,
            connect_timeout=connect_timeout,
            config_files=config_files,
            jumps=jump_connections or own_jumps,
        )
    except BaseException:
        await own_jumps.close()
        raise
    return SshRunner(login, own_jumps)


@dataclass(slots=True)
class SshRunner:
    """One machine over one SSH connection. Make it with ``connect``; reconnecting is the caller's business."""

    login: Login
    _own_jumps: JumpConnections
    _sessions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_SESSIONS))
    _forwarding_off: bool = False

    @property
    def host(self) -> str:
        return self.login.target.label

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up, as far as the keepalives can tell."""
        return not self.login.connection.is_closed()

    def expect_answers_within(self, seconds: float) -> None:
        """Count the connection as lost when nothing comes from the host for so long, though it is asked."""
        # asyncssh gives up when the interval ends in which one more than the count had gone unanswered.
        self.login.connection.set_keepalive(seconds / (KEEPALIVE_COUNT + 1), KEEPALIVE_COUNT)

    @property
    def near_address(self) -> str:
        """This machine's IP address on the way to the host; empty behind a jump host."""
        return self._address("sockname")

    @property
    def far_address(self) -> str:
        """The IP address the host was reached at; empty behind a jump host."""
        return self._address("peername")

    def _address(self, end: str) -> str:
        known = None if self.login.is_tunnelled else self.login.connection.get_extra_info(end)
        return str(known[0]) if known else ""

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, for whatever reason."""
        await self.login.connection.wait_closed()

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        status, stdout, stderr = await self._execute(posix_command_line(command), command, input, timeout, MAX_OUTPUT)
        return _completed(self.host, command, status, stdout, stderr)

    async def run_in_login_shell(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        """Run a command line in whatever shell the account has, for hosts that have no POSIX sh (Windows).

        Raises:
            ConnectionDropped: the connection was lost meanwhile.
            TimeoutError: the command did not end within ``timeout`` seconds.
        """
        status, stdout, stderr = await self._execute(command, command, input, timeout, MAX_OUTPUT)
        return _completed(self.host, command, status, stdout, stderr)

    async def stream(self, command: str) -> AsyncGenerator[bytes, None]:
        async with self._sessions:
            running = await Command.start(self.login, posix_command_line(command), command)
            errors = asyncio.create_task(running.collect_stderr(STDERR_TAIL))
            try:
                running.process.stdin.write_eof()
                while chunk := await running.read():
                    yield chunk
                await errors
                status = await running.status()
            finally:
                errors.cancel()
                await asyncio.gather(errors, return_exceptions=True)
                await running.end("TERM")
        if status != 0:
            _completed(self.host, command, status, b"", running.stderr).check()

    async def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        folder, temporary = posixpath.dirname(path), f"{path}.part"
        script = (
            f"umask 077 && mkdir -p {shlex.quote(folder)} && cat > {shlex.quote(temporary)}"
            f" && chmod {mode:04o} {shlex.quote(temporary)} && mv -f {shlex.quote(temporary)} {shlex.quote(path)}"
        )
        status, stdout, stderr = await self._execute(
            posix_command_line(script), f"write {path}", data, None, STDERR_TAIL
        )
        if status != 0:
            raise CommandFailed(
                f"writing {path} failed: {_said(stdout, stderr)}",
                host=self.host,
                next_step="is the folder writable and the disk not full?",
            )

    async def get(self, path: str) -> bytes:
        status, stdout, stderr = await self._execute(
            posix_command_line(f"cat -- {shlex.quote(path)}"), f"read {path}", b"", None, None
        )
        if status != 0:
            raise CommandFailed(f"reading {path} failed: {_said(b'', stderr)}", host=self.host)
        return stdout

    async def open_unix(self, path: str) -> ByteStream:
        if not (self._forwarding_off or path.startswith(NAMED_PIPE)):
            try:
                reader, writer = await self.login.connection.open_unix_connection(path)
            except (asyncssh.Error, OSError) as error:
                await self._explain_refusal(path, error)
            else:
                return ChannelStream(self.login, reader, writer, path)
        return await self._dial_stdio(path)

    @asynccontextmanager
    async def forward_unix(self, path: str) -> AsyncIterator[Path]:
        """Listen on a local socket in a folder only this user can enter, and carry each connection to the host.

        Raises:
            ConnectionDropped: the connection was lost.
            EngineError: the socket is missing, forbidden, or cannot be reached.
        """
        # One connection up front: a listener alone says nothing about the socket at the far end.
        await (await self.open_unix(path)).close()
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hetero-"))
            holds_sessions = self._forwarding_off or path.startswith(NAMED_PIPE)
            local = Path(folder) / (SESSION_SOCKET if holds_sessions else "engine.sock")
            if holds_sessions:
                await stack.enter_async_context(_relay(self, path, local))
            else:
                try:
                    listener = await self.login.connection.forward_local_path(str(local), path)
                except (asyncssh.Error, OSError) as error:
                    raise EngineError(f"cannot listen on {local}: {error}", host=self.host) from error
                stack.callback(listener.close)
            local.chmod(0o600)
            yield local

    def serve_reverse(self, handler: StreamHandler, *, port: int = 0) -> AbstractAsyncContextManager[int]:
        return serve_reverse(self.login, handler, port)

    async def close(self) -> None:
        await self.login.close()
        await self._own_jumps.close()

    async def _execute(
        self, command_line: str, shown: str, data: bytes, timeout: float | None, limit: int | None
    ) -> tuple[int, bytes, bytes]:
        try:
            async with asyncio.timeout(timeout), self._sessions:
                running = await Command.start(self.login, command_line, shown)
                try:
                    stdout, _, _ = await asyncio.gather(
                        running.collect(limit), running.collect_stderr(STDERR_KEPT), running.feed(data)
                    )
                    return await running.status(), stdout, running.stderr
                finally:
                    await running.end("KILL")
        except TimeoutError as error:
            message = f"{self.host}: `{shown[:200]}` did not end within {timeout:g} s"
            raise TimeoutError(message) from error

    async def _explain_refusal(self, path: str, error: Exception) -> None:
        """Find out why a socket could not be opened. Returns only when the host forwards no sockets at all."""
        if not self.is_connected:
            raise self.login.dropped(f"connecting to {path}") from error
        probe = await self.run(f"exec /bin/sh -s -- {shlex.quote(path)}", input=_SOCKET_PROBE.encode())
        answer = probe.stdout.split()

        def refusal(message: str, next_step: str) -> EngineError:
            return EngineError(message, host=self.host, next_step=next_step)

        match answer:
            case ["missing", *_]:
                raise refusal(
                    f"there is no socket {path}", "is Docker installed and running? Try: docker info"
                ) from error
            case ["no-socket", *_]:
                raise refusal(f"{path} is not a socket", "correct docker_socket in cluster.toml") from error
            case ["denied", *user]:
                name = user[0] if user else "this user"
                raise refusal(
                    f"{name} may not use {path}",
                    f"on the host run: sudo usermod -aG docker {shlex.quote(name)}, then connect again "
                    "(members of the group docker can become root)",
                ) from error
            case ["refused", *_]:
                raise refusal(f"nothing answers on {path}", "start the engine: sudo systemctl start docker") from error
            case ["reachable", *_]:
                self._forwarding_off = True
            case _:
                raise refusal(
                    f"cannot connect to {path} ({error}), and the host could not say why: {probe.stderr.strip()[:200]}",
                    "the host needs a POSIX shell and AllowStreamLocalForwarding in its sshd_config",
                ) from error

    async def _dial_stdio(self, path: str) -> ByteStream:
        await self._sessions.acquire()
        try:
            running = await Command.start(self.login, dial_stdio_command(path), "docker system dial-stdio")
            return DialStdio(running, path, self._sessions.release)
        except BaseException:
            self._sessions.release()
            raise


@dataclass(slots=True)
class ChannelStream:
    """A ``ByteStream`` over one ``direct-streamlocal`` channel."""

    login: Login
    reader: asyncssh.SSHReader[bytes]
    writer: asyncssh.SSHWriter[bytes]
    path: str
    _closed: bool = False

    async def read(self, limit: int) -> bytes:
        try:
            data = await self.reader.read(limit)
        except (asyncssh.Error, OSError) as error:
            raise self.login.dropped(f"reading from {self.path}") from error
        if not data and not self._closed and self.login.connection.is_closed():
            raise self.login.dropped(f"reading from {self.path}")
        return data

    async def write(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (asyncssh.Error, OSError) as error:
            raise self.login.dropped(f"writing to {self.path}") from error

    async def close(self) -> None:
        self._closed = True
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def _relay(runner: SshRunner, path: str, local: Path) -> AsyncIterator[None]:
    """Carry connections to a local socket through ``open_unix``, for hosts where sshd forwards no sockets."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await runner.open_unix(path)

        async def outwards() -> None:
            while data := await reader.read(CHUNK):
                await far.write(data)

        async def inwards() -> None:
            while data := await far.read(CHUNK):
                writer.write(data)
                await writer.drain()

        ways = (asyncio.create_task(outwards()), asyncio.create_task(inwards()))
        try:
            # The HTTP clients here never half-close: an end that closes ends both, and frees the session over there.
            finished, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in finished:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await far.close()
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await carry(reader, writer)
        except (EngineError, CommandFailed, ConnectionError, asyncio.CancelledError):
            writer.close()  # the client at this end sees the connection close, as it would with the engine itself
        finally:
            tasks.discard(task)

    server = await asyncio.start_unix_server(accept, str(local))
    try:
        yield
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _completed(host: str, command: str, status: int, stdout: bytes, stderr: bytes) -> Completed:
    return Completed(host, command, status, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def _said(stdout: bytes, stderr: bytes) -> str:
    text = (stderr.strip() or stdout.strip() or b"nothing").decode("utf-8", "replace")
    return text.splitlines()[-1][:400]

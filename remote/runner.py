"""The seam between this program and a machine: run a command, move bytes, reach a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from remote.errors import CommandFailed

SESSION_SOCKET: Final = "session.sock"
"""Name of a forwarded socket where every connection holds one of the ten sessions that sshd allows."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended."""

    host: str
    command: str
    exit_status: int
    stdout: str
    stderr: str

    def check(self) -> Completed:
        """Return self, or raise.

        Raises:
            CommandFailed: the command did not exit with 0.
        """
        if self.exit_status == 0:
            return self
        said = (self.stderr.strip() or self.stdout.strip() or "nothing").splitlines()[-1][:400]
        raise CommandFailed(f"`{self.command[:200]}` exited {self.exit_status} and said: {said}", host=self.host)


class ByteStream(Protocol):
    """One open connection to a socket on the host."""

    async def read(self, limit: int) -> bytes:
        """Return up to ``limit`` bytes, or ``b""`` at the end.

        Raises:
            ConnectionDropped: the connection to the host was lost.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, waiting while the peer is slow."""
        ...

    async def close(self) -> None:
        """Close the connection; harmless when already closed."""
        ...


StreamHandler = Callable[[ByteStream], Awaitable[None]]
"""Answers one connection to its end; the stream is closed afterwards."""


class Runner(Protocol):
    """One machine. Implemented by ``remote.ssh.SshRunner`` and ``remote.local.LocalRunner``.

    Commands are POSIX-sh command lines. Data never becomes part of a command without ``shlex.quote``.
    """

    @property
    def host(self) -> str:
        """Name of the host in the inventory."""
        ...

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        """Run a command to its end. Output is decoded as UTF-8 with replacement characters.

        Raises:
            ConnectionDropped: the connection was lost meanwhile.
            TimeoutError: the command did not end within ``timeout`` seconds.
        """
        ...

    def stream(self, command: str) -> AsyncIterator[bytes]:
        """Run a command and yield its standard output in chunks as they come; closing the iterator ends it.

        Raises:
            ConnectionDropped: the connection was lost meanwhile.
            CommandFailed: the command ended with a status other than 0.
        """
        ...

    async def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write a file on the host atomically, making its folder. ``path`` is absolute."""
        ...

    async def get(self, path: str) -> bytes:
        """Read a file of the host.

        Raises:
            CommandFailed: there is no such file or it cannot be read.
        """
        ...

    async def open_unix(self, path: str) -> ByteStream:
        """Connect to a unix socket on the host.

        Raises:
            ConnectionDropped: the connection was lost.
            EngineError: the socket is missing, forbidden, or forwarding is off.
        """
        ...

    def forward_unix(self, path: str) -> AbstractAsyncContextManager[Path]:
        """Make a unix socket of the host reachable at a local path (in a folder only this user can enter)."""
        ...

    def serve_reverse(self, handler: StreamHandler, *, port: int = 0) -> AbstractAsyncContextManager[int]:
        """Listen on the host's own loopback and hand each connection made there to ``handler`` here.

        Args:
            handler: answers one connection.
            port: port on the host; any free one when 0. What is yielded is the one that was taken.

        Raises:
            ConnectionDropped: the connection was lost.
            ForwardingRefused: the SSH server forwards no ports, or the port is taken.
        """
        ...

    async def close(self) -> None:
        """End the connection and everything on it."""
        ...


@dataclass(slots=True)
class StreamPair:
    """A ``ByteStream`` over a pair of asyncio streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, limit: int) -> bytes:
        return await self.reader.read(limit)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            return  # the peer closed first: the goal is reached

"""A listener on a host's loopback whose connections are answered here: SSH's remote forwarding without a port here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

from remote.errors import ForwardingRefused, RemoteError
from remote.runner import StreamHandler
from remote.ssh_login import WINDOW, Login

LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class _AcceptedStream:
    """A ``ByteStream`` over one ``forwarded-tcpip`` channel."""

    login: Login
    reader: asyncssh.SSHReader[bytes]
    writer: asyncssh.SSHWriter[bytes]

    async def read(self, limit: int) -> bytes:
        try:
            return await self.reader.read(limit)
        except (asyncssh.Error, OSError) as error:
            raise self.login.dropped("answering a connection made on the host") from error

    async def write(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (asyncssh.Error, OSError) as error:
            raise self.login.dropped("answering a connection made on the host") from error

    async def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serve_reverse(login: Login, handler: StreamHandler, port: int) -> AsyncIterator[int]:
    """Listen on the host's loopback; ``handler`` is called here with each connection made there.

    Yields:
        The port on the host.

    Raises:
        ConnectionDropped: the connection was lost.
        ForwardingRefused: sshd forwards no ports, or the port is taken.
    """

    async def accept(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        stream = _AcceptedStream(login, reader, writer)
        try:
            await handler(stream)
        except (RemoteError, OSError):
            return  # the other end, or the way to it, is gone: it sees that itself
        finally:
            await stream.close()

    try:
        listener = await login.connection.start_server(
            lambda _host, _port: accept, LOOPBACK, port, encoding=None, window=WINDOW
        )
    except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:  # the second is no asyncssh.Error
        if login.connection.is_closed():
            raise login.dropped("asking for a port to be forwarded back") from error
        raise ForwardingRefused(
            f"sshd does not listen for us on {LOOPBACK}:{port or 'any port'} ({error})",
            host=login.target.label,
            next_step="AllowTcpForwarding yes or remote in the host's sshd_config lets an interrupted transfer go on "
            "where it stopped",
        ) from error
    try:
        yield listener.get_port()
    finally:
        listener.close()

"""The Docker Engine through ``docker system dial-stdio``, where SSH cannot forward its socket.

That is ``AllowStreamLocalForwarding no``, and Windows, whose SSH server forwards no named pipes
(PowerShell/Win32-OpenSSH issue 435). Each connection costs one of the ten sessions sshd allows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import asyncssh

from remote.errors import EngineError
from remote.ssh_login import Login

EXTRA_PATH = "/usr/local/bin:/opt/homebrew/bin:/snap/bin:$HOME/.docker/bin:$HOME/.rd/bin:$HOME/.orbstack/bin"
"""Where the docker CLI may be though a non-interactive SSH session's PATH lacks it (macOS: /usr/bin:/bin only)."""


def dial_stdio_command(path: str) -> str:
    """Return the POSIX-sh command that connects its standard input and output to the engine on this socket."""
    return f'PATH="$PATH:{EXTRA_PATH}" exec docker -H unix://{shlex.quote(path)} system dial-stdio'


@dataclass(slots=True)
class DialStdio:
    """A ``ByteStream`` over the standard input and output of one ``docker system dial-stdio``."""

    login: Login
    process: asyncssh.SSHClientProcess[bytes]
    _release: Callable[[], None]
    _received: bool = False
    _closed: bool = field(default=False)

    async def read(self, limit: int) -> bytes:
        try:
            data = await self.process.stdout.read(limit)
        except (asyncssh.Error, OSError) as error:
            raise self.login.dropped("reading from the Docker Engine") from error
        if data:
            self._received = True
            return data
        if self._closed:
            return b""
        if self.login.connection.is_closed():
            raise self.login.dropped("reading from the Docker Engine")
        if not self._received:
            said = (await self.process.stderr.read()).decode("utf-8", "replace").strip()
            raise EngineError(
                f"sshd forwards no sockets, and `docker system dial-stdio` failed too: {said[-400:] or 'no message'}",
                host=self.login.target.label,
                next_step="set AllowStreamLocalForwarding yes in the host's sshd_config, or install the docker CLI",
            )
        return b""

    async def write(self, data: bytes) -> None:
        try:
            self.process.stdin.write(data)
            await self.process.stdin.drain()
        except (asyncssh.Error, OSError) as error:
            if self.login.connection.is_closed():
                raise self.login.dropped("writing to the Docker Engine") from error
            if not self._received:
                await self.read(1)  # the command has ended: its own words are the better error
            raise EngineError("the Docker Engine closed the connection", host=self.login.target.label) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(OSError):
                self.process.terminate()
            self.process.close()
            await self.process.wait_closed()
        finally:
            self._release()

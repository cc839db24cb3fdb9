"""The Docker Engine through ``docker system dial-stdio``, where SSH cannot forward its socket.

That is ``AllowStreamLocalForwarding no``, and Windows, whose SSH server forwards no named pipes
(PowerShell/Win32-OpenSSH issue 435). Each connection costs one of the ten sessions sshd allows.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable

import asyncssh

from remote.errors import EngineError
from remote.shells import NAMED_PIPE
from remote.ssh_command import STDERR_TAIL, Command, posix_command_line

EXTRA_PATH = "/usr/local/bin:/opt/homebrew/bin:/snap/bin:$HOME/.docker/bin:$HOME/.rd/bin:$HOME/.orbstack/bin"
"""Where the docker CLI may be though a non-interactive SSH session's PATH lacks it (macOS: /usr/bin:/bin only)."""

_PLAIN_PIPE = re.compile(r"npipe:////\./pipe/[A-Za-z0-9_.-]+")


def dial_stdio_command(path: str) -> str:
    """Return the command line that connects its standard input and output to the engine at this address.

    For a socket it is one for a POSIX sh behind any login shell. A named pipe (``npipe:////./pipe/docker_engine``) is
    on Windows, where cmd and PowerShell take the same words the same way.

    Raises:
        EngineError: the address of the named pipe has a character that one of those shells would act on.
    """
    if not path.startswith(NAMED_PIPE):
        return posix_command_line(
            f'PATH="$PATH:{EXTRA_PATH}" exec docker -H unix://{shlex.quote(path)} system dial-stdio'
        )
    if not _PLAIN_PIPE.fullmatch(path):
        raise EngineError(
            f"{path!r} is no address of a named pipe", next_step=r"such an address is npipe:////./pipe/docker_engine"
        )
    return f"docker -H {path} system dial-stdio"


class DialStdio:
    """A ``ByteStream`` over the standard input and output of one ``docker system dial-stdio``."""

    def __init__(self, command: Command, path: str, release: Callable[[], None]) -> None:
        """Take over a started command; ``release`` is called once it has ended."""
        if path.startswith(NAMED_PIPE):
            self._why = "the SSH server of Windows forwards no named pipes"
            self._next_step = "start Docker Desktop on the host: somebody must be logged in there"
        else:
            self._why = "sshd forwards no sockets"
            self._next_step = "set AllowStreamLocalForwarding yes in the host's sshd_config, or install the docker CLI"
        self._command = command
        self._release = release
        self._errors = asyncio.create_task(command.collect_stderr(STDERR_TAIL))
        self._received = False
        self._closed = False

    async def read(self, limit: int) -> bytes:
        data = await self._command.read(limit)
        if data:
            self._received = True
            return data
        if self._closed:
            return b""
        if self._command.login.connection.is_closed():
            raise self._command.dropped()
        if not self._received:
            await self._errors
            said = self._command.stderr.decode("utf-8", "replace").strip()
            raise EngineError(
                f"{self._why}, and `docker system dial-stdio` failed too: {said[-400:] or 'no message'}",
                host=self._command.login.target.label,
                next_step=self._next_step,
            )
        return b""

    async def write(self, data: bytes) -> None:
        try:
            self._command.process.stdin.write(data)
            await self._command.process.stdin.drain()
        except (asyncssh.Error, OSError) as error:
            if self._command.login.connection.is_closed():
                raise self._command.dropped() from error
            if not self._received:
                await self.read(1)  # the command has ended: its own words are the better error
            raise EngineError(
                "the Docker Engine closed the connection", host=self._command.login.target.label
            ) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._command.end("TERM")
        finally:
            self._errors.cancel()
            self._release()

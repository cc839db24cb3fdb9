"""One command on one SSH channel: started so that it can be ended, whatever the server does about signals."""

from __future__ import annotations

import asyncio
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field

import asyncssh

from remote.errors import CommandFailed, ConnectionDropped
from remote.ssh_login import Login

CHUNK = 64 * 1024
STDERR_TAIL = 8 * 1024
SIGNAL_PATIENCE = 0.5
"""Seconds for a signal to end a command before its process group is killed through a session of its own."""
GROUP_PATIENCE = 2.0
"""Seconds for a command that is ended right after its start to tell its process group."""
OPEN_RETRIES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Pauses before asking again for a refused session: sshd counts a session until its main loop has come round after the
closing of the channel, so a new one asked for at once can exceed ``MaxSessions``."""

_PREAMBLE = 'printf "@@hetero-group %s\\n" "$$" >&2; hetero_command=$1; shift; eval "$hetero_command"'
_GROUP = re.compile(rb"^@@hetero-group ([1-9][0-9]{0,9})\r?\n", re.MULTILINE)


def posix_command_line(command: str) -> str:
    """Return what to ask the SSH server for so that ``command`` runs in a POSIX sh.

    The account's login shell may be anything (fish, csh), and it only sees quoted words. The first line on stderr
    tells the process group, which sshd makes for each session.
    """
    return f"exec /bin/sh -c {any_shell_quote(_PREAMBLE)} sh {any_shell_quote(command)}"


def any_shell_quote(text: str) -> str:
    r"""Quote a word so that POSIX shells and fish read the same.

    Between single quotes fish still takes ``\\`` and ``\'`` for escapes, so a backslash goes between double quotes,
    where both read two of them as one. Source: https://fishshell.com/docs/current/language.html#quotes
    """
    return shlex.quote(text).replace("\\", "'\"\\\\\"'")


def inner_command(command_line: str) -> str:
    """Return the command that ``posix_command_line`` was given, or the line itself if it is no such line."""
    prefix = posix_command_line("").removesuffix("''")
    if not command_line.startswith(prefix):
        return command_line
    words = shlex.split(command_line[len(prefix) :])
    return words[0] if len(words) == 1 else command_line


@dataclass(slots=True)
class Command:
    """A running command."""

    login: Login
    process: asyncssh.SSHClientProcess[bytes]
    shown: str
    """The command as messages show it."""
    _stderr: bytearray = field(default_factory=bytearray)
    _group: int | None = None

    @classmethod
    async def start(cls, login: Login, command_line: str, shown: str) -> Command:
        """Open a session and start a command in it.

        Raises:
            ConnectionDropped: the connection is gone.
            CommandFailed: the server opens no session.
        """
        for pause in (*OPEN_RETRIES, None):
            try:
                process = await _opened(login, command_line)
            except (asyncssh.Error, OSError) as error:
                if login.connection.is_closed():
                    raise login.dropped(f"starting `{shown[:80]}`") from error
                if pause is None or not isinstance(error, asyncssh.ChannelOpenError):
                    raise CommandFailed(
                        f"the SSH server opened no session for `{shown[:80]}`: {error}",
                        host=login.target.label,
                        next_step="too many sessions on this connection (MaxSessions), or the account has no shell",
                    ) from error
                await asyncio.sleep(pause)
            else:
                return cls(login, process, shown)
        raise AssertionError("the last attempt returns or raises")

    @property
    def stderr(self) -> bytes:
        """What the command wrote to stderr so far, as far as it was read and kept."""
        return bytes(self._stderr)

    def dropped(self) -> ConnectionDropped:
        """Return the error for a connection that was lost meanwhile."""
        return self.login.dropped(f"`{self.shown[:80]}` ran")

    async def read(self, limit: int = CHUNK) -> bytes:
        """Return the next output, or ``b""`` at its end.

        Raises:
            ConnectionDropped: the connection was lost.
        """
        try:
            return await self.process.stdout.read(limit)
        except (asyncssh.Error, OSError) as error:
            raise self.dropped() from error

    async def collect(self, limit: int | None) -> bytes:
        """Return all output.

        Raises:
            ConnectionDropped: the connection was lost.
            CommandFailed: it was more than ``limit`` bytes.
        """
        collected = bytearray()
        while chunk := await self.read():
            collected += chunk
            if limit is not None and len(collected) > limit:
                raise CommandFailed(
                    f"`{self.shown[:200]}` wrote more than {limit} bytes and was stopped", host=self.login.target.label
                )
        return bytes(collected)

    async def collect_stderr(self, keep: int) -> None:
        """Read stderr to its end, so that the command never blocks on it, and keep the last ``keep`` bytes."""
        with suppress(asyncssh.Error, OSError):  # standard output meets the same loss and reports it
            while chunk := await self.process.stderr.read(CHUNK):
                self._stderr += chunk
                self._find_group()
                del self._stderr[:-keep]

    async def feed(self, data: bytes) -> None:
        """Send all of ``data`` and then the end of the input."""
        # A command may end without reading its input; its exit status tells more than the broken pipe.
        with suppress(OSError, asyncssh.Error):
            view = memoryview(data)
            for start in range(0, len(view), CHUNK):
                self.process.stdin.write(bytes(view[start : start + CHUNK]))
                await self.process.stdin.drain()
            self.process.stdin.write_eof()

    async def status(self) -> int:
        """Wait for the exit status; 128 + N for a command that died of signal N.

        Raises:
            ConnectionDropped: the connection was lost before the status came.
        """
        await self.process.wait_closed()
        if self.process.exit_status is not None and self.process.exit_status >= 0:
            return self.process.exit_status
        if self.process.exit_signal is not None:
            return 128 + abs(self.process.returncode or 0)
        raise self.dropped()

    async def end(self, signal: str) -> None:
        """Close the channel, and end the command if it still runs. Being cancelled meanwhile does not stop that.

        sshd lets a command live on when its channel is closed, and confirms the closing only when it has ended. It
        forwards signals, but not for root ("session signalling requires privilege separation") and not before
        OpenSSH 7.9: there the command's process group is killed from a second session.
        """
        await self.login.see_to(self._end(signal))

    async def _end(self, signal: str) -> None:
        running = self.process.returncode is None
        if running:
            await self._learn_group()
            with suppress(OSError):
                self.process.send_signal(signal)
        self.process.close()
        if not running or await self._closes_within(SIGNAL_PATIENCE) or self._group is None:
            return
        for each in (signal, "KILL"):
            try:
                # One at a time: the sessions being ended still count for MaxSessions.
                async with self.login.spare_session:
                    await self.login.connection.run(f"exec /bin/sh -c 'kill -{each} -{self._group}'", timeout=5)
            except (asyncssh.Error, OSError, TimeoutError):
                return  # the connection is gone or busy, and nothing is left to try
            if await self._closes_within(SIGNAL_PATIENCE):
                return

    async def _learn_group(self) -> None:
        """Read stderr until the process group is told: a command that is ended at once has not told it yet."""
        with suppress(asyncssh.Error, OSError, TimeoutError):
            async with asyncio.timeout(GROUP_PATIENCE):
                while self._group is None and (chunk := await self.process.stderr.read(CHUNK)):
                    self._stderr += chunk
                    self._find_group()

    async def _closes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait_closed()
        except TimeoutError:
            return False
        return True

    def _find_group(self) -> None:
        if self._group is None and (found := _GROUP.search(self._stderr)):
            self._group = int(found[1])
            del self._stderr[found.start() : found.end()]


async def _opened(login: Login, command_line: str) -> asyncssh.SSHClientProcess[bytes]:
    """Open a session. If this is cancelled meanwhile, the command, which may have begun by then, is ended."""

    async def open_session() -> asyncssh.SSHClientProcess[bytes]:
        process: asyncssh.SSHClientProcess[bytes] = await login.connection.create_process(command_line, encoding=None)
        return process

    opening = asyncio.create_task(open_session())
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await login.see_to(_end_opened(login, opening))
        raise


async def _end_opened(login: Login, opening: asyncio.Task[asyncssh.SSHClientProcess[bytes]]) -> None:
    try:
        process = await opening
    except (asyncssh.Error, OSError):
        return  # nothing was begun
    await Command(login, process, "")._end("KILL")

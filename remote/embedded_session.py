"""Commands on an embedded SSH host: one channel, one process, and what sshd does between them.

As with sshd a command outlives its channel: the pipes close, nobody sends a signal. What moved to a session of its
own (``setsid``) also outlives the host; everything else ends with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import asyncssh

from remote.ssh_command import inner_command

_STDIN, _STDOUT, _STDERR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a scripted host says to a command."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_status: int = 0
    drop: bool = False
    """Cut the connection after the output, without an exit status."""
    hold: bool = False
    """Keep the command running after the output until the client ends it."""


Respond = Callable[[str, bytes], Answer | None]
"""(command as given to the ``Runner``, its whole standard input) → an answer, or None to run the command."""


@dataclass(slots=True)
class Commands:
    """Everything that was started on one host."""

    home: Path
    env: Mapping[str, str]
    respond: Respond | None = None
    login_shell: tuple[str, ...] = ("/bin/sh",)
    live: str = ""
    environments: list[dict[str, str]] = field(default_factory=list)
    """Variables the client of each command asked to set; a client that means well sends none."""
    _groups: dict[int, _Process] = field(default_factory=dict)
    _starting: set[asyncio.Task[None]] = field(default_factory=set)

    def environment(self) -> dict[str, str]:
        """Return what a command sees: nothing of this process but PATH."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ.get("PATH", os.defpath),
            "USER": "demo",
            "LOGNAME": "demo",
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            **self.env,
        }

    def start(self, session: CommandSession, command: str) -> None:
        """Start a command for a session."""
        task = asyncio.create_task(self._start(session, command))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, session: CommandSession, command: str) -> None:
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: _Process(session, self),
                *self.login_shell,
                "-c",
                command,
                cwd=self.home,
                env=self.environment(),
                start_new_session=True,
            )
        except OSError as error:
            session.finish(f"cannot start {self.login_shell[0]}: {error}\n".encode(), 127)

    def started(self, pid: int, process: _Process) -> None:
        """Remember a command; its process id is that of its group, too."""
        self._groups[pid] = process

    def ended(self, pid: int) -> None:
        """Forget a command, unless others of its process group still run."""
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            self._groups.pop(pid, None)

    async def end(self) -> None:
        """Kill every process group and wait until each command is gone."""
        await asyncio.gather(*self._starting)
        groups, self._groups = self._groups, {}
        for pid, process in groups.items():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            await process.gone.wait()


class CommandSession(asyncssh.SSHServerSession[bytes]):
    """The channel side."""

    def __init__(self, commands: Commands, ended: Callable[[], None]) -> None:
        self._commands = commands
        self._ended = ended
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._command = ""
        self._process: _Process | None = None
        self._input = bytearray()
        self._input_ended = False
        self._answered = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def session_started(self) -> None:
        assert self._channel is not None
        self._commands.environments.append(dict(self._channel.get_environment()))
        is_live = bool(self._commands.live) and inner_command(self._command).startswith(self._commands.live)
        if self._commands.respond is None or is_live:
            self._answered = True
            self._commands.start(self, self._command)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002
        if self._process is not None:
            self._process.feed(data)
        else:
            self._input += data

    def eof_received(self) -> bool:
        self._input_ended = True
        if self._process is not None:
            self._process.end_input()
        elif self._commands.respond is not None and not self._answered:
            self._answered = True
            self._play(self._commands.respond(inner_command(self._command), bytes(self._input)))
        return True

    def signal_received(self, signal: str) -> None:
        if self._process is not None:
            self._process.signal(signal)
        elif self._answered:
            self.finish(b"", 128)

    def pause_writing(self) -> None:
        if self._process is not None:
            self._process.pause_output()

    def resume_writing(self) -> None:
        if self._process is not None:
            self._process.resume_output()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._channel = None
        if self._process is not None:
            self._process.hang_up()
        self._ended()

    def attach(self, process: _Process) -> None:
        """Connect the command that was started for this session."""
        self._process = process
        if self._channel is None:
            process.hang_up()
            return
        process.feed(bytes(self._input))
        self._input.clear()
        if self._input_ended:
            process.end_input()

    def output(self, fd: int, data: bytes) -> None:
        """Carry output of the command to the client."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data, asyncssh.EXTENDED_DATA_STDERR if fd == _STDERR else None)

    def pause_input(self) -> None:
        """Ask the client to wait while the command does not read."""
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_input(self) -> None:
        """Let the client send again."""
        if self._channel is not None:
            self._channel.resume_reading()

    def finish(self, stderr: bytes, status: int) -> None:
        """End the channel with this exit status; a negative one is the signal that killed the command."""
        if self._channel is None or self._channel.is_closing():
            return
        self.output(_STDERR, stderr)
        if status < 0:
            self._channel.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            self._channel.exit(status)

    def _play(self, answer: Answer | None) -> None:
        if answer is None:
            self._commands.start(self, self._command)
            return
        self.output(_STDOUT, answer.stdout)
        self.output(_STDERR, answer.stderr)
        if answer.hold:
            return
        if not answer.drop:
            self.finish(b"", answer.exit_status)
            return
        assert self._channel is not None
        # Closing the connection in a later turn lets the transport hand over the output first.
        asyncio.get_running_loop().call_later(0.01, self._channel.get_connection().abort)


class _Process(asyncio.SubprocessProtocol):
    """The process side."""

    def __init__(self, session: CommandSession, commands: Commands) -> None:
        self._session = session
        self._commands = commands
        self._transport: asyncio.SubprocessTransport | None = None
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._commands.started(self._transport.get_pid(), self)
        self._session.attach(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._session.output(fd, data)

    def process_exited(self) -> None:
        assert self._transport is not None
        self.gone.set()
        self._commands.ended(self._transport.get_pid())
        self.end_input()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The command is gone and its output is at an end: what sshd waits for, too."""
        assert self._transport is not None
        self._transport.close()
        self._session.finish(b"", self._transport.get_returncode() or 0)

    def pause_writing(self) -> None:
        self._session.pause_input()

    def resume_writing(self) -> None:
        # In a turn of its own: asyncio's pipe must not be closed from within this callback, and the end of the
        # client's input, held back until now, closes it.
        asyncio.get_running_loop().call_soon(self._session.resume_input)

    def feed(self, data: bytes) -> None:
        """Give the command input."""
        pipe = self._pipe(_STDIN)
        if data and pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(data)

    def end_input(self) -> None:
        """Close the command's standard input behind what was fed."""
        pipe = self._pipe(_STDIN)
        if pipe is not None and not pipe.is_closing():
            pipe.close()

    def pause_output(self) -> None:
        """Stop reading the command's output."""
        for fd in (_STDOUT, _STDERR):
            pipe = self._pipe(fd)
            if pipe is not None and not pipe.is_closing():
                cast("asyncio.ReadTransport", pipe).pause_reading()

    def resume_output(self) -> None:
        """Read the command's output again."""
        for fd in (_STDOUT, _STDERR):
            pipe = self._pipe(fd)
            if pipe is not None and not pipe.is_closing():
                cast("asyncio.ReadTransport", pipe).resume_reading()

    def hang_up(self) -> None:
        """Close all pipes, as sshd does when the channel is gone; the command itself gets no signal."""
        for fd in (_STDIN, _STDOUT, _STDERR):
            pipe = self._pipe(fd)
            if pipe is not None:
                pipe.close()

    def signal(self, name: str) -> None:
        """Send a signal to the command's process group."""
        assert self._transport is not None
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals) and not self.gone.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), number)

    def _pipe(self, fd: int) -> asyncio.BaseTransport | None:
        assert self._transport is not None
        return self._transport.get_pipe_transport(fd)

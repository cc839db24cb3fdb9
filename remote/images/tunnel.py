"""The registry on a host's loopback, kept there for as long as a pull takes, through lost connections."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from remote.errors import CommandFailed, ConnectError, ConnectionDropped, ForwardingRefused
from remote.images.places import Places
from remote.runner import Runner, StreamHandler
from remote.ssh import SshRunner

PATIENCE_SECONDS: Final = 90.0
"""How long a lost host may stay away. The engine itself gives a layer up after five attempts, about a minute."""
RETRY_SECONDS: Final = 1.0

# The server process of this connection, whose loss leaves the forwarded port behind it.
_WHO: Final = 'ps -o comm= -p "$PPID" && echo "$PPID"'
_END: Final = 'case "$(ps -o comm= -p %d)" in sshd*) kill %d ;; esac'


@dataclass(slots=True)
class Tunnel:
    """Use it as a context manager; ``port`` is where the engine finds the registry."""

    places: Places
    host: str
    answer: StreamHandler
    """Answers each connection that the engine makes to ``port``."""
    port: int = 0
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _runner: Runner | None = None
    _server: int = 0
    """Process id of the SSH server process that held the port last."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_up())
        try:
            await self.connected()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectError, ConnectionDropped, ForwardingRefused):
            await self._task

    async def connected(self) -> Runner:
        """Return the connection once the registry answers on its far side.

        Raises:
            ConnectError: the host did not come back in time.
            ForwardingRefused: its SSH server forwards no ports.
        """
        assert self._task is not None
        waiting = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()
        assert self._runner is not None
        return self._runner

    async def _keep_up(self) -> None:
        """Serve until cancelled; connect again and take the same port when the connection is lost."""
        patient_until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                runner = await self.places.connected(self.host)
                await self._serve(runner)
                patient_until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
            except ForwardingRefused:
                if not self._server or asyncio.get_running_loop().time() > patient_until:
                    raise
                await self._end_old_server()
            except (ConnectError, ConnectionDropped):
                if asyncio.get_running_loop().time() > patient_until:
                    raise
            finally:
                self._up.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, runner: Runner) -> None:
        async with runner.serve_reverse(self.answer, port=self.port) as port:
            self.port, self._runner = port, runner
            if not isinstance(runner, SshRunner):
                self._up.set()
                await asyncio.Event().wait()
                return
            asked = await runner.run(_WHO)
            name, _, number = asked.stdout.strip().partition("\n")
            self._server = int(number) if "sshd" in name and number.isdecimal() else -1
            self._up.set()
            await runner.wait_closed()

    async def _end_old_server(self) -> None:
        """End the server process of the lost connection: it holds the port until it notices the loss itself."""
        if self._server <= 0:
            return
        with contextlib.suppress(ConnectionDropped, CommandFailed, ConnectError):
            runner = await self.places.connected(self.host)
            await runner.run(_END % (self._server, self._server))

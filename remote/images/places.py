"""Where images are read from and brought to: the hosts of a session, and this machine's own engine."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from remote.engine import DEFAULT_SOCKET, Engine
from remote.errors import EngineError, RemoteError
from remote.images.model import THIS_MACHINE
from remote.local import LocalRunner
from remote.runner import Runner


class Places(Protocol):
    """What bringing images needs of the hosts; ``remote.hosts.Hosts`` is one."""

    async def connected(self, name: str) -> Runner:
        """The host's connection, made again if it was lost.

        Raises:
            ConnectError: there is none, and why.
        """
        ...

    async def engine(self, name: str) -> Engine:
        """The host's engine, over a live connection.

        Raises:
            EngineError: there is no usable engine.
            ConnectError: the host cannot be reached.
        """
        ...


@dataclass(slots=True)
class WithThisMachine:
    """Hosts, and under ``THIS_MACHINE`` the engine here. Close it to let go of the latter."""

    hosts: Places
    _here: Engine | None = field(default=None)

    async def connected(self, name: str) -> Runner:
        return LocalRunner(THIS_MACHINE) if name == THIS_MACHINE else await self.hosts.connected(name)

    async def engine(self, name: str) -> Engine:
        if name != THIS_MACHINE:
            return await self.hosts.engine(name)
        if self._here is None:
            self._here = await Engine.open(LocalRunner(THIS_MACHINE), _local_socket())
        return self._here

    async def has_engine_here(self) -> bool:
        """Whether this machine has an engine that may be used."""
        try:
            await self.engine(THIS_MACHINE)
        except EngineError:
            return False
        return True

    async def close(self) -> None:
        """End the connection to the engine here."""
        if self._here is not None:
            with suppress(RemoteError, OSError):
                await self._here.close()
            self._here = None


def _local_socket() -> str:
    """Return the socket the docker client of this machine would use, as far as it is one."""
    named = os.environ.get("DOCKER_HOST", "")
    if named.startswith("unix://"):
        return named.removeprefix("unix://")
    own = Path.home() / ".docker/run/docker.sock"
    return str(own) if not Path(DEFAULT_SOCKET).exists() and own.exists() else DEFAULT_SOCKET

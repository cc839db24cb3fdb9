"""All hosts of an inventory with their one connection each, the engine behind it and the runtime on top of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.errors import ConnectError, EngineError, HostKeyUnknown, RemoteError
from remote.facts import Facts, gather_facts
from remote.inventory import Host, Inventory
from remote.inventory_rules import is_ip_address
from remote.known_hosts import KnownHosts, accept_host_key
from remote.local import LocalRunner
from remote.process_runtime import ProcessRuntime
from remote.progress import ConfirmHostKey, HostStatus
from remote.runner import Runner
from remote.runtime import HostRunState, HostRuntime
from remote.ssh import SshRunner, connect
from remote.ssh_login import JumpConnections
from remote.stragglers import gather_soon

_T = TypeVar("_T")

LOOPBACK: Final = "127.0.0.1"
CONTACT_SECONDS: Final = 12.0
"""To reach a host and what runs things there, when no host answers sooner."""
JUST_SECONDS: Final = 10.0
"""A host that could not be reached so recently is not asked again by the same command."""
CLOSE_SECONDS: Final = 3.0
"""A connection whose other end is silent is dropped after so long."""


@dataclass(slots=True)
class _Link:
    host: Host
    status: HostStatus
    runner: Runner | None = None
    engine: Engine | None = None
    runtime: HostRuntime | None = None
    facts: Facts | None = None
    error: ConnectError | None = None
    failed_at: float = -math.inf
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    def failed(self, error: ConnectError) -> None:
        self.error, self.failed_at = error, time.monotonic()
        self.status = HostStatus(self.host.name, "failed", error.message)


class Hosts:
    """Connections are made once, shared by everything, and made again when they were lost."""

    def __init__(self, inventory: Inventory, *, known_hosts: KnownHosts | None = None) -> None:
        """``known_hosts`` names the files that vouch for host keys; OpenSSH's usual ones when left out."""
        self.inventory = inventory
        self._known_hosts = known_hosts or KnownHosts()
        self._jumps = JumpConnections(self._known_hosts, 10.0, None)
        self._asking = asyncio.Lock()
        self._links = {host.name: _Link(host, HostStatus(host.name, "waiting")) for host in inventory.hosts}

    @property
    def statuses(self) -> Mapping[str, HostStatus]:
        """How this program stands with each host."""
        for link in self._links.values():
            if link.status.phase == "connected" and isinstance(link.runner, SshRunner) and not link.runner.is_connected:
                link.status = HostStatus(link.host.name, "lost", "the connection was lost")
        return {name: link.status for name, link in self._links.items()}

    async def connect(self, confirm: ConfirmHostKey, *, patience: float = math.inf) -> None:
        """Connect to every host in parallel. A host that fails keeps its reason in ``statuses``.

        Args:
            confirm: is asked, one host at a time, whether an unknown host key may be trusted from now on.
            patience: seconds that the other hosts get once one is connected.
        """
        logins = {name: self.connected(name, confirm) for name in self._links}
        _, errors = await gather_soon(logins, patience=patience, is_held_up=self._asking.locked)
        for error in errors.values():
            # A host's own reason is kept in the link's status and error, where the checklist reads it.
            if not isinstance(error, (ConnectError, TimeoutError)):
                raise error

    async def ask_all(
        self, ask: Callable[[str], Coroutine[Any, Any, _T]]
    ) -> tuple[dict[str, _T], dict[str, Exception]]:
        """Ask every host the same; those that are silent, or just were, hold up nobody.

        Args:
            ask: takes the name of a host.

        Returns:
            The answers, and why the other hosts gave none.
        """

        async def one(name: str) -> _T:
            if error := self.just_failed(name):
                raise error
            return await ask(name)

        asked = {name: one(name) for name in self._links}
        patience = self.inventory.limits.no_contact_seconds
        answers, errors = await gather_soon(asked, patience=patience, at_most=CONTACT_SECONDS)
        for name, error in errors.items():
            if not isinstance(error, (RemoteError, TimeoutError, OSError)):
                raise error  # a mistake in this program, not on a host
            if isinstance(error, TimeoutError) and self._waits_for_engine(name):
                errors[name] = TimeoutError("it answers, but its Docker Engine does not")
        return answers, errors

    def _waits_for_engine(self, name: str) -> bool:
        """Whether everything else of a host has answered."""
        link = self._links[name]
        is_reached = link.runner is not None and _alive(link.runner) and link.facts is not None
        return is_reached and link.host.runtime == "docker"

    def gave_up(self, name: str, reason: str) -> None:
        """Remember that a connected host did not answer, so that the same command does not wait for it twice."""
        link = self._links[name]
        link.error, link.failed_at = ConnectError(reason, host=name), time.monotonic()

    def just_failed(self, name: str) -> ConnectError | None:
        """Return why a host did not answer a moment ago; None when it is worth another try."""
        link = self._links[name]
        return link.error if time.monotonic() - link.failed_at < JUST_SECONDS else None

    async def connected(self, name: str, confirm: ConfirmHostKey | None = None) -> Runner:
        """Return the host's connection, made again if it was lost.

        Raises:
            ConnectError: there is none, and why.
        """
        link = self._links[name]
        async with link.busy:
            if link.runner is not None and _alive(link.runner):
                return link.runner
            await self._forget_connection(link)
            link.status = HostStatus(name, "connecting")
            try:
                link.runner = await self._open(link.host, confirm)
            except ConnectError as error:
                link.failed(error)
                raise
            except asyncio.CancelledError:
                link.failed(ConnectError("no answer yet when it was given up", host=name))
                raise
            link.error = None
            link.status = HostStatus(name, "connected")
            return link.runner

    async def new_login(self, name: str) -> Runner:
        """Log in to a host again: what a new login changes (groups, limits) holds for new connections only.

        Raises:
            ConnectError: it lets nobody in any more.
        """
        link = self._links[name]
        async with link.busy:
            await self._forget_connection(link)
        return await self.connected(name)

    async def _open(self, host: Host, confirm: ConfirmHostKey | None) -> Runner:
        if host.is_local:
            return LocalRunner(host.name)
        try:
            return await self._log_in(host)
        except HostKeyUnknown as unknown:
            if confirm is None:
                raise
            async with self._asking:
                accepted = await confirm(unknown)
            if not accepted:
                raise
            accept_host_key(unknown, self._known_hosts)
        return await self._log_in(host)

    async def _log_in(self, host: Host) -> Runner:
        runner = await connect(host, known_hosts=self._known_hosts, jump_connections=self._jumps)
        runner.expect_answers_within(self.inventory.limits.no_contact_seconds)
        return runner

    def runner(self, name: str) -> Runner:
        """Return the open connection.

        Raises:
            ConnectError: there is none, and why.
        """
        link = self._links[name]
        if link.runner is not None:
            return link.runner
        raise link.error or ConnectError("not connected yet", host=name)

    async def gather(self, name: str) -> Facts:
        """Read the host's facts afresh.

        Raises:
            RemoteError: the host could not be asked.
        """
        runner = await self.connected(name)
        address = self._master_address()
        facts = await gather_facts(runner, master_address=address, port=self.inventory.cluster.port)
        self._links[name].facts = facts
        return facts

    def _master_address(self) -> str:
        """Return the IP address the routes to the master are looked up with.

        The connections that are open already tell it: the far end of the master's, or, when this machine is the
        master, the near end of a worker's.
        """
        cluster, master = self.inventory.cluster, self.inventory.master
        if cluster.master_address or master.train_address:
            return cluster.master_address or master.train_address
        if master.is_local:
            near = [link.runner.near_address for link in self._links.values() if isinstance(link.runner, SshRunner)]
            return next((address for address in near if address), LOOPBACK)
        runner = self._links[master.name].runner
        if isinstance(runner, SshRunner) and runner.far_address:
            return runner.far_address
        # A master that cannot be reached must not cost every other host its connection timeout.
        return master.ssh_address if is_ip_address(master.ssh_address) else ""

    async def engine(self, name: str) -> Engine:
        """Return the host's Docker Engine.

        Raises:
            EngineError: there is no usable engine.
            ConnectError: the host cannot be reached.
        """
        runner = await self.connected(name)
        link = self._links[name]
        async with link.busy:
            if link.engine is None:
                facts = link.facts
                socket = link.host.docker_socket or (facts.engine_socket if facts else "")
                if not socket and facts is None:
                    raise EngineError("its facts have not been read yet", host=name)
                if not socket:
                    raise EngineError(_no_socket(facts), host=name, next_step=_socket_fix(facts))
                link.engine = await Engine.open(runner, socket)
            return link.engine

    async def runtime(self, name: str) -> HostRuntime:
        """Return what runs this host's part of a plan, over a live connection.

        Raises:
            EngineError: there is no usable engine.
            ConnectError: the host cannot be reached.
        """
        runner = await self.connected(name)
        link = self._links[name]
        if link.runtime is not None:
            return link.runtime
        if link.host.runtime == "process":
            link.runtime = ProcessRuntime(name, runner, link.host.python)
            return link.runtime
        if link.facts is None:
            await self.gather(name)
        link.runtime = DockerRuntime(name, await self.engine(name))
        return link.runtime

    async def runs(self, name: str) -> tuple[HostRunState, ...]:
        """Return what this program started on the host for this cluster and has not removed.

        Raises:
            RemoteError: the host could not be asked.
        """
        return await (await self.runtime(name)).runs(self.inventory.cluster.name)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*map(self._forget_connection, self._links.values()))
        await self._jumps.close()

    async def _forget_connection(self, link: _Link) -> None:
        engine, runner = link.engine, link.runner
        link.engine = link.runtime = link.runner = None
        for each in (engine, runner):
            if each is None:
                continue
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await each.close()
            except (RemoteError, OSError):
                continue  # it was lost or is silent: closing what is gone has nothing left to do


def _alive(runner: Runner) -> bool:
    return not isinstance(runner, SshRunner) or runner.is_connected


def _no_socket(facts: Facts | None) -> str:
    denied = [each.path for each in facts.engine_sockets] if facts else []
    if denied:
        return f"the Docker Engine's socket {denied[0]} is there, but {facts.user if facts else 'you'} may not use it"
    return "no Docker Engine socket was found"


def _socket_fix(facts: Facts | None) -> str:
    if facts and facts.engine_sockets:
        return f"sudo usermod -aG docker {facts.user}, then log in again"
    return 'install and start Docker there, name its socket with docker_socket, or use runtime = "process"'

"""Embedded hosts with a checklist over them."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from remote.checks.context import CheckContext
from remote.checks.model import CheckProgress, CheckResult, Finding, Verdict
from remote.checks.network_report import ProbeTimings
from remote.checks.run import run_checks
from remote.embedded import Answer, EmbeddedCluster, EmbeddedHost, embedded_hosts
from remote.errors import ConnectError, EngineError
from remote.facts import Facts, gather_facts
from remote.inventory import Cluster, Host, Inventory, Network
from remote.known_hosts import KnownHosts
from remote.runner import Runner
from remote.runtime import HostRunState
from remote.ssh import connect

LOOPBACK = "127.0.0.1"
HASTY = ProbeTimings(dial=3.0, linger=0.5, connect=0.5, stall=1.0, transfer=5.0, lookup=1.0)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        port: int = listening.getsockname()[1]
        return port


@dataclass(slots=True)
class Bench:
    """Connected hosts and what the checks found on them."""

    cluster: EmbeddedCluster
    context: CheckContext
    port: int
    progress: list[CheckProgress] = field(default_factory=list)

    async def run(self, only: Collection[str] | None = None, hosts: Collection[str] | None = None) -> None:
        self.progress = [each async for each in run_checks(self.context, only, hosts)]

    @property
    def results(self) -> list[CheckResult]:
        return [each for each in self.progress if isinstance(each, CheckResult)]

    def finding(self, check: str, host: str) -> Finding:
        return next(each.finding for each in self.results if (each.check_id, each.host) == (check, host))

    def with_verdict(self, verdict: Verdict) -> set[tuple[str, str]]:
        return {(each.check_id, each.host) for each in self.results if each.finding.verdict is verdict}


Change = Callable[[Host], Host]


@asynccontextmanager
async def bench(
    *specs: EmbeddedHost,
    change: Change = lambda host: host,
    timings: ProbeTimings | None = None,
    network: Network | None = None,
    runs: Mapping[str, tuple[HostRunState, ...]] | None = None,
    engine_of: Callable[[Runner], Awaitable[Any]] | None = None,
) -> AsyncIterator[Bench]:
    """Bring up hosts, connect to those that let us in, and make a checklist over them."""
    async with embedded_hosts(specs) as cluster:
        hosts = tuple(change(host.inventory_host(python=sys.executable)) for host in cluster.hosts)
        port = free_port()
        inventory = Inventory(cluster=Cluster(name="bench", port=port), hosts=hosts, network=network or Network())
        outcomes = await asyncio.gather(*(_connect(host) for host in hosts))
        connections = dict(zip((host.name for host in hosts), outcomes, strict=True))

        def runner(name: str) -> Runner:
            outcome = connections[name]
            if isinstance(outcome, ConnectError):
                raise outcome
            return outcome

        async def gather(name: str) -> Facts:
            return await gather_facts(runner(name), master_address=LOOPBACK, port=port)

        async def engine(name: str) -> Any:
            if engine_of is not None:
                return await engine_of(runner(name))
            raise EngineError("no Docker Engine socket was found", host=name)

        async def runs_of(name: str) -> tuple[HostRunState, ...]:
            return (runs or {}).get(name, ())

        context = CheckContext(inventory, runner=runner, gather=gather, engine=engine, runs=runs_of, timings=timings)
        try:
            yield Bench(cluster, context, port)
        finally:
            for outcome in outcomes:
                if not isinstance(outcome, ConnectError):
                    await outcome.close()


async def _connect(host: Host) -> Runner | ConnectError:
    try:
        return await connect(host, known_hosts=KnownHosts(), connect_timeout=5.0)
    except ConnectError as error:
        return error


def probe_configuration(command: str) -> dict[str, Any] | None:
    """The argument of the network probe when the command starts one."""
    words = shlex.split(command)
    if len(words) == 4 and words[0] == "exec" and words[2] == "-":
        config: dict[str, Any] = json.loads(words[3])
        return config
    return None


def play_probe(
    on_ports: Callable[[list[int]], int] = lambda ports: ports[0], *, late: float = 0.0
) -> Callable[[str, bytes], Answer | None]:
    """A host that says its probe listened and reached everybody; nobody listens unless ``on_ports`` sees to it.

    ``on_ports`` is given the ports to try and returns the one it took. To the others that is a firewall on this host:
    it is up, its probe ran, and its ports do not answer. With ``late`` it says that it began so many seconds after it
    was told to.
    """

    def respond(command: str, _: bytes) -> Answer | None:
        config = probe_configuration(command)
        if config is None:
            return None
        port = on_ports(config["ports"])
        fine = {"seen": LOOPBACK, "round_trip": 1e-4, "sent": 1e8, "received": 1e8, "seconds": 0.01}
        said = {
            "hetero_probe": 1,
            "token": config["token"],
            "started": time.time() + late,
            "ended": time.time() + late + 5,
            "binds": [{"port": port, "error": "", "in_use": False}],
            "interface_addresses": [LOOPBACK],
            "reverse_seconds": 0.0,
            "links": [
                {"to": peer["name"], "kind": peer["kind"], "attempts": {str(port): fine for port in peer["ports"]}}
                for peer in config["peers"]
            ],
        }
        return Answer(stdout=f"{json.dumps(said)}\n".encode())

    return respond

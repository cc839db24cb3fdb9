"""What checks may ask the world: connections, facts, engines. Every answer is found out once a run and shared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from remote import plan_network
from remote.checks.devices import image_for
from remote.checks.model import Finding
from remote.checks.network_report import NetworkReport, PairMatrix, ProbeTimings
from remote.checks.shared import Shared
from remote.checks.software_report import Software
from remote.errors import RemoteError
from remote.facts import Facts
from remote.inventory import Host, Inventory
from remote.overlay import Overlay, is_encrypted
from remote.runner import Completed, Runner
from remote.runtime import HostRunState

if TYPE_CHECKING:
    from remote.engine import ImageInfo
    from remote.overlay_host import Raised


class JobEngine(Protocol):
    """What checks need of a host's Docker Engine; ``remote.engine.Engine`` is one.

    Mappings are the Engine API's JSON: https://docs.docker.com/reference/api/engine/
    """

    async def version(self) -> Mapping[str, Any]:
        """``GET /version``."""
        ...

    async def info(self) -> Mapping[str, Any]:
        """``GET /info``."""
        ...

    async def image(self, ref: str) -> ImageInfo | None:
        """What the engine knows of an image, or None when the host does not have it."""
        ...

    async def list(self, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """``GET /containers/json?all=1`` of those with these labels."""
        ...

    async def run_once(
        self,
        image: str,
        argv: Sequence[str],
        *,
        files: Mapping[str, bytes] | None = None,
        gpu_uuids: Sequence[str] = (),
        mounts: Sequence[tuple[str, str, str]] = (),
        timeout: float = 60.0,
    ) -> Completed:
        """Run a container with the job's flags to its end and remove it; ``files`` are written into it first."""
        ...


class CheckContext:
    """One session's view of the cluster, as the checks see it.

    What was found stays until the same check is run again, so a re-run asks afresh.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        runner: Callable[[str], Runner],
        gather: Callable[[str], Awaitable[Facts]],
        engine: Callable[[str], Awaitable[JobEngine]],
        runs: Callable[[str], Awaitable[tuple[HostRunState, ...]]],
        current_run: str = "",
        timings: ProbeTimings | None = None,
    ) -> None:
        """Tell the checks how to reach the world; each callable takes the name of a host.

        Args:
            inventory: what was asked for.
            runner: the host's open connection; raises the ``ConnectError`` that prevented it.
            gather: reads the host's facts afresh.
            engine: the host's Docker Engine; raises ``EngineError`` when there is none.
            runs: what this program started there earlier for this cluster.
            current_run: the run that is expected to be alive, if any.
            timings: how long the network probe waits.
        """
        self.inventory = inventory
        self.current_run = current_run
        self.timings = timings or ProbeTimings()
        self.findings: dict[tuple[str, str], Finding] = {}
        """Last finding of each check on each host (``""`` for the cluster)."""
        self._runner = runner
        self._runs = runs
        self._facts = Shared(gather)
        self._engines = Shared(engine)
        self._info: Shared[str, Mapping[str, Any]] = Shared(self._read_info)
        self._version: Shared[str, Mapping[str, Any]] = Shared(self._read_version)
        self._images: Shared[str, ImageInfo | None] = Shared(self._read_image)
        self._report: NetworkReport | None = None
        self.overlay: Overlay | None = None
        """The encrypted network whose addresses the ranks will dial, once it was tried."""
        self.overlay_outcome: Raised | RemoteError | None = None
        """What became of that trial; None when there was none."""
        self.software: dict[str, Software] = {}
        """What each host's ranks will run on, where that was found out."""

    @property
    def host_names(self) -> tuple[str, ...]:
        """Every host in the order of the inventory."""
        return tuple(host.name for host in self.inventory.hosts)

    @property
    def known_facts(self) -> Mapping[str, Facts]:
        """Facts gathered so far."""
        found = {name: self._facts.ready(name) for name in self.host_names}
        return {name: facts for name, facts in found.items() if facts is not None}

    @property
    def report(self) -> NetworkReport:
        """What the network probe found; its check has run before every other one that reads this.

        Raises:
            RemoteError: it has not run.
        """
        if self._report is None:
            raise RemoteError("the network between the hosts has not been probed")
        return self._report

    @property
    def matrix(self) -> PairMatrix | None:
        """What the ranks' hosts could say to each other when last asked."""
        return self._report.matrix if self._report is not None else None

    def host(self, name: str) -> Host:
        """The inventory's entry of a host."""
        return self.inventory.host(name)

    @property
    def is_loopback(self) -> bool:
        """Whether all hosts are one machine on purpose: every one is asked for at a loopback address."""
        return plan_network.is_loopback_cluster(self.inventory)

    def is_master(self, name: str) -> bool:
        """Whether the host gets rank 0."""
        return self.inventory.master.name == name

    def runner(self, name: str) -> Runner:
        """The open connection.

        Raises:
            ConnectError: there is none, and why.
        """
        return self._runner(name)

    async def facts(self, name: str) -> Facts:
        """What the host said about itself.

        Raises:
            RemoteError: it could not be asked.
        """
        return await self._facts.get(name)

    async def engine(self, name: str) -> JobEngine:
        """The host's Docker Engine.

        Raises:
            EngineError: it cannot be reached.
        """
        return await self._engines.get(name)

    async def engine_info(self, name: str) -> Mapping[str, Any]:
        """``GET /info`` of the host's engine."""
        return await self._info.get(name)

    async def engine_version(self, name: str) -> Mapping[str, Any]:
        """``GET /version`` of the host's engine."""
        return await self._version.get(name)

    async def image(self, name: str) -> ImageInfo | None:
        """The job's image as the host has it, or None when it has not."""
        return await self._images.get(name)

    async def runs(self, name: str) -> tuple[HostRunState, ...]:
        """What this program started on the host and has not removed."""
        return await self._runs(name)

    async def address(self, name: str) -> str:
        """The address other ranks dial to reach this host, or an empty string when it is not known."""
        host = self.host(name)
        if self.overlay is not None and name in self.overlay:
            return self.overlay.host(name).address
        if host.train_address:
            return host.train_address
        facts = await self.facts(name)
        return self.master_address() if self.is_master(name) else facts.address

    def master_address(self) -> str:
        """The address the plan will give to every rank, as far as the facts gathered so far tell.

        Raises:
            PlanError: none is known that the other hosts could reach.
        """
        if self.overlay is not None:
            return self.overlay.host(self.overlay.hub).address
        known = self.known_facts
        facts = {name: known.get(name, Facts(host=name)) for name in self.host_names}
        return plan_network.master_address(self.inventory, facts).address

    async def interface(self, name: str) -> str:
        """The interface the plan will name to Gloo, or an empty string when it cannot be told.

        Raises:
            PlanError: the interface that the inventory names is not there.
        """
        facts = await self.facts(name)
        if self.overlay is not None and name in self.overlay:
            return self.overlay.interface
        return plan_network.choose_interface(self.inventory, self.host(name), facts, self.master_address())

    async def python(self, name: str) -> str:
        """The Python that runs the ranks of a host with runtime ``process``, with ``~`` expanded."""
        python = self.host(name).python
        return f"{(await self.facts(name)).home}/{python[2:]}" if python.startswith("~/") else python

    async def image_ref(self, name: str) -> str:
        """The image the host's ranks will run.

        Raises:
            InventoryError: none is named.
        """
        return image_for(self.inventory, self.host(name), await self.facts(name))

    async def probe_network(self, hosts: tuple[str, ...]) -> NetworkReport:
        """Let a listener and a dialler run on each of ``hosts`` at the same time, and keep what they found."""
        from remote.checks.network_probe import probe_network
        from remote.checks.overlay import probe_in_trial

        self._report = self.overlay = None
        self._report = await (probe_in_trial if is_encrypted(self.inventory) else probe_network)(self, hosts)
        return self._report

    async def forget(self, hosts: tuple[str, ...]) -> None:
        """Ask these hosts afresh from now on."""
        self.overlay_outcome = None
        for name in hosts:
            for shared in (self._facts, self._engines, self._info, self._version, self._images):
                await shared.forget(name)

    async def stop(self) -> None:
        """End everything still being asked."""
        for shared in (self._facts, self._engines, self._info, self._version, self._images):
            await shared.stop()

    async def _read_info(self, name: str) -> Mapping[str, Any]:
        return await (await self.engine(name)).info()

    async def _read_version(self, name: str) -> Mapping[str, Any]:
        return await (await self.engine(name)).version()

    async def _read_image(self, name: str) -> ImageInfo | None:
        ref = await self.image_ref(name)
        return await (await self.engine(name)).image(ref)


def told(error: BaseException) -> str:
    """Say in one line what an exception means to a person."""
    match error:
        case RemoteError():
            return error.message
        case TimeoutError():
            return str(error) or "no answer in time"
        case _:
            return f"{type(error).__name__}: {error}"

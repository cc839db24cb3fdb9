"""A stored run as a session: the screens and the reports look at a recording as they look at a live run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, NoReturn

from hetero_tui.playback import Playback
from hetero_tui.session import CheckInfo, ConfirmHostKey, HostStatus, LaunchProgress
from hetero_tui.store import Store
from hetero_tui.stored_runs import StoredRun
from remote.checks.catalogue import CATALOGUE
from remote.checks.model import CheckProgress
from remote.errors import UserError
from remote.inventory import Inventory
from remote.plan import LaunchPlan
from remote.run_dir import RunDirError
from remote.runtime import HostRunState

ABOUT: Final = "this is a recording"


class ReplaySession:
    """Plays a stored run. Satisfies ``SessionProtocol``; nothing on any host is asked or changed."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.playback = Playback(run.run_dir.records)
        self._inventory = run.inventory()

    @property
    def inventory(self) -> Inventory:
        return self._inventory

    @property
    def simulated(self) -> bool:
        return self.run.simulated

    @property
    def store(self) -> Store:
        return self.playback.store

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def checks(self) -> tuple[CheckInfo, ...]:
        return tuple(
            CheckInfo(each.id, each.title, each.severity.value, "cluster" if each.scope == "cluster" else "host")
            for each in CATALOGUE
        )

    @property
    def hosts(self) -> Mapping[str, HostStatus]:
        return {host.name: HostStatus(host.name, "waiting", ABOUT) for host in self._inventory.hosts}

    async def connect(self, confirm: ConfirmHostKey) -> None:
        """Read through the recording; no host is asked."""
        del confirm
        await self.playback.load()

    async def run_checks(
        self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None
    ) -> AsyncIterator[CheckProgress]:
        """Yield what the checklist found before the run."""
        try:
            results = self.run.run_dir.read_checks()
        except RunDirError:
            return
        for result in results:
            if (only is None or result.check_id in only) and (hosts is None or result.host in hosts):
                yield result

    def plan(self) -> LaunchPlan:
        return self.run.plan

    async def launch(self, report: Callable[[LaunchProgress], None]) -> None:
        del report
        self._refuse("launched")

    async def find_runs(self) -> tuple[HostRunState, ...]:
        return ()

    async def attach(self, run_id: str) -> None:
        del run_id
        self._refuse("taken over")

    async def follow(self) -> None:
        """Play until the session is given up: at the end one can still go back."""
        await self.playback.run()

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        del message, hosts
        self._refuse("controlled")

    async def stop(self, report: Callable[[LaunchProgress], None]) -> None:
        del report
        self._refuse("stopped")

    async def close(self) -> None:
        """Nothing is open."""

    def _refuse(self, doing: str) -> NoReturn:
        raise UserError(f"run {self.run_id} is a recording and cannot be {doing}", next_step="open its cluster.toml")

"""The end of a run, as the session carries it out: results home, what ended how, nothing left on the hosts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from remote.errors import RemoteError
from remote.inventory import Inventory
from remote.overlay import is_encrypted
from remote.overlay_run import clear, sweep
from remote.progress import LaunchProgress
from remote.results import HomeReport, bring_home
from remote.run_dir import RunDir
from remote.run_end import append_rest, stored_run, straggler_grace, write_end
from remote.runtime import HostRuntime
from remote.text import named, one_line

if TYPE_CHECKING:
    from remote.hosts import Hosts


class Note(Protocol):
    """Told what a person should read: ``Store.note``."""

    def __call__(self, text: str, level: str = "info", host: str = "") -> None: ...


def grace_left(stop_seconds: float, elapsed: float) -> float:
    """Return for how long the ranks may still end by themselves.

    The time it took to reach the hosts is part of what a person waits, but at least half of the limit is the ranks':
    they finish a step and write a checkpoint.
    """
    return max(stop_seconds / 2, stop_seconds - elapsed)


class Homecoming:
    """Brings runs of one cluster home, one at a time."""

    def __init__(self, inventory: Inventory, experiments: Path) -> None:
        """Runs are kept under ``experiments``."""
        self._inventory = inventory
        self._experiments = experiments
        self._busy = asyncio.Lock()
        self._hosts: Hosts | None = None

    async def reachable(self, hosts: Hosts) -> tuple[dict[str, HostRuntime], dict[str, str]]:
        """Return what runs things on the hosts that answer, and why the others do not."""
        self._hosts = hosts
        runtimes, errors = await hosts.ask_all(hosts.runtime)
        return runtimes, {name: one_line(error) for name, error in errors.items()}

    async def bring(
        self,
        run_id: str,
        runtimes: Mapping[str, HostRuntime],
        unreachable: Mapping[str, str],
        report: Callable[[LaunchProgress], None],
        *,
        note: Note,
        run_dir: RunDir | None = None,
        is_followed: bool = False,
        discard: bool = False,
        may_end: bool = True,
        asked_at: float | None = None,
    ) -> HomeReport:
        """Bring a run home from the hosts that answer, and write down how it ended.

        Args:
            run_id: which run.
            runtimes: of the hosts that answer.
            unreachable: why the others do not.
            report: told of each host's progress.
            note: told what was fetched and what stays.
            run_dir: the run's folder where it is open already.
            is_followed: somebody reads the hosts' logs to their end.
            discard: remove without bringing anything home.
            may_end: with False, a host where it still runs is left alone.
            asked_at: when a person wanted the run to end, on the monotonic clock; now when left out.
        """
        asked_at = time.monotonic() if asked_at is None else asked_at

        def noted(progress: LaunchProgress) -> None:
            if progress.phase in ("fetching", "kept"):
                level = "error" if progress.phase == "kept" else "info"
                note(f"results: {progress.detail}", level, host=progress.host)
            report(progress)

        cluster = self._inventory.cluster.name
        stored = run_dir or stored_run(self._experiments, cluster, run_id)
        unread = None if stored is None or is_followed or discard else stored.positions()

        async def ended(name: str, runtime: HostRuntime) -> None:
            if stored is not None and unread is not None:
                await append_rest(stored, name, runtime, unread.get(name, ""))

        folder = RunDir.folder(self._experiments, cluster, run_id)
        async with self._busy:
            grace = grace_left(self._inventory.limits.stop_seconds, time.monotonic() - asked_at)
            home = await bring_home(
                run_id,
                runtimes,
                folder,
                noted,
                discard=discard,
                may_end=may_end,
                grace=grace if stored is None else straggler_grace(stored, grace),
                ended=ended,
            )
            home.unreachable.update(unreachable)
            if stored is not None:
                write_end(stored, home)
            if stored is not run_dir and stored is not None:
                stored.close()
            await self._take_overlay_down(run_id, home, runtimes, note)
        return home

    async def _take_overlay_down(
        self, run_id: str, home: HomeReport, runtimes: Mapping[str, HostRuntime], note: Note
    ) -> None:
        """Take the run's encrypted network down, unless ranks that may need it are still alive on some host."""
        still_runs = set(home.kept) - set(home.states)
        if self._hosts is None or not is_encrypted(self._inventory) or still_runs:
            return
        left = await clear(self._hosts, [name for name in runtimes if name not in home.unreachable], run_id)
        for name, why in left.items():
            note(f"the overlay is left there: {why}", "error", host=name)
            home.unreachable[name] = f"its overlay could not be taken down: {why}"

    async def clear_overlays(self, hosts: Hosts) -> None:
        """Take down the encrypted networks that runs of the cluster have left, where there is no such run any more.

        Raises:
            RemoteError: some are left.
        """
        if not is_encrypted(self._inventory):
            return
        if left := await sweep(hosts):
            raise RemoteError(
                f"an overlay may be left on {named(left)}", next_step="mend that and run hetero-tui stop again"
            )

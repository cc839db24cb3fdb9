"""A run's log, from every host into the store and the run's folder, until it has ended everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hetero_tui.ingest import Ingest
from hetero_tui.store import Store
from remote.run_dir import RunDir
from remote.stream import follow

if TYPE_CHECKING:
    from remote.hosts import Hosts

LOST_SECONDS: Final = 30.0
"""How long a lost host may take to come back after the run has ended on all others."""


@dataclass(slots=True)
class Following:
    """Follows one run. Several may follow the same run; only one writes its folder."""

    hosts: Hosts
    run_dir: RunDir
    store: Store
    ingest: Ingest

    async def to_the_end(self, names: Sequence[str], positions: Mapping[str, str]) -> None:
        """Follow every host to its end; a lost host is given up once the ranks on all others have ended without it.

        Args:
            names: the hosts of the run.
            positions: behind which line to begin, by host; from the beginning where there is none.

        Raises:
            HostKeyChanged: also the other refusals where trying again cannot help.
            RunDirError: another instance of this program writes the run's folder.
        """
        following = {name: asyncio.create_task(self._one(name, positions.get(name, ""))) for name in names}
        pending = set(following.values())
        try:
            while pending:
                patience = LOST_SECONDS if len(pending) < len(following) else None
                done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                waited_for = [name for name, task in following.items() if task in pending]
                statuses = self.hosts.statuses
                if not done and all(statuses[name].phase != "connected" for name in waited_for):
                    for name in waited_for:
                        self.store.note("given up: the run has ended everywhere else", "error", host=name)
                    return
        finally:
            for task in following.values():
                task.cancel()
            await asyncio.gather(*following.values(), return_exceptions=True)

    async def _one(self, name: str, after: str) -> None:
        def told(state: str, detail: str) -> None:
            self.store.note(f"log stream {state}: {detail}" if detail else f"log stream {state}", "warning", host=name)

        run_id = self.run_dir.run_id
        async for lines in follow(name, run_id, lambda: self.hosts.runtime(name), after=after, report=told):
            await self.ingest.feed(name, lines)

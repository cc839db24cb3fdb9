"""The real session: hosts, checklist, plan, launch, log streams and the run's folder. No Textual here."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hetero_tui.adoption import open_or_adopt
from hetero_tui.checklist import known_checks
from hetero_tui.code_sending import send_code
from hetero_tui.following import Following, catch_up
from hetero_tui.homecoming import Homecoming
from hetero_tui.merged_log import merged_log
from hetero_tui.preflight import Preflight
from hetero_tui.reach import reached, require_connected, runs_found
from hetero_tui.recording import RecordedStore, recorded_store, take_up
from hetero_tui.session import CheckInfo, ConfirmHostKey, HostStatus, LaunchProgress, PastRead
from hetero_tui.store import Store
from hetero_tui.views import LogRecord
from remote.checkpoints import FOLDER, checkpoints_in
from remote.checks.context import CheckContext
from remote.checks.model import CheckProgress, CheckResult, Verdict
from remote.checks.network_report import PairMatrix
from remote.checks.run import run_checks, summarize
from remote.claim import refuse_if_occupied, signed, this_master
from remote.errors import RemoteError, UserError
from remote.facts import Facts
from remote.images.model import ImagePlan, ImageProgress
from remote.inventory import Inventory
from remote.launch import launch, send
from remote.overlay_run import overlaid
from remote.plan import LaunchPlan, make_plan
from remote.results import HomeReport
from remote.resume import Resume, choose_resume, resuming, without_hosts
from remote.run_dir import RunDir, new_run_id
from remote.run_end import require_ended, stored_run
from remote.runtime import HostRunState, HostRuntime
from remote.text import named

if TYPE_CHECKING:
    from remote.hosts import Hosts
    from remote.images.service import ImageService, PlacedImage, Removed
    from remote.known_hosts import KnownHosts
    from remote.workdir import Snapshot

IMAGE_CHECKS: Final = frozenset({"image", "same-image"})


class ClusterSession:
    """What the screens and the headless commands share. Satisfies ``SessionProtocol``."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        inventory_text: str = "",
        experiments: Path,
        known_hosts: KnownHosts | None = None,
        image_store: Path | None = None,
        readonly: bool = False,
    ) -> None:
        """Nothing is connected yet. Runs are kept under ``experiments`` with a copy of ``inventory_text``.

        Image layers are kept in ``image_store``, the user's cache folder when left out. With ``readonly``, a run that
        has ended is left on the hosts instead of being brought home and removed.
        """
        self._inventory = inventory
        self._taken = inventory
        self._inventory_text = inventory_text
        self._experiments = experiments
        self._known_hosts = known_hosts
        self._image_store = image_store
        self._store = Store()
        self._results: dict[tuple[str, str], CheckResult] = {}
        self._plan: LaunchPlan | None = None
        self._run_dir: RunDir | None = None
        self._behind: Mapping[str, str] | None = None
        self._readonly = readonly
        self._homecoming = Homecoming(inventory, experiments)
        self._is_following = False
        self._resume: Resume | None = None
        self._code: Snapshot | None = None
        self.past = PastRead()
        self._next_run_id = new_run_id(time.time)

    # SSH and Docker take longer to import than the first screen takes to paint, so they come with the first contact.

    @cached_property
    def _hosts(self) -> Hosts:
        from remote.hosts import Hosts

        return Hosts(self._inventory, known_hosts=self._known_hosts)

    @cached_property
    def _context(self) -> CheckContext:
        return CheckContext(
            self._inventory,
            runner=self._hosts.runner,
            gather=self._hosts.gather,
            engine=self._hosts.engine,
            runs=self._hosts.runs,
        )

    @cached_property
    def _images(self) -> ImageService:
        from remote.images.service import ImageService

        return ImageService(self._inventory, self._hosts, self._context.facts, self._image_store)

    @cached_property
    def preflight(self) -> Preflight:
        """Fixes, measured speeds and the prediction."""
        contact = (lambda: self._hosts, lambda: self._context)
        return Preflight(self._inventory, self._experiments, *contact, self.plan)

    @property
    def inventory(self) -> Inventory:
        return self._inventory

    @property
    def simulated(self) -> bool:
        return any(host.simulated_samples_per_second is not None for host in self._inventory.hosts)

    @property
    def store(self) -> Store:
        return self._store

    @property
    def run_id(self) -> str:
        return self._run_dir.run_id if self._run_dir else ""

    @property
    def run_folder(self) -> Path | None:
        """Where the run being watched is kept on this machine."""
        return self._run_dir.path if self._run_dir else None

    @property
    def checks(self) -> tuple[CheckInfo, ...]:
        return known_checks()

    @property
    def results(self) -> tuple[CheckResult, ...]:
        """The last result of each check on each host."""
        return tuple(self._results.values())

    @property
    def matrix(self) -> PairMatrix | None:
        """What the hosts could say to each other when the checklist last asked."""
        return self._context.matrix

    @property
    def hosts(self) -> Mapping[str, HostStatus]:
        if "_hosts" not in self.__dict__:
            return {host.name: HostStatus(host.name, "waiting") for host in self._inventory.hosts}
        return self._hosts.statuses

    async def connect(self, confirm: ConfirmHostKey, *, patience: float = math.inf) -> None:
        """Connect to all hosts; from the first that answers on, the others get ``patience`` more seconds."""
        await asyncio.to_thread(importlib.import_module, "remote.hosts")
        await self._hosts.connect(confirm, patience=patience)

    async def run_checks(
        self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None
    ) -> AsyncIterator[CheckProgress]:
        progress = run_checks(self._context, only, hosts)
        try:
            async for each in progress:
                if isinstance(each, CheckResult):
                    self._results[each.check_id, each.host] = each
                yield each
        finally:
            await progress.aclose()

    async def read_facts(self) -> Mapping[str, Facts]:
        """Read every host's facts that have not been read yet.

        Raises:
            RemoteError: a host could not be asked.
        """
        names = [host.name for host in self._inventory.hosts]
        return dict(zip(names, await asyncio.gather(*map(self._context.facts, names)), strict=True))

    @property
    def lacks_only_images(self) -> bool:
        """Whether nothing but missing or differing images stands in the way of a launch.

        What could not be found out without the image does not count: it is asked again once the image is there.
        """
        blocking = summarize(self.results).blocking
        failed = {result.check_id for result in blocking if result.finding.verdict is Verdict.FAIL}
        return bool(failed) and failed <= IMAGE_CHECKS

    async def image_plan(self) -> ImagePlan:
        """Decide how each host gets its image. Nothing is changed.

        Raises:
            RemoteError: it cannot be told.
        """
        return await self._images.plan()

    async def bring_images(
        self, report: Callable[[ImageProgress], None], hosts: frozenset[str] | None = None
    ) -> Mapping[str, RemoteError]:
        """Bring every host its image, and return why some have none.

        Raises:
            RemoteError: nothing could be begun.
        """
        return (await self._images.bring(report, hosts)).failures

    def cancel_image(self, host: str) -> None:
        """Give up bringing one host its image."""
        self._images.cancel(host)

    async def placed_images(self) -> tuple[PlacedImage, ...]:
        """Return the images this program put on the hosts.

        Raises:
            RemoteError: a host could not be asked.
        """
        return await self._images.placed()

    async def remove_images(self) -> tuple[Removed, ...]:
        """Remove from the hosts what this program put there, and only that.

        Raises:
            RemoteError: a host could not be asked.
        """
        return await self._images.remove()

    def resume(self, run_id: str = "") -> Resume:
        """Let the next launch go on from a run's checkpoint; from the newest run that has one when none is named.

        Raises:
            UserError: there is no good checkpoint to go on from.
        """
        self._resume = choose_resume(self._inventory, self._experiments, run_id)
        return self._resume

    def leave_out(self, hosts: Collection[str]) -> None:
        """Let the next launch do without some hosts, such as those that are gone.

        Raises:
            UserError: there is no such host, or none would stay.
        """
        self._taken = without_hosts(self._inventory, hosts)

    def plan(self) -> LaunchPlan:
        inventory = resuming(self._taken) if self._resume else self._taken
        training = inventory.training
        if training.workdir:
            from remote.workdir import take_snapshot

            self._code = take_snapshot(Path(training.workdir), training.script)
        digest = self._code.digest if self._code else ""
        plan = make_plan(inventory, self._context.known_facts, self._next_run_id, code=digest)
        return self._resume.noted(plan) if self._resume else plan

    async def launch(self, report: Callable[[LaunchProgress], None]) -> None:
        plan = signed(self.plan(), this_master())
        runtimes = await self._runtimes(plan)
        await refuse_if_occupied(plan, runtimes)
        if self._code is not None:
            await send_code(self._code, plan, self._hosts, self._context.known_facts, self._store.note, report)
        run_dir = RunDir.create(self._experiments, plan.cluster, plan.run_id)
        self._next_run_id = new_run_id(time.time)
        run_dir.write_plan(plan)
        run_dir.write_facts(self._context.known_facts)
        run_dir.write_checks(self.results)
        run_dir.write_inventory(self._inventory_text)
        await self.preflight.keep(run_dir)
        self._expect(plan, self._begin(plan, run_dir))

        def noted(progress: LaunchProgress) -> None:
            self._store.note_launch(progress.host, progress.phase)
            report(progress)

        checkpoint = self._resume.checkpoint if self._resume else None
        timeout = self._inventory.limits.launch_seconds
        async with overlaid(plan, self._hosts, noted) as before:
            await launch(plan, runtimes, noted, checkpoint=checkpoint, before_start=before, timeout=timeout)

    def _begin(self, plan: LaunchPlan, run_dir: RunDir) -> RecordedStore:
        if self._run_dir is not None:
            self._run_dir.close()
        self._plan, self._run_dir, self._behind = plan, run_dir, None
        self._context.current_run = plan.run_id
        store, self._ingest = recorded_store(run_dir, readonly=self._readonly)
        self._store = store
        return store

    @staticmethod
    def _expect(plan: LaunchPlan, store: Store) -> None:
        for host in plan.hosts:
            store.expect(host.host, {rank.rank: rank.device for rank in host.ranks})

    async def _runtimes(self, plan: LaunchPlan) -> dict[str, HostRuntime]:
        names = [host.host for host in plan.hosts]
        return dict(zip(names, await asyncio.gather(*map(self._hosts.runtime, names)), strict=True))

    async def find_runs(self) -> tuple[HostRunState, ...]:
        """Return what this program started on the hosts that can be reached, newest run last."""
        return await runs_found(self._hosts, self._store.note)

    async def attach(self, run_id: str) -> None:
        """Take over a run: its past from this machine's folder, what is missing from the hosts.

        ``past`` tells how far that is. Cancelled, no run is watched.

        Raises:
            RunDirError: nothing of the run is stored here, and the hosts do not run it as this inventory would.
            RemoteError: nothing is stored here, and a host cannot be asked.
        """
        run_dir = await open_or_adopt(self._inventory, self._experiments, run_id, self)
        plan = run_dir.read_plan()
        store, self.past = self._begin(plan, run_dir), PastRead()
        with store.replaying():
            self._expect(plan, store)

        def report(lines: int) -> None:
            self.past = PastRead(lines, run_dir.fraction_read)

        try:
            await take_up(store, self._ingest, run_dir.documents(), report=report)
        except asyncio.CancelledError:
            run_dir.close()
            self._store, self._plan, self._run_dir = Store(), None, None
            raise
        self._behind = run_dir.positions(as_read=True)

    async def follow(self, report: Callable[[LaunchProgress], None] = lambda _progress: None) -> None:
        """Feed the store until the run has ended everywhere, then bring its results home and remove it from the hosts.

        What cannot be brought home stays on the hosts: see ``kept``.
        """
        plan, run_dir = self._running()
        if run_dir.read_ended() is None:
            positions, self._behind = run_dir.positions() if self._behind is None else self._behind, None
            following = Following(
                self._hosts,
                run_dir,
                self._store,
                self._ingest,
                self._inventory.limits,
                elastic=self._inventory.training.elastic and not self._inventory.training.script,
                readonly=self._readonly,
            )
            self._is_following = True
            try:
                await following.to_the_end([host.host for host in plan.hosts], positions)
            finally:
                self._is_following = False
        elif not self.kept:
            return
        if not self._readonly:
            planned, unreachable = await reached(plan, self._homecoming, self._hosts)
            await self._bring_home(plan.run_id, planned, unreachable, report, may_end=False)

    async def catch_up(self) -> None:
        """Take in what the hosts of an attached run have told by now; :meth:`follow` goes on from there."""
        plan, run_dir = self._running()
        runtimes, _ = await reached(plan, self._homecoming, self._hosts)
        behind = run_dir.positions() if self._behind is None else self._behind
        self._behind = await catch_up(plan.run_id, runtimes, self._store, self._ingest, behind)

    @property
    def newest_stored_run(self) -> str:
        """Id of the newest run of this cluster that is kept on this machine, or an empty string."""
        newest = RunDir.latest(self._experiments, self._inventory.cluster.name)
        return newest.run_id if newest else ""

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints of the run being watched that are home."""
        return checkpoints_in(self._run_dir.path / FOLDER) if self._run_dir else ()

    @property
    def kept(self) -> Mapping[str, str]:
        """Hosts where the ended run stays because its results could not be brought home, with the reason."""
        ended = self._run_dir.read_ended() if self._run_dir else None
        return ended.kept if ended else {}

    def _running(self) -> tuple[LaunchPlan, RunDir]:
        if self._plan is None or self._run_dir is None:
            raise UserError("no run is being watched", next_step="launch one, or attach to one")
        return self._plan, self._run_dir

    async def run_states(self) -> tuple[HostRunState, ...]:
        """Return how each host's part of the run stands.

        Raises:
            RemoteError: a host could not be asked.
        """
        plan, run_dir = self._running()
        if (ended := run_dir.read_ended()) is not None:
            return ended.states
        runtimes = await self._runtimes(plan)
        return tuple(await asyncio.gather(*(runtime.inspect(plan.run_id) for runtime in runtimes.values())))

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        plan, _ = self._running()
        runtimes, unreachable = await reached(plan, self._homecoming, self._hosts)
        chosen = {name: runtime for name, runtime in runtimes.items() if hosts is None or name in hosts}
        missed = {name: why for name, why in unreachable.items() if hosts is None or name in hosts}
        missed |= await send(plan.run_id, chosen, message)
        if chosen.keys() - missed.keys():
            self._store.note_control(message)
        if missed:
            raise RemoteError(
                f"{message['command']} did not reach every host: {named(missed)}", next_step="send it again"
            )

    async def stop(self, report: Callable[[LaunchProgress], None], *, discard: bool = False) -> None:
        plan, _ = self._running()
        await self.stop_run(plan.run_id, report, discard=discard)

    async def stop_run(
        self,
        run_id: str,
        report: Callable[[LaunchProgress], None],
        *,
        discard: bool = False,
        asked_at: float | None = None,
    ) -> HomeReport:
        """End one run on every host, whoever started it, bring its results home and remove it there.

        Args:
            run_id: which run.
            report: told of each host's progress.
            discard: remove it without bringing anything home.
            asked_at: when a person asked for it, on the monotonic clock; now when left out.

        Raises:
            ResultsError: its results could not be brought home from some hosts; there it has ended and stays.
            RemoteError: some hosts could not be reached; running it again finishes the job.
        """
        asked_at = time.monotonic() if asked_at is None else asked_at
        runtimes, unreachable = await self._homecoming.reachable(self._hosts)
        home = await self._bring_home(run_id, runtimes, unreachable, report, discard=discard, asked_at=asked_at)
        require_ended(run_id, home)
        return home

    async def _bring_home(
        self,
        run_id: str,
        runtimes: Mapping[str, HostRuntime],
        unreachable: Mapping[str, str],
        report: Callable[[LaunchProgress], None],
        *,
        discard: bool = False,
        may_end: bool = True,
        asked_at: float | None = None,
    ) -> HomeReport:
        run_dir = self._run_dir if self._run_dir and self._run_dir.run_id == run_id else None
        return await self._homecoming.bring(
            run_id,
            runtimes,
            unreachable,
            report,
            note=self._store.note,
            run_dir=run_dir,
            is_followed=self._is_following and run_dir is not None,
            discard=discard,
            may_end=may_end,
            asked_at=asked_at,
        )

    async def clear_overlays(self) -> None:
        """Take down what dead runs have left; see ``Homecoming.clear_overlays``."""
        await self._homecoming.clear_overlays(self._hosts)

    def require_all_connected(self) -> None:
        """Make sure that every host could be asked.

        Raises:
            ConnectError: some could not; the message names them all.
        """
        require_connected(self.hosts.values())

    def log_lines(self, run_id: str, *, go_on: bool) -> AsyncGenerator[LogRecord, None]:
        """Return the output of all ranks of a run from its beginning; ``go_on`` follows until the run has ended."""
        stored = stored_run(self._experiments, self._inventory.cluster.name, run_id)
        names = [host.name for host in self._inventory.hosts]
        return merged_log(stored, names, lambda name: self._hosts.runtime(name), run_id, go_on=go_on)

    async def close(self) -> None:
        if self._run_dir is not None:
            self._run_dir.close()
        if "_hosts" not in self.__dict__:
            return
        await self._context.stop()
        await self._images.close()
        await self._hosts.close()

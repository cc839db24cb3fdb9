"""What the checklist can do besides checking: run a fix, measure speeds, predict the cluster. No Textual here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from remote.errors import PlanError, RemoteError
from remote.fixes import FixOutcome, FixPlan, plan_fix, run_fix

if TYPE_CHECKING:
    from remote.checks.context import CheckContext
    from remote.checks.model import Fix
    from remote.checks.network_report import PairMatrix
    from remote.dataset_sync import Dataset, DatasetState, Told
    from remote.facts import Facts
    from remote.hosts import Hosts
    from remote.inventory import Inventory
    from remote.plan import LaunchPlan
    from remote.prediction import HostSpeed, Prediction
    from remote.run_dir import RunDir


class PreflightProtocol(Protocol):
    """What the screens may use of it."""

    @property
    def matrix(self) -> PairMatrix | None:
        """What the hosts could say to each other when last asked."""
        ...

    def plan_fix(self, fix: Fix) -> FixPlan:
        """Say how a fix can be run. Nothing is run."""
        ...

    async def run_fix(self, plan: FixPlan, password: str = "") -> FixOutcome:
        """Run it.

        Raises:
            RemoteError: it could not be run, or the host could not be reached again after it.
        """
        ...

    async def look_at_data(self, *, contents: bool = False) -> DatasetState:
        """Compare every host's data set with the master's; with ``contents`` by what is in the files, too.

        Raises:
            RemoteError: a host could not be asked, or the master has no data.
        """
        ...

    async def bring_data(self, state: DatasetState, told: Told) -> Mapping[str, RemoteError]:
        """Bring hosts what they lack, and return why some did not get it. Cancelled, it goes on the next time.

        Raises:
            RemoteError: the master's data could not be read.
        """
        ...

    async def predict(self) -> Prediction:
        """Predict the cluster from what is known now.

        Raises:
            NotMeasured: the speed of some hosts is not known yet.
            PlanError: there is nothing to predict.
        """
        ...

    async def measure(self, report: Callable[[str, str], None]) -> Mapping[str, RemoteError]:
        """Measure every host and keep what was found; return why some could not be measured.

        Raises:
            RemoteError: nothing could be begun.
        """
        ...


class Preflight:
    """Satisfies ``PreflightProtocol`` for a real cluster."""

    # The first screen has one of these long before it predicts anything, so what predicts is imported by who asks.

    def __init__(
        self,
        inventory: Inventory,
        experiments: Path,
        hosts: Callable[[], Hosts],
        context: Callable[[], CheckContext],
        plan: Callable[[], LaunchPlan],
    ) -> None:
        """``hosts``, ``context`` and ``plan`` are asked when they are needed: nothing is connected yet."""
        self._inventory = inventory
        self._experiments = experiments
        self._hosts = hosts
        self._context = context
        self._plan = plan
        self.newest: Prediction | None = None
        """What was predicted last."""

    @property
    def matrix(self) -> PairMatrix | None:
        return self._context().matrix

    @property
    def facts(self) -> Mapping[str, Facts]:
        """What the hosts have said about themselves so far."""
        return self._context().known_facts

    async def engine_infos(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return some of what each host's engine says of itself, or the reason it says nothing."""
        found: dict[str, dict[str, Any]] = {}
        for host in self._inventory.hosts:
            if host.runtime != "docker":
                continue
            try:
                info = await self._context().engine_info(host.name)
            except RemoteError as error:
                found[host.name] = {"error": error.message}
            else:
                found[host.name] = {key: info[key] for key in keys if key in info}
        return found

    def plan_fix(self, fix: Fix) -> FixPlan:
        return plan_fix(fix, self._context().known_facts.get(fix.host))

    async def run_fix(self, plan: FixPlan, password: str = "") -> FixOutcome:
        runner = await self._hosts().connected(plan.host)
        facts = self._context().known_facts.get(plan.host)
        is_root = facts is not None and facts.sudo == "root"
        outcome = await run_fix(runner, plan, is_root=is_root, password=password)
        if plan.new_login and outcome.succeeded:
            await self._hosts().new_login(plan.host)
        return outcome

    async def look_at_data(self, *, contents: bool = False) -> DatasetState:
        return await (await self._dataset()).look(contents=contents)

    async def bring_data(self, state: DatasetState, told: Told) -> Mapping[str, RemoteError]:
        return await (await self._dataset()).bring(state, told)

    async def _dataset(self) -> Dataset:
        from remote.dataset_sync import dataset_of

        context = self._context()
        return await dataset_of(self._inventory, context.host_names, context.facts, context.runner)

    async def predict(self) -> Prediction:
        from remote.prediction import Job, predict
        from remote.speeds import NotMeasured, links_of, modes_of
        from trainer.time_table import PlanError as NoShares

        plan = self._plan()
        training = self._inventory.training
        job = Job(plan.global_batch, plan.policy, training.communication, modes_of(self._inventory))
        speeds, missing = await asyncio.to_thread(self._speeds, plan)
        if missing:
            raise NotMeasured(missing)
        try:
            self.newest = await asyncio.to_thread(predict, job, speeds, links_of(self.matrix))
        except NoShares as error:
            raise PlanError(f"nothing can be predicted: {error}") from error
        return self.newest

    def _speeds(self, plan: LaunchPlan) -> tuple[tuple[HostSpeed, ...], tuple[str, ...]]:
        from remote.speeds import known_speeds, read_speeds, speeds_file, speeds_of_runs

        stored = read_speeds(speeds_file(self._experiments, plan.cluster))
        return known_speeds(self._inventory, plan, (stored, speeds_of_runs(self._experiments, plan)))

    async def keep(self, run_dir: RunDir) -> None:
        """Store the prediction beside the run it is for, or why there is none."""
        from hetero_tui import prediction_report

        prediction, missing = await prediction_report.try_predict(self.predict)
        told = prediction_report.document(prediction) if prediction else prediction_report.missing_document(missing)
        run_dir.write_json(prediction_report.PREDICTION_FILE, told)

    async def measure(self, report: Callable[[str, str], None]) -> Mapping[str, RemoteError]:
        from remote.measure import measure_hosts
        from remote.speeds import speeds_file, write_speeds

        plan = self._plan()
        measured, failed = await measure_hosts(self._context(), self._inventory, plan, report)
        if measured:
            await asyncio.to_thread(write_speeds, speeds_file(self._experiments, plan.cluster), measured)
        return failed

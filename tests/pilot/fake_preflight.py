"""What a scripted cluster says to fixes, measuring and prediction. Plans and predictions are the real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from remote.checks.model import Fix
from remote.checks.network_report import LinkError, PairLink, PairMatrix
from remote.dataset_sync import Dataset, DatasetState, Told
from remote.errors import RemoteError
from remote.facts import Facts
from remote.fixes import FixOutcome, FixPlan, plan_fix
from remote.prediction import HostSpeed, Job, Mode, Prediction, predict
from remote.speeds import NotMeasured, links_of
from trainer.plan import TimeTable

if TYPE_CHECKING:
    from tests.pilot.fake_session import FakeSession

PASSWORD = "open sesame"


class FakePreflight:
    """``sudo`` on every host takes one password; nothing is known of speeds until they are measured."""

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self.measured = False
        self.runs: list[tuple[FixPlan, str]] = []
        self.fails = ""
        """What a fix that fails says."""
        self.probed = True
        self.dataset = Dataset({}, {}, "")
        """A real one, where a test has laid it out."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(host.name for host in self._session.fake_hosts)

    @property
    def matrix(self) -> PairMatrix | None:
        if not self.probed:
            return None
        if self._matrix.hosts != self.names:
            self._matrix = scripted_matrix(self.names)
        return self._matrix

    _matrix = PairMatrix((), {})

    def plan_fix(self, fix: Fix) -> FixPlan:
        sudo = "nopass" if fix.host == self.names[0] else "no"
        return plan_fix(fix, Facts(host=fix.host, user="anna", sudo=sudo))

    async def run_fix(self, plan: FixPlan, password: str = "") -> FixOutcome:
        self.runs.append((plan, password))
        if self.fails:
            return FixOutcome(plan.host, 1, self.fails)
        if plan.way.value == "password" and password != PASSWORD:
            return FixOutcome(plan.host, 97, "", refused="sudo did not take the password")
        self._session.mended.update({("engine", plan.host), ("clock", plan.host)})
        return FixOutcome(plan.host, 0, "")

    async def look_at_data(self, *, contents: bool = False) -> DatasetState:
        return await self.dataset.look(contents=contents)

    async def bring_data(self, state: DatasetState, told: Told) -> Mapping[str, RemoteError]:
        return await self.dataset.bring(state, told)

    async def predict(self) -> Prediction:
        if not self.measured and not self._session.simulated:
            raise NotMeasured(self.names)
        speeds = [
            HostSpeed(host.name, (TimeTable.from_speed(host.speed),), "by a script", self._session.simulated)
            for host in self._session.fake_hosts
        ]
        modes = (Mode("exact", 2_483_240, 1, "exact"), Mode("bf16", 1_241_620, 2, "rounded"))
        return predict(Job(self._session.global_batch, "dynamic", "exact", modes), speeds, links_of(self.matrix))

    async def measure(self, report: Callable[[str, str], None]) -> Mapping[str, RemoteError]:
        for name in self.names:
            report(name, "measured")
        self.measured = True
        return {}


def scripted_matrix(names: tuple[str, ...]) -> PairMatrix:
    """All pairs connect but for the last host, which is behind a translation, slow, and not reached by the second."""
    links: dict[tuple[str, str], PairLink] = {}
    for source, target in itertools.permutations(names, 2):
        position = names.index(source)
        slow = names[-1] in (source, target)
        if len(names) > 2 and (source, target) == (names[1], names[-1]):
            links[source, target] = PairLink(
                source, target, f"10.0.0.{names.index(target) + 1}", 29901, error=LinkError.TIMEOUT, seconds=2.0
            )
            continue
        links[source, target] = PairLink(
            source,
            target,
            f"10.0.0.{names.index(target) + 1}",
            29901,
            round_trip=0.0021 if slow else 0.0004,
            sent_bytes_per_second=5e6 if slow else 110e6,
            received_bytes_per_second=6e6 if slow else 112e6,
            seen_as="192.168.1.7" if position == len(names) - 1 else f"10.0.0.{position + 1}",
            seconds=0.003,
        )
    return PairMatrix(names, links)

"""Is it worth it? Predicts the samples/s of a cluster, of the same without each host, and of its best part. Pure.

The model of a step is that of the trainer: the slowest rank's computing by the share solver, then one exchange of
gradients that nothing hides, ``C = 2 (W - 1) / W * bytes / rate + 2 (W - 1) * delay`` for a ring of ``W`` ranks
(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009). ``rate`` and
``delay`` are those of the worst connection between two of the hosts, so leaving a host out never makes it worse.
Not in it: the optimizer's time, the computing of the compression itself, and a host that has other work to do.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from trainer.communication_choice import choose
from trainer.plan import equal_shares, proportional_shares, solve_shares, step_seconds
from trainer.time_table import PlanError, TimeTable

Exactness = Literal["exact", "rounded", "approximate"]

TRY_EVERYTHING: Final = 8
"""Up to this many hosts every part of the cluster is tried."""
WORTH: Final = 0.01
"""A smaller cluster must promise this much more before a host is advised against."""
GENTLE: Final = 0.95
"""A gentler way of communication is named when it reaches this part of the quickest."""


@dataclass(frozen=True, slots=True)
class HostSpeed:
    """How quick a host's ranks compute, and how that is known."""

    host: str
    tables: tuple[TimeTable, ...]
    """One for each rank of the host."""
    source: str = ""
    """Where the numbers come from, in words."""
    simulated: bool = False
    at: float = 0.0
    """When it was measured, in seconds since the epoch; 0 for what was not measured."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way gradients can travel."""

    name: str
    bytes_per_step: float
    """What each rank puts into the collectives of one step, on average over the steps."""
    collectives: float
    """How many collectives a step has, on average."""
    exactness: Exactness


@dataclass(frozen=True, slots=True)
class Links:
    """The measured connections, by (source, target)."""

    bytes_per_second: Mapping[tuple[str, str], float]
    round_trip: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Seconds of a small message there and back."""
    source: str = ""

    def seconds(self, hosts: Sequence[str], ranks: int, mode: Mode) -> float | None:
        """Return the seconds of one step's exchange, or None where a connection was not measured."""
        if ranks < 2 or len(hosts) < 2:
            return 0.0
        pairs = list(itertools.permutations(hosts, 2))
        rates = [self.bytes_per_second.get(pair, 0.0) for pair in pairs]
        if min(rates) <= 0:
            return None
        delay = max(self.round_trip.get(pair, 0.0) for pair in pairs) / 2
        moved = 2 * (ranks - 1) / ranks * mode.bytes_per_step / min(rates)
        return moved + 2 * (ranks - 1) * delay * mode.collectives


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some of the hosts would do together."""

    hosts: tuple[str, ...]
    mode: str
    samples_per_second: float
    compute_seconds: float
    communication_seconds: float | None
    """None where a connection was not measured: then it is not in the figure."""
    shares: tuple[int, ...]
    """Samples of the global batch for each of ``hosts``."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is to be expected, and what would be better."""

    global_batch: int
    policy: str
    wished: str
    """``communication`` as in ``cluster.toml``."""
    everyone: Outcome
    """All hosts, as configured."""
    without: tuple[tuple[str, Outcome], ...]
    """(host left out, the others), as configured."""
    alone: Outcome
    """The quickest host by itself."""
    best: Outcome
    """The best part of the cluster, in the best way to communicate."""
    modes: tuple[Outcome, ...]
    """``best.hosts`` in every way to communicate."""
    speeds: tuple[HostSpeed, ...]
    link_source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether any speed is held down on purpose."""
        return any(speed.simulated for speed in self.speeds)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained."""

    global_batch: int
    policy: str
    communication: str
    modes: tuple[Mode, ...]
    """Ways gradients can travel whose size is known, the gentlest first; the first is exact."""


def predict(job: Job, speeds: Sequence[HostSpeed], links: Links, notes: Sequence[str] = ()) -> Prediction:
    """Predict the cluster, the cluster without each host, and the best part of it.

    Raises:
        PlanError: no hosts, or numbers that leave no plan.
    """
    if not speeds:
        raise PlanError("there is no host to predict anything for")
    forecast = _Forecast(job, {speed.host: speed for speed in speeds}, links)
    names = tuple(speed.host for speed in speeds)
    everyone = forecast.outcome(names, forecast.configured(names))
    without = tuple((left, _without(forecast, names, left)) for left in names) if len(names) > 1 else ()
    alone = max((forecast.outcome((name,), forecast.exact) for name in names), key=lambda each: each.samples_per_second)
    best = _best(forecast, names)
    modes = tuple(forecast.outcome(best.hosts, mode) for mode in job.modes)
    return Prediction(
        job.global_batch, job.policy, job.communication, everyone, without, alone, best, modes, tuple(speeds),
        links.source, tuple(notes),
    )  # fmt: skip


class _Forecast:
    """Evaluates parts of a cluster; the computing of each part is solved once."""

    def __init__(self, job: Job, speeds: Mapping[str, HostSpeed], links: Links) -> None:
        self._job = job
        self._speeds = speeds
        self._links = links
        self._compute: dict[tuple[str, ...], tuple[tuple[int, ...], float]] = {}
        self.exact = job.modes[0]
        self.modes = job.modes

    def compute(self, hosts: tuple[str, ...]) -> tuple[tuple[int, ...], float]:
        """Return the share of each host and the seconds of computing."""
        if hosts not in self._compute:
            tables = [table for host in hosts for table in self._speeds[host].tables]
            shares = _shares(self._job.policy, tables, self._job.global_batch)
            per_rank = iter(shares)
            per_host = tuple(sum(itertools.islice(per_rank, len(self._speeds[host].tables))) for host in hosts)
            self._compute[hosts] = per_host, step_seconds(tables, shares)
        return self._compute[hosts]

    def configured(self, hosts: tuple[str, ...]) -> Mode:
        """Return the way these hosts would communicate as configured."""
        wished = self._job.communication
        if wished == "auto":
            seconds = self._links.seconds(hosts, self._ranks(hosts), self.exact)
            size = self.exact.bytes_per_step
            rate = size / seconds if seconds else 0.0
            wished = choose("auto", round(size), rate, self.compute(hosts)[1]).mode
        return next((mode for mode in self.modes if mode.name == wished), self.exact)

    def outcome(self, hosts: tuple[str, ...], mode: Mode) -> Outcome:
        """Predict one part of the cluster in one way to communicate."""
        shares, compute = self.compute(hosts)
        communication = self._links.seconds(hosts, self._ranks(hosts), mode)
        duration = compute + (communication or 0.0)
        rate = self._job.global_batch / duration if duration > 0 else 0.0
        return Outcome(hosts, mode.name, rate, compute, communication, shares)

    def typical_rate(self, host: str, names: Sequence[str]) -> float:
        """Return the median rate of a host's connections, both ways: one bad peer does not spoil it."""
        pairs = (pair for other in names if other != host for pair in ((host, other), (other, host)))
        return statistics.median(self._links.bytes_per_second.get(pair, 0.0) for pair in pairs)

    def _ranks(self, hosts: Sequence[str]) -> int:
        return sum(len(self._speeds[host].tables) for host in hosts)


def _shares(policy: str, tables: Sequence[TimeTable], global_batch: int) -> tuple[int, ...]:
    match policy:
        case "equal":
            return equal_shares(len(tables), global_batch)
        case "proportional":
            return proportional_shares([table.samples_per_second for table in tables], global_batch)
        case _:
            return solve_shares(tables, global_batch)


def _without(forecast: _Forecast, names: tuple[str, ...], left: str) -> Outcome:
    others = tuple(name for name in names if name != left)
    return forecast.outcome(others, forecast.configured(others))


def _best(forecast: _Forecast, names: tuple[str, ...]) -> Outcome:
    """Return the best part of the cluster in the gentlest way to communicate that is about as quick as the quickest.

    The whole cluster is preferred where leaving somebody out promises next to nothing. A part whose connections were
    not measured does not count as quicker than one whose were.
    """
    parts = _parts(forecast, names)
    by_mode = []
    for mode in forecast.modes:
        found = [forecast.outcome(part, mode) for part in parts]
        known = [each for each in found if each.communication_seconds is not None]
        quickest = max(known, key=lambda each: each.samples_per_second)
        whole = next((each for each in known if each.hosts == names), None)
        if whole is not None and whole.samples_per_second >= (1 - WORTH) * quickest.samples_per_second:
            quickest = whole
        by_mode.append(quickest)
    limit = GENTLE * max(each.samples_per_second for each in by_mode)
    return next(each for each in by_mode if each.samples_per_second >= limit)


def _parts(forecast: _Forecast, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the parts of the cluster worth trying: all of them, or for many hosts those a greedy search meets."""
    if len(names) <= TRY_EVERYTHING:
        return [part for count in range(len(names), 0, -1) for part in itertools.combinations(names, count)]
    parts = [names, *((name,) for name in names)]
    orders = (
        sorted(names, key=lambda name: forecast.compute((name,))[1]),
        sorted(names, key=lambda name: -forecast.typical_rate(name, names)),
    )
    for order, count in itertools.product(orders, range(2, len(names))):
        first = set(order[:count])
        parts.append(tuple(name for name in names if name in first))
    for mode in forecast.modes:
        parts += _one_by_one(forecast, names, mode)
    return list(dict.fromkeys(parts))


def _one_by_one(forecast: _Forecast, names: tuple[str, ...], mode: Mode) -> list[tuple[str, ...]]:
    """Leave out the host whose absence helps most, and again, for as long as it helps."""
    found: list[tuple[str, ...]] = []
    now = forecast.outcome(names, mode)
    while len(now.hosts) > 1:
        smaller = (tuple(host for host in now.hosts if host != left) for left in now.hosts)
        step = max((forecast.outcome(part, mode) for part in smaller), key=lambda each: each.samples_per_second)
        if step.samples_per_second <= now.samples_per_second and now.communication_seconds is not None:
            break
        found.append(step.hosts)
        now = step
    return found

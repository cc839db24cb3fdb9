"""When to move samples between ranks: the balance policies.

Every rank feeds its policy object the same vectors of samples and compute times (they ride on the gradient reduction,
so they are the same bits everywhere) and so reaches the same decision without a coordinator. For that the arithmetic
here is deterministic across Python versions and machines, as in :mod:`trainer.plan`.

============  ==========================================  ======================================================
policy        shares at the start                         later
============  ==========================================  ======================================================
equal         the same for every rank                     never changed
proportional  in proportion to one calibrated speed       never changed
static        shortest step by the calibrated tables      never changed
dynamic       as static                                   shortest step by the tables scaled to observed speed
hybrid        as static                                   as dynamic, with half of the weight on the calibration
============  ==========================================  ======================================================

All of them plan again when the members change. ``hybrid`` corrects a changed rank only half way and stays there: it
loses less than ``dynamic`` where slow-downs are short and end by themselves, and more where they last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from trainer.drift import SpeedEstimate, TypicalSeconds
from trainer.hysteresis import Hysteresis
from trainer.plan import (
    PlanError,
    TimeTable,
    choose_participants,
    equal_shares,
    predicted_samples_per_second,
    proportional_shares,
    solve_shares,
    step_seconds,
)

POLICIES: Final = ("equal", "static", "proportional", "dynamic", "hybrid")
ADAPTIVE: Final = frozenset({"dynamic", "hybrid"})

FEWEST_READINGS: Final = 3
"""No rank's speed is trusted with fewer readings than this."""
FIRST_PROBE: Final = 100
"""Steps after which a rank without a share is tried again; doubled after every vain try."""
LAST_PROBE: Final = 1600


class UnknownPolicy(ValueError):
    """There is no policy of that name; the message lists those there are."""

    def __init__(self, name: str) -> None:
        close = get_close_matches(name, POLICIES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown policy {name[:40]!r}: expected one of {', '.join(POLICIES)}{hint}")
        self.nearest = close[0] if close else ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan that takes effect with the step after ``step``, the same on every rank."""

    step: int
    members: tuple[int, ...]
    """Global ranks the shares belong to, rising."""
    shares: tuple[int, ...]
    """Samples of the global batch for each member, in the order of ``members``."""
    reason: str
    predicted_samples_per_second: float
    """Compute only: communication is in it where the policy was given a communication time."""
    speeds: tuple[float, ...]
    """Samples per second each member is planned with at its share, in the order of ``members``."""
    probe: bool = False
    """True when an idle rank is given a few samples for one step, to see whether it has become faster."""


def make_policy(
    name: str,
    tables: Sequence[TimeTable],
    global_batch: int,
    *,
    members: Sequence[int] | None = None,
    minimum: int = 0,
    communication_seconds: Callable[[int], float] | None = None,
) -> Balancer:
    """Build the policy object of one rank. All ranks must pass the same values.

    Args:
        name: One of :data:`POLICIES`.
        tables: Calibrated time table of each member, gathered from all ranks (in the order of ``members``).
        global_batch: Samples of one optimizer step.
        members: Global ranks that train, rising; ``0 .. len(tables) - 1`` when not given.
        minimum: Samples every member gets whatever it costs.
        communication_seconds: Seconds of gradient exchange for a number of participants; with it, a rank that would
            slow the others gets share 0.

    Raises:
        UnknownPolicy: there is no such policy.
        PlanError: the numbers leave no valid plan.
    """
    chosen = tuple(range(len(tables))) if members is None else tuple(members)
    return Balancer(name, dict(zip(chosen, tables, strict=True)), global_batch, minimum, communication_seconds)


class Balancer:
    """Shares of the global batch for the current members, and when to change them. Made by :func:`make_policy`."""

    def __init__(
        self,
        policy: str,
        tables: Mapping[int, TimeTable],
        global_batch: int,
        minimum: int = 0,
        communication_seconds: Callable[[int], float] | None = None,
    ) -> None:
        _check_policy(policy)
        self.policy = policy
        self.global_batch = global_batch
        self._minimum = minimum
        self._communication_seconds = communication_seconds
        self._tables = dict(tables)
        self._estimates = {rank: SpeedEstimate() for rank in tables}
        self._besides = {rank: TypicalSeconds() for rank in tables}
        self._members = tuple(sorted(tables))
        self._observed = 0
        self._planned_at = 0
        self._hysteresis = Hysteresis()
        self._probing: int | None = None
        self._probe_at: dict[int, int] = {}
        self._probe_interval: dict[int, int] = {}
        self._idle_reasons: dict[int, str] = {}
        self._excluded: dict[int, str] = {}
        """Ranks that get no share under any policy, with the reason."""
        self._shares: tuple[int, ...] = ()
        self._adopt(self._solve(global_batch))

    @property
    def members(self) -> tuple[int, ...]:
        """Global ranks that train, rising."""
        return self._members

    @property
    def shares(self) -> tuple[int, ...]:
        """Samples of the global batch for each member in the next step, in the order of :attr:`members`."""
        return self._shares

    @property
    def idle_reasons(self) -> dict[int, str]:
        """Why a rank has no share, by global rank."""
        return dict(self._idle_reasons)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Global ranks that get no share until they are admitted again, rising."""
        return tuple(sorted(self._excluded))

    def share_of(self, rank: int) -> int:
        """Return the share of a global rank; 0 for one that is not a member."""
        return self._shares[self._members.index(rank)] if rank in self._members else 0

    def micro_batch_of(self, rank: int, samples: int) -> int:
        """Return the micro-batch the plan assumes when this member computes ``samples`` samples."""
        return self._tables[rank].micro_batch(samples)

    def shares_for(self, global_batch: int) -> tuple[int, ...]:
        """Return shares of another global batch under the same policy: the last, smaller step of an epoch."""
        if global_batch == self.global_batch:
            return self._shares
        return self._solve(global_batch, minimum=min(self._minimum, global_batch // len(self._sharing)))[0]

    def predicted_samples_per_second(self) -> float:
        """Return the speed the current plan promises, by calibration and what was observed since."""
        return predicted_samples_per_second(self._current_tables(), self._shares, self._communication(self._shares))

    def speeds(self) -> tuple[float, ...]:
        """Return samples per second of each member at its share, by calibration and what was observed since."""
        return tuple(
            share / table.seconds(share) if share else table.samples_per_second
            for table, share in zip(self._current_tables(), self._shares, strict=True)
        )

    def decision(self, step: int, reason: str, *, probe: bool = False) -> Decision:
        """Describe the plan in force: the first one, for instance."""
        return Decision(
            step, self._members, self._shares, reason, self.predicted_samples_per_second(), self.speeds(), probe
        )

    def observe(
        self, step: int, samples: Sequence[int], seconds: Sequence[float], besides: Sequence[float] = ()
    ) -> Decision | None:
        """Take in what a step took, and say whether the shares change from the next step on.

        Args:
            step: The step that was measured.
            samples: Samples each member computed, in the order of :attr:`members`, as received from the reduction.
            seconds: Compute time of each member up to its first collective: waiting for others must not be in it.
                A value that is not positive and finite is a missing reading.
            besides: Seconds each member itself needs in a step besides computing: optimizer, bookkeeping, its own work
                on the exchange. One that needs longer than the others is given less to compute, so that all are done
                with both at the same time.

        Raises:
            PlanError: the vectors do not have one value for each member.
        """
        if not len(samples) == len(seconds) == len(self._members):
            raise PlanError(f"{len(samples)} and {len(seconds)} values for the {len(self._members)} members")
        self._observed += 1
        for rank, duration in zip(self._members, besides, strict=False):
            self._besides[rank].update(duration)
        changed = [
            rank
            for rank, share, duration in zip(self._members, samples, seconds, strict=True)
            if share > 0 and math.isfinite(duration) and duration > 0 and self._read(rank, share, duration)
        ]
        if self.policy not in ADAPTIVE:
            return None
        if self._probing is not None:
            return self._after_probe(step)
        return self._better_plan(step, changed) or self._probe(step)

    def change_members(
        self,
        members: Sequence[int],
        tables: Mapping[int, TimeTable] | None = None,
        step: int = 0,
        excluded: Mapping[int, str] | None = None,
    ) -> Decision:
        """Plan for another set of ranks. What is known of the ranks that stay is kept.

        Args:
            members: Global ranks that train from now on, in any order.
            tables: Calibrated tables of the ranks that are new; a known rank's table is replaced and what was
                observed of it forgotten.
            step: The last finished step.
            excluded: Ranks without a share, members or not, with the reason; None: as before.

        Raises:
            PlanError: no members, none that is not excluded, or a new rank without a table.
        """
        for rank, table in (tables or {}).items():
            self._tables[rank] = table
            self._estimates[rank] = SpeedEstimate()
            self._besides[rank] = TypicalSeconds()
        unknown = sorted(rank for rank in members if rank not in self._tables)
        if unknown or not members:
            raise PlanError(f"no time table for rank {unknown[0]}" if unknown else "a plan needs at least one rank")
        before, self._members = self._members, tuple(sorted(set(members)))
        self._set_excluded(self._excluded if excluded is None else excluded)
        self._probing = None
        self._adopt(self._solve(self.global_batch))
        left = sorted(set(before) - set(self._members))
        joined = sorted(set(self._members) - set(before))
        told = [f"ranks left: {left}" if left else "", f"ranks joined: {joined}" if joined else ""]
        return self.decision(step, ", ".join(filter(None, told)) or "the group formed again")

    def change_policy(self, policy: str, step: int = 0) -> Decision:
        """Plan by another policy with everything learned so far.

        Raises:
            UnknownPolicy: there is no such policy.
        """
        _check_policy(policy)
        self.policy = policy
        self._probing = None
        self._adopt(self._solve(self.global_batch))
        return self.decision(step, f"policy changed to {policy}")

    def exclude(self, excluded: Mapping[int, str], step: int, reason: str) -> Decision:
        """Plan with exactly these ranks excluded: they stay members, get no share and are not tried.

        Args:
            excluded: Global ranks, members or not, each with why it has no share.
            step: The last finished step.
            reason: Why the plan changes.

        Raises:
            PlanError: no member would be left to compute.
        """
        self._set_excluded(excluded)
        self._probing = None
        self._adopt(self._solve(self.global_batch))
        return self.decision(step, reason)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a rank that joins needs to decide like the others, as JSON values."""
        return {
            "policy": self.policy,
            "global_batch": self.global_batch,
            "members": list(self._members),
            "shares": list(self._shares),
            "observed": self._observed,
            "planned_at": self._planned_at,
            "changes": self._hysteresis.changes,
            "probing": self._probing,
            "probe_at": sorted(self._probe_at.items()),
            "probe_interval": sorted(self._probe_interval.items()),
            "idle_reasons": sorted(self._idle_reasons.items()),
            "excluded": sorted(self._excluded.items()),
            "tables": [[rank, table.state_dict()] for rank, table in sorted(self._tables.items())],
            "besides": [[rank, typical.state()] for rank, typical in sorted(self._besides.items())],
            "estimates": [[rank, estimate.state_dict()] for rank, estimate in sorted(self._estimates.items())],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned on another rank or in an earlier run."""
        _check_policy(state["policy"])
        self.policy = state["policy"]
        self.global_batch = state["global_batch"]
        self._members = tuple(state["members"])
        self._shares = tuple(state["shares"])
        self._observed = state["observed"]
        self._planned_at = state["planned_at"]
        self._hysteresis = Hysteresis(state["changes"])
        self._probing = state["probing"]
        self._probe_at = dict(state["probe_at"])
        self._probe_interval = dict(state["probe_interval"])
        self._idle_reasons = dict(state["idle_reasons"])
        self._excluded = dict(state.get("excluded", ()))
        self._tables = {rank: TimeTable.from_state_dict(table) for rank, table in state["tables"]}
        self._estimates = {rank: SpeedEstimate() for rank in self._tables}
        self._besides = {rank: TypicalSeconds() for rank in self._tables}
        self._besides |= {rank: TypicalSeconds(readings) for rank, readings in state.get("besides", ())}
        for rank, estimate in state["estimates"]:
            self._estimates[rank].load_state_dict(estimate)

    def _read(self, rank: int, share: int, duration: float) -> bool:
        reading = duration / self._tables[rank].seconds(share)
        if rank == self._probing:
            self._estimates[rank].restart(reading)
            return True
        return self._estimates[rank].update(reading)

    def _current_tables(self) -> list[TimeTable]:
        """Return the members' tables as they are planned with now."""
        return [self._tables[rank].scaled(self._planned_slowness(rank)) for rank in self._members]

    def _planning_tables(self) -> list[TimeTable]:
        """Return the members' tables with what each needs besides computing, over what the quickest needs."""
        quickest = min((self._besides[rank].value for rank in self._sharing), default=0.0)
        return [
            replace(table, overhead=table.overhead + max(0.0, self._besides[rank].value - quickest) / table.scale)
            for rank, table in zip(self._members, self._current_tables(), strict=True)
        ]

    def _planned_slowness(self, rank: int) -> float:
        slowness = self._estimates[rank].slowness
        return 2 / (1 + 1 / slowness) if self.policy == "hybrid" else slowness

    def _communication(self, shares: Sequence[int]) -> float:
        """Return the seconds of gradient exchange for the ranks that have a share; 0 where that is not known."""
        if self._communication_seconds is None:
            return 0.0
        return self._communication_seconds(sum(share > 0 for share in shares))

    def _solve(self, global_batch: int, minimum: int | None = None) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return shares and the reasons for empty ones, by the policy in force, in the order of the members."""
        least = self._minimum if minimum is None else minimum
        found = dict(zip(self._sharing, zip(*self._solve_sharing(global_batch, least), strict=True), strict=True))
        plan = [found[rank] if rank in found else (0, self._excluded[rank]) for rank in self._members]
        return tuple(share for share, _ in plan), tuple(reason for _, reason in plan)

    def _solve_sharing(self, global_batch: int, least: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the same for the members that are not excluded only."""
        nothing = ("",) * len(self._sharing)
        if self.policy == "equal":
            return equal_shares(len(self._sharing), global_batch), nothing
        calibrated = [self._tables[rank] for rank in self._sharing]
        if self.policy == "proportional":
            return proportional_shares([table.samples_per_second for table in calibrated], global_batch, least), nothing
        planned = dict(zip(self._members, self._planning_tables(), strict=True))
        tables = [planned[rank] for rank in self._sharing] if self.policy in ADAPTIVE else calibrated
        if self._communication_seconds is not None and least == 0:
            chosen = choose_participants(tables, global_batch, self._communication_seconds)
            return chosen.shares, chosen.reasons
        shares = solve_shares(tables, global_batch, least)
        return shares, tuple("" if share else "idle: the others are done before its first sample" for share in shares)

    @property
    def _sharing(self) -> tuple[int, ...]:
        """Members that may have a share."""
        return tuple(rank for rank in self._members if rank not in self._excluded)

    def _set_excluded(self, excluded: Mapping[int, str]) -> None:
        if excluded.keys() >= set(self._members):
            raise PlanError("a plan needs at least one rank that is not excluded")
        self._excluded = dict(excluded)

    def _adopt(self, plan: tuple[tuple[int, ...], tuple[str, ...]]) -> None:
        self._shares, reasons = plan
        self._planned_at = self._observed
        self._idle_reasons = {
            rank: reason
            for rank, share, reason in zip(self._members, self._shares, reasons, strict=True)
            if share == 0 and reason
        }
        for rank, share in zip(self._members, self._shares, strict=True):
            if share or rank in self._excluded:
                self._probe_at.pop(rank, None)
                self._probe_interval.pop(rank, None)
            elif rank not in self._probe_at:
                self._probe_interval[rank] = FIRST_PROBE
                self._probe_at[rank] = self._observed + FIRST_PROBE

    def _better_plan(self, step: int, changed: Sequence[int]) -> Decision | None:
        active = [rank for rank, share in zip(self._members, self._shares, strict=True) if share]
        if any(self._estimates[rank].readings < FEWEST_READINGS for rank in active):
            return None
        tables, sharing = self._planning_tables(), set(self._sharing)
        times = [table.seconds(share) for table, share in zip(tables, self._shares, strict=True)]
        now = max(times) + self._communication(self._shares)
        slowest = self._members[times.index(max(times))]
        certain = _confidence(len(active)) * self._estimates[slowest].error
        required = max(self._hysteresis.required(self._observed, self._planned_at), certain)
        by_rank = zip(self._members, tables, strict=True)
        speeds = (table.samples_per_second for rank, table in by_rank if rank in sharing)
        shortest = self.global_batch / math.fsum(speeds) + self._communication((1,))
        if now / shortest - 1 <= required:
            return None
        plan = self._solve(self.global_batch)
        gain = now / (step_seconds(tables, plan[0]) + self._communication(plan[0])) - 1
        if plan[0] == self._shares or gain <= required:
            return None
        self._adopt(plan)
        self._hysteresis.changed(self._observed)
        which = (
            f"{'rank' if len(changed) == 1 else 'ranks'} {', '.join(map(str, changed))} changed speed"
            if changed
            else f"rank {slowest} is the slowest"
        )
        return self.decision(step, f"{which}; a step becomes {gain:.0%} quicker")

    def _probe(self, step: int) -> Decision | None:
        """Give one idle rank a single sample for one step when its time has come."""
        due = [rank for rank in self._members if rank in self._probe_at and self._observed >= self._probe_at[rank]]
        if not due or self.global_batch < 2:
            return None
        self._probing = due[0]
        position = self._members.index(self._probing)
        given = max(range(len(self._shares)), key=lambda index: (self._shares[index], -index))
        self._shares = tuple(share + (index == position) - (index == given) for index, share in enumerate(self._shares))
        return self.decision(step, f"trying whether rank {self._probing} has become faster", probe=True)

    def _after_probe(self, step: int) -> Decision:
        rank, self._probing = self._probing, None
        assert rank is not None
        planned_at = self._planned_at
        self._adopt(self._solve(self.global_batch))
        if self.share_of(rank):
            return self.decision(step, f"rank {rank} is fast enough again")
        self._planned_at = planned_at
        interval = min(2 * self._probe_interval[rank], LAST_PROBE)
        self._probe_interval[rank] = interval
        self._probe_at[rank] = self._observed + interval
        return self.decision(step, f"rank {rank} would still slow the others", probe=True)


def _check_policy(name: str) -> None:
    if name not in POLICIES:
        raise UnknownPolicy(name)


def _confidence(ranks: int) -> float:
    """Return how many standard errors a gain must exceed: the slowest of many ranks is partly the unluckiest.

    The largest of ``n`` normal errors is about ``sqrt(2 ln n)``; the bit length stands in for the logarithm, which
    is not rounded alike everywhere.
    """
    return 1 + math.sqrt(1.386 * ranks.bit_length())

"""Which rank computes how many samples: exact integer shares of the global batch, from measured step times.

A synchronous step lasts as long as its slowest rank, so the plan minimises ``max_i t_i(b_i)`` over whole numbers
``b_i`` that add up to the global batch. The solver is exact for any time function that never falls when samples are
added: tables, stairs of micro-batches, plateaus of a GPU that is not yet full.

The module uses the standard library only. Every rank solves for itself and must reach the same shares, whatever its
Python version and machine, so it uses only operations that IEEE 754 rounds in one way (``+ - * /``, comparison) and
``math.fsum`` where the built-in ``sum`` changed its rounding in Python 3.12.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from trainer.time_table import PlanError, TimeModel, TimeTable

__all__ = [
    "Efficiency",
    "Participation",
    "PlanError",
    "TimeModel",
    "TimeTable",
    "choose_participants",
    "efficiency",
    "equal_shares",
    "predicted_samples_per_second",
    "proportional_shares",
    "solve_shares",
    "step_seconds",
]


def equal_shares(ranks: int, global_batch: int) -> tuple[int, ...]:
    """Split the global batch evenly; the first ranks take one sample more where it does not divide.

    Raises:
        PlanError: no ranks, or a negative global batch.
    """
    _check(ranks, global_batch, 0)
    base, extra = divmod(global_batch, ranks)
    return tuple(base + (rank < extra) for rank in range(ranks))


def proportional_shares(speeds: Sequence[float], global_batch: int, minimum: int = 0) -> tuple[int, ...]:
    """Split the global batch in proportion to one speed a rank, rounded by the largest remainder.

    This is not quite the quickest plan: rounding to the nearest sample can give a slow rank the sample that makes
    the step longest. 256/180/45/40 samples/s and 192 samples give 94/66/17/15 (508 samples/s) where
    :func:`solve_shares` gives 95/67/16/14 (516 samples/s).

    Raises:
        PlanError: no ranks, a speed that is not positive and finite, or a minimum that exceeds the global batch.
    """
    _check(len(speeds), global_batch, minimum)
    for rank, speed in enumerate(speeds):
        if not (math.isfinite(speed) and speed > 0):
            raise PlanError(f"rank {rank}: a speed must be positive and finite, not {speed} samples/s")
    total = math.fsum(speeds)
    free = global_batch - minimum * len(speeds)
    exact = [free * speed / total for speed in speeds]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(speeds)), key=lambda rank: (shares[rank] - exact[rank], rank))
    for rank in by_remainder[: free - sum(shares)]:
        shares[rank] += 1
    return tuple(minimum + share for share in shares)


def solve_shares(tables: Sequence[TimeModel], global_batch: int, minimum: int = 0) -> tuple[int, ...]:
    """Return the shares with the shortest step: ``min max_i t_i(b_i)`` with ``sum b_i = global_batch``, exact.

    A level of time ``T`` is searched at which the ranks together can compute almost the global batch; the few
    samples left are handed out one by one to the rank that would finish first. Handing out greedily from any state in
    which no rank exceeds the optimum ends at the optimum, for every monotone time function. Ties go to the lower
    rank, so all ranks compute the same shares. 1 024 ranks take a few milliseconds.

    Args:
        tables: One time model for each rank.
        global_batch: Samples of one optimizer step.
        minimum: Samples every rank gets whatever it costs.

    Raises:
        PlanError: no ranks, a negative number, a minimum that exceeds the global batch, or ranks that cannot
            compute the global batch in any time.
    """
    ranks = len(tables)
    _check(ranks, global_batch, minimum)
    shares, upper = _level(tables, global_batch, minimum)
    missing = global_batch - sum(shares)
    if upper is not None:
        return _fill_plateau(shares, upper, missing)
    waiting = [(table.seconds(share + 1), rank) for rank, (table, share) in enumerate(zip(tables, shares, strict=True))]
    heapq.heapify(waiting)
    for _ in range(missing):
        finished, rank = waiting[0]
        if math.isinf(finished):
            raise _too_much(global_batch)
        shares[rank] += 1
        heapq.heapreplace(waiting, (tables[rank].seconds(shares[rank] + 1), rank))
    return tuple(shares)


ROUNDING: Final = 1e-14
"""Two times closer than this, relatively, are the same time."""
TURN: Final = 4
"""Every so many guesses the next stair is tried, which ends the search on plateaus."""


def _level(tables: Sequence[TimeModel], global_batch: int, minimum: int) -> tuple[list[int], list[int] | None]:
    """Return shares of one time level that together miss the global batch by little.

    Where the capacities jump over the global batch at a single level (plateaus that end at the same time), the
    shares just above that level are returned as well: every mixture of the two is equally quick.
    """
    close = max(4, len(tables) // 4)
    goal = global_batch - close / 2
    speed = math.fsum(table.samples_per_second for table in tables)
    below, low, low_sum = [minimum] * len(tables), 0.0, float(minimum * len(tables))
    high, high_sum = math.inf, math.inf
    guess = global_batch / speed
    for attempt in itertools.count():
        is_stair = attempt % TURN == TURN - 1
        if is_stair:
            guess = min(table.seconds(share + 1) for table, share in zip(tables, below, strict=True)) * (1 + ROUNDING)
            if math.isinf(guess):
                raise _too_much(global_batch)
        shares = [max(minimum, table.capacity(guess)) for table in tables]
        total = sum(shares)
        if global_batch - close <= total <= global_batch:
            return shares, None
        if total < global_batch:
            below, low, low_sum = shares, guess, total
        elif is_stair or guess - low <= ROUNDING * guess:
            return below, shares
        else:
            high, high_sum = guess, total
        if math.isinf(high):
            # Capacities grow almost linearly with time; where they do not, doubling finds the other side.
            guess = low + (goal - low_sum) / speed if attempt < 2 * TURN else 2 * low
        elif attempt % TURN == 1:
            guess = (low + high) / 2
        else:
            guess = low + (high - low) * (goal - low_sum) / (high_sum - low_sum)
            guess = guess if low < guess < high else (low + high) / 2
    raise AssertionError("the search ends inside its loop")


def _too_much(global_batch: int) -> PlanError:
    return PlanError(f"the ranks together cannot compute {global_batch} samples in one step")


def _fill_plateau(shares: list[int], upper: Sequence[int], missing: int) -> tuple[int, ...]:
    """Hand out ``missing`` samples in proportion to the room of each rank; all of that room costs the same time."""
    room = [high - share for share, high in zip(shares, upper, strict=True)]
    total = sum(room)
    given = [missing * each // total for each in room]
    left = missing - sum(given)
    for rank in range(len(shares)):
        extra = 1 if left > 0 and given[rank] < room[rank] else 0
        left -= extra
        shares[rank] += given[rank] + extra
    return tuple(shares)


def _check(ranks: int, global_batch: int, minimum: int) -> None:
    if ranks < 1:
        raise PlanError("a plan needs at least one rank")
    if global_batch < 0 or minimum < 0:
        raise PlanError(f"samples cannot be negative: global batch {global_batch}, minimum {minimum}")
    if minimum * ranks > global_batch:
        raise PlanError(f"{ranks} ranks cannot have {minimum} samples each of a global batch of {global_batch}")


def step_seconds(tables: Sequence[TimeModel], shares: Sequence[int]) -> float:
    """Return the predicted compute time of a step: that of its slowest rank."""
    return max(table.seconds(share) for table, share in zip(tables, shares, strict=True))


def predicted_samples_per_second(
    tables: Sequence[TimeModel], shares: Sequence[int], communication_seconds: float = 0.0
) -> float:
    """Return the predicted speed of the whole group; ``communication_seconds`` is what a step adds for gradients."""
    duration = step_seconds(tables, shares) + communication_seconds
    return sum(shares) / duration if duration > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Participation:
    """Who computes and who would only slow the others down."""

    shares: tuple[int, ...]
    """Samples for each rank, in the order of the tables; 0 for a rank that is left out."""
    step_seconds: float
    """Predicted compute plus communication of one step."""
    reasons: tuple[str, ...]
    """Why a rank has no share, in the order of the tables; empty for a rank that takes part."""


def choose_participants(
    tables: Sequence[TimeModel], global_batch: int, communication_seconds: Callable[[int], float]
) -> Participation:
    """Plan with the ranks that together are quickest, communication included.

    Ranks are tried in order of speed: the fastest alone, the fastest two, and so on. A rank of speed ``s`` beside
    ranks of speed ``S`` pays only where ``s > S * dC / (B / S - dC)``, with ``dC`` the communication it adds. With
    many ranks the number of participants is narrowed down with the continuous optimum first and solved exactly
    around it. A rank that is left out saves its communication only when it also leaves the reduction.

    Args:
        tables: One time model for each rank.
        global_batch: Samples of one optimizer step.
        communication_seconds: Seconds a step with that many participants spends on gradients and cannot hide.

    Raises:
        PlanError: no ranks, or a negative global batch.
    """
    _check(len(tables), global_batch, 0)
    order = sorted(range(len(tables)), key=lambda rank: (-_speed_with_overhead(tables[rank], global_batch), rank))
    found = [
        _with_fastest(tables, order[:count], global_batch, communication_seconds)
        for count in _likely_counts(tables, order, global_batch, communication_seconds)
    ]
    shares, duration = min(found, key=lambda each: (each[1], -sum(share > 0 for share in each[0])))
    everyone = tuple(rank for rank, share in enumerate(shares) if share)
    reasons = tuple(
        "" if shares[rank] else _why_idle(tables, rank, everyone, global_batch, communication_seconds, duration)
        for rank in range(len(tables))
    )
    return Participation(shares, duration, reasons)


SHORTLIST: Final = 8


def _speed_with_overhead(table: TimeModel, samples: int) -> float:
    needed = table.seconds(max(1, samples))
    return max(1, samples) / needed


def _likely_counts(
    tables: Sequence[TimeModel], order: Sequence[int], global_batch: int, communication_seconds: Callable[[int], float]
) -> list[int]:
    """Return the numbers of participants worth solving exactly: all of them for few ranks."""
    if len(order) <= SHORTLIST:
        return list(range(1, len(order) + 1))
    speed, estimates = 0.0, []
    for count, rank in enumerate(order, start=1):
        speed += tables[rank].samples_per_second
        estimates.append((global_batch / speed + communication_seconds(count), count))
    return sorted({count for _, count in sorted(estimates)[:SHORTLIST]} | {1, len(order)})


def _with_fastest(
    tables: Sequence[TimeModel], ranks: Sequence[int], global_batch: int, communication_seconds: Callable[[int], float]
) -> tuple[tuple[int, ...], float]:
    chosen = [tables[rank] for rank in ranks]
    shares = [0] * len(tables)
    for rank, share in zip(ranks, solve_shares(chosen, global_batch), strict=True):
        shares[rank] = share
    return tuple(shares), step_seconds(tables, shares) + communication_seconds(sum(share > 0 for share in shares))


def _why_idle(
    tables: Sequence[TimeModel],
    rank: int,
    participants: Sequence[int],
    global_batch: int,
    communication_seconds: Callable[[int], float],
    duration: float,
) -> str:
    alone = tables[rank].seconds(1)
    if alone >= duration:
        return f"idle: one sample takes {alone:.3g} s here, a whole step without this rank {duration:.3g} s"
    _, with_it = _with_fastest(tables, sorted((*participants, rank)), global_batch, communication_seconds)
    if with_it > duration:
        return f"idle: a step would take {with_it:.3g} s with this rank, {duration:.3g} s without"
    return f"idle: the others compute the whole batch in {duration:.3g} s, and this rank could not shorten that"


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What part of the ideal speed a group reached, and where the rest went.

    The ideal is the sum of the speeds the ranks have alone. The three factors multiply to ``total``:
    ``balance * jitter * communication``.
    """

    balance: float
    """Ideal step time over the mean compute time of the slowest rank: wrong or rounded shares."""
    jitter: float
    """Largest mean over mean largest compute time: ranks that take turns at being slow. No plan recovers it."""
    communication: float
    """Mean largest compute time over mean step time: gradients, optimizer, everything after the computing."""

    @property
    def total(self) -> float:
        """Reached speed over ideal speed."""
        return self.balance * self.jitter * self.communication


def efficiency(
    compute: Sequence[Sequence[float]], durations: Sequence[float], global_batch: int, solo_speeds: Sequence[float]
) -> Efficiency:
    """Split the reached speed into its factors.

    Args:
        compute: One row for each step: seconds of compute of each rank up to its first collective, waiting excluded.
        durations: Seconds of each whole step.
        global_batch: Samples of each step.
        solo_speeds: Samples per second of each rank alone, on the same machine with the same limits.

    Raises:
        PlanError: no steps, rows of different length, or speeds that add up to nothing.
    """
    if not compute or len(compute) != len(durations):
        raise PlanError(f"{len(compute)} rows of compute times and {len(durations)} step durations")
    ideal_speed = math.fsum(solo_speeds)
    if ideal_speed <= 0:
        raise PlanError("the solo speeds add up to nothing")
    if any(len(row) != len(solo_speeds) for row in compute):
        raise PlanError("a row of compute times does not have one value for each rank")
    steps = len(compute)
    largest_mean = max(math.fsum(column) / steps for column in zip(*compute, strict=True))
    mean_largest = math.fsum(max(row) for row in compute) / steps
    mean_duration = math.fsum(durations) / steps
    if min(largest_mean, mean_largest, mean_duration) <= 0:
        raise PlanError("step times must be positive")
    return Efficiency(
        balance=global_batch / ideal_speed / largest_mean,
        jitter=largest_mean / mean_largest,
        communication=mean_largest / mean_duration,
    )

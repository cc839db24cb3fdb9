"""What shares of a global batch cost and bring, for speeds you name: the arithmetic behind load balancing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from remote.errors import UserError
from trainer.plan import PlanError, TimeTable, equal_shares, proportional_shares, solve_shares, step_seconds

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Split:
    """One way to split a global batch over ranks."""

    name: str
    shares: tuple[int, ...]
    """Samples of each rank."""
    step_seconds: float
    """Seconds of one step: those of the slowest rank."""
    samples_per_second: float
    waits: tuple[float, ...]
    """Seconds that each rank waits in every step."""


def splits(speeds: Sequence[float], global_batch: int, by_hand: Sequence[int] = ()) -> tuple[Split, ...]:
    """Compare equal, proportional and best shares, and shares of your own.

    Args:
        speeds: samples/s of each rank when it computes alone.
        global_batch: samples of one step.
        by_hand: shares of your own; they must add up to the global batch.

    Raises:
        UserError: a speed or share that cannot be, or numbers that do not fit each other.
    """
    try:
        tables = [TimeTable.from_speed(speed) for speed in speeds]
        ways = [
            ("equal", equal_shares(len(speeds), global_batch)),
            ("proportional", proportional_shares(speeds, global_batch)),
            ("best", solve_shares(tables, global_batch)),
        ]
    except PlanError as error:
        raise UserError(str(error)) from error
    if by_hand:
        if len(by_hand) != len(speeds) or sum(by_hand) != global_batch or min(by_hand) < 0:
            raise UserError(
                f"shares {_row(by_hand)} do not split {global_batch} samples over {len(speeds)} ranks",
                next_step=f"give {len(speeds)} shares that add up to {global_batch}",
            )
        ways.insert(0, ("yours", tuple(by_hand)))
    return tuple(_split(name, shares, tables) for name, shares in ways)


def _split(name: str, shares: tuple[int, ...], tables: Sequence[TimeTable]) -> Split:
    seconds = step_seconds(tables, shares)
    waits = tuple(seconds - table.seconds(share) for table, share in zip(tables, shares, strict=True))
    return Split(name, shares, seconds, sum(shares) / seconds, waits)


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Return the numbers of ``256,180,45,40``.

    Raises:
        UserError: a word is no positive number.
    """
    try:
        values = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise UserError(f"{what} {text!r} are not numbers", next_step="write them like 256,180,45,40")
    return values


def render(found: Sequence[Split], speeds: Sequence[float]) -> str:
    """Return a table for a terminal."""
    ideal = math.fsum(speeds)
    rows = [("shares", "samples of each rank", "step", "samples/s", "of the sum of speeds", "longest wait")]
    rows += [
        (
            split.name,
            _row(split.shares),
            f"{split.step_seconds:.3f} s",
            f"{split.samples_per_second:.0f}",
            f"{split.samples_per_second / ideal:.0%}",
            f"{max(split.waits):.3f} s",
        )
        for split in found
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def document(found: Sequence[Split]) -> str:
    """Return the same as JSON."""
    return json.dumps({"schema": SCHEMA, "splits": [asdict(split) for split in found]}, indent=2)


def _row(shares: Sequence[int]) -> str:
    return "/".join(str(share) for share in shares)

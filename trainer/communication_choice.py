"""Which way gradients travel when that is left open: from the link and the computing, without torch.

The launcher predicts with it what the ranks will choose for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trainer.options import Communication

CHEAP: Final = 0.05
"""Exact gradients stay while they take less than this part of the computing."""
BEARABLE: Final = 0.2
"""16-bit gradients stay while they take less than this part of the computing. Beyond it they cost more than an
approximation is worth sparing: at 100 Mbit/s a step with them lasts twice as long as one with PowerSGD."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How gradients will travel, and why."""

    mode: Communication
    reason: str


def choose(wanted: Communication, gradient_bytes: int, bytes_per_second: float, compute_seconds: float) -> Choice:
    """Resolve ``auto`` from the measured link and the predicted compute time of a step; keep any other wish.

    Exact gradients are kept while they are cheap, 16-bit ones while they are bearable, and beyond that PowerSGD's
    approximation is used. ``bytes_per_second`` of 0 means that nothing has to travel.
    """
    if wanted != "auto":
        return Choice(wanted, "as asked")
    if bytes_per_second <= 0:
        return Choice("exact", "a single rank exchanges nothing")
    exact = gradient_bytes / bytes_per_second
    part = exact / compute_seconds if compute_seconds > 0 else float("inf")
    figures = (
        f"{gradient_bytes / 1e6:.1f} MB of gradients take {exact * 1e3:.0f} ms at the measured "
        f"{bytes_per_second * 8 / 1e6:.0f} Mbit/s, {part:.0%} of {compute_seconds * 1e3:.0f} ms of computing"
    )
    if part < CHEAP:
        return Choice("exact", figures)
    if part / 2 < BEARABLE:
        return Choice("bf16", f"{figures}; 16-bit gradients take half of that")
    return Choice("powersgd", f"{figures}; low-rank gradients are an approximation with error feedback")

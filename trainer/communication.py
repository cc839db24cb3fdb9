"""How gradients travel: measuring the link between the members, and choosing a reduction for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import torch

from trainer.compression import PowerSgdReduction
from trainer.group import Group
from trainer.options import Communication, Options
from trainer.reduction import ExactReduction, FlatModel, HalfReduction, Reduction, RowsOnly

LINK_TEST_BYTES: Final = 4 << 20
CHEAP: Final = 0.05
"""Exact gradients stay while they take less than this part of the computing."""
BEARABLE: Final = 0.5
"""16-bit gradients stay while they take less than this part of the computing."""


def measure_link(group: Group) -> float:
    """Return the bytes a second at which an all-reduce of 4 MiB moves; 0 for a single member. All members call it.

    The rate is ``bytes / seconds`` of the whole all-reduce, the mean over the members, so it is the same on all.

    Raises:
        GroupBroken: a member is lost.
    """
    if len(group.members) == 1:
        return 0.0
    payload = torch.zeros(LINK_TEST_BYTES // 4)
    group.all_reduce(payload[:1024])
    start = time.perf_counter()
    group.all_reduce(payload)
    rate = torch.tensor([LINK_TEST_BYTES / (time.perf_counter() - start)], dtype=torch.float64)
    group.all_reduce(rate)
    return float(rate.item()) / len(group.members)


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


def make_reduction(mode: Communication, options: Options, flat: FlatModel) -> Reduction:
    """Build the reduction of a resolved mode. A new one for every group: errors kept for lost ranks mean nothing."""
    match mode:
        case "bf16":
            return HalfReduction("bf16", torch.bfloat16)
        case "fp16":
            return HalfReduction("fp16", torch.float16)
        case "powersgd":
            return PowerSgdReduction(flat, options.powersgd_rank, options.seed)
        case "local_sgd":
            return RowsOnly()
        case _:
            return ExactReduction()

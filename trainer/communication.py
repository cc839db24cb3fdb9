"""How gradients travel: measuring the link between the members, and building the reduction that was chosen for it."""

from __future__ import annotations

import time
from typing import Final

import torch

from trainer.communication_choice import choose
from trainer.compression import PowerSgdReduction
from trainer.group import Group
from trainer.options import Communication, Options
from trainer.reduction import ExactReduction, FlatModel, HalfReduction, Reduction, RowsOnly

__all__ = ["LINK_TEST_BYTES", "choose", "make_reduction", "measure_link"]

LINK_TEST_BYTES: Final = 4 << 20


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

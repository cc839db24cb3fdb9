"""One member's state for all: how a rank that joins, or that missed a step, becomes equal to the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.group import Group
from trainer.learner import LearnerProtocol
from trainer.reduction import Row
from trainer.state import Progress


def share_state(
    group: Group, source: int, learner: LearnerProtocol, progress: Progress, balance_state: Mapping[str, Any] | None
) -> tuple[Progress, Mapping[str, Any] | None]:
    """Give every member the tensors of ``source``, and return its progress and balance state. All members call it.

    Raises:
        GroupBroken: a member is lost; this rank's state is as it was.
    """
    own = learner.tensors()
    header = json.dumps(
        {
            "progress": progress.to_json(),
            "balance": balance_state,
            "extra": learner.extra_state(),
            "tensors": [
                [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
                for name, tensor in sorted(own.items())
            ],
        }
    )
    told = json.loads(group.broadcast_bytes(header.encode(), source))
    received: dict[str, torch.Tensor] = {}
    for name, shape, dtype in told["tensors"]:
        tensor = own[name] if group.rank == source else torch.empty(shape, dtype=getattr(torch, dtype))
        group.broadcast(tensor, source)
        received[name] = tensor
    if group.rank == source:
        return progress, balance_state
    learner.load_tensors(received)
    learner.load_extra_state(told["extra"])
    return Progress.from_json(told["progress"]), told["balance"]


def heal_drift(group: Group, learner: LearnerProtocol, rows: Sequence[Row]) -> str:
    """Compare the parameters' checksums, make all members equal where they differ, and return what is to be told.

    All members see the same rows, so all act alike.

    Raises:
        GroupBroken: a member is lost.
    """
    if len({(row.checksum_high, row.checksum_low) for row in rows}) == 1:
        return ""
    source = group.members[0]
    tensors = learner.tensors()
    for _, tensor in sorted(tensors.items()):
        group.broadcast(tensor, source)
    if group.rank != source:
        learner.load_tensors(tensors)
    return f"the ranks' parameters had drifted apart; all take those of rank {source}"

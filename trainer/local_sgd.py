"""Local SGD: each rank steps on its own share, and the parameters are averaged every few steps.

Stich: "Local SGD Converges Fast and Communicates Little", ICLR 2019 (arXiv 1805.09767). A rank's parameters weigh as
much as the samples it has computed since the last average. Between two averages only the figures of the ranks travel.
This is other mathematics than one big batch: the loss curve depends on the shares, and when a rank is lost, what it
did since the last average is lost with it.
"""

from __future__ import annotations

import torch

from trainer.group import Group
from trainer.learner import LearnerProtocol


class LocalSgd:
    """When to average, and with which weights."""

    def __init__(self, every: int) -> None:
        """``every`` is in optimizer steps."""
        self._every = every
        self._samples = 0

    def count(self, samples: int) -> None:
        """Note the samples this rank has computed in a step."""
        self._samples += samples

    def is_due(self, steps: int) -> bool:
        """Say whether the parameters are averaged after ``steps`` steps of the run."""
        return steps % self._every == 0

    def average(self, group: Group, learner: LearnerProtocol) -> None:
        """Make all members equal: the average of parameters and optimizer state. All members call it.

        Raises:
            GroupBroken: a member is lost; this rank's state is as it was.
        """
        total = torch.tensor([float(self._samples)], dtype=torch.float64)
        group.all_reduce(total)
        if total.item() == 0:
            return
        weight = self._samples / total.item()
        averaged = {name: tensor * weight for name, tensor in sorted(learner.tensors().items())}
        for tensor in averaged.values():
            group.all_reduce(tensor)
        learner.load_tensors(averaged)
        self._samples = 0

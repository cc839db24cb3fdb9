"""What the training loop of a rank works with: its place, its model, its group, and what reaches it from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data import BalancedSampler
from trainer.events import Emitter
from trainer.group import Group
from trainer.learner import LearnerProtocol
from trainer.link import Link
from trainer.options import Options
from trainer.reduction import Reduction
from trainer.speed import Calibration
from trainer.state import Progress


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a loop works with."""

    options: Options
    rank: int
    world_size: int
    emitter: Emitter
    learner: LearnerProtocol
    sampler: BalancedSampler
    host: str
    """Inventory name of this rank's host."""
    group: Group
    link: Link
    calibration: Calibration
    measure_link: Callable[[Group], float]
    """Called in a group with somebody new, all members taking part; returns bytes a second, the same on all."""
    choose_reduction: Callable[[Group, float, float], Reduction]
    """Takes the group, that rate, and the predicted compute time of a step in seconds."""
    poll_control: Callable[[], None]
    """Looks for control messages and signals; called once a step and while paused."""
    is_leaving: Callable[[], bool]
    """Whether this rank was told to leave while the others go on."""
    save: Callable[[Progress, Mapping[str, Any]], None]
    """Writes a checkpoint of the progress and the balance state."""

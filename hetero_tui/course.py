"""How far a run is, and its loss, learning rate and throughput over the optimizer steps."""

from __future__ import annotations

import math

from hetero_tui.rank_record import sane_samples, sane_seconds
from hetero_tui.step_rows import StepRow
from hetero_tui.windows import History
from trainer.events import Step


class Course:
    """Fed with the steps of all ranks. The first one to tell of a step tells it for all.

    Loss, global batch and duration are the same everywhere.
    """

    def __init__(self) -> None:
        self.step = 0
        """The newest step that was made; set back when a checkpoint is restored."""
        self.steps_total = 0
        self.epoch = 0
        self.global_batch = 0
        """Samples of one optimizer step; 0 before the first."""
        self.loss: float | None = None
        self.learning_rate: float | None = None
        self.losses = History()
        self.learning_rates = History()
        self.throughput = History()
        """Samples per second of the cluster."""

    def feed(self, event: Step | StepRow) -> bool:
        """Take in a step of a rank, and tell whether it was a new one for the run."""
        if event.step <= self.step and self.global_batch:
            return False
        self.step = event.step
        self.steps_total = event.steps_total
        self.epoch = event.epoch
        self.global_batch = sane_samples(event.global_batch)
        self.loss = event.loss if math.isfinite(event.loss) else None
        self.learning_rate = event.learning_rate if math.isfinite(event.learning_rate) else None
        self.losses.add(event.step, event.loss)
        self.learning_rates.add(event.step, event.learning_rate)
        if duration := sane_seconds(event.duration):
            self.throughput.add(event.step, sane_samples(event.global_batch) / duration)
        return True

"""The agent's command line: ``python3 -P -m trainer …`` with every option of the run."""

from __future__ import annotations

from typing import Final

from remote.inventory_model import Limits, Training

LOST_RANK_SECONDS: Final = Limits().lost_rank_seconds
"""What the trainer takes by itself (``trainer/options.py``)."""


def trainer_command(
    training: Training, *, python: str, data_folder: str, script: str, lost_rank_seconds: float = LOST_RANK_SECONDS
) -> tuple[str, ...]:
    """Return the command line of the agent; the same on every host except for the two paths.

    Args:
        training: what is trained.
        python: interpreter on the host or in the image.
        script: the script's path as the agent sees it; empty for a built-in workload.
        data_folder: where the agent sees the data set; empty when there is none.
        lost_rank_seconds: silence after which a rank counts as lost.
    """
    what: tuple[str, ...] = ()
    if training.workload is not None:
        what = ("--workload", training.workload, "--dataset", training.chosen_dataset or "")
        if training.samples is not None:
            what += ("--samples", str(training.samples))
    how: tuple[str, ...] = (
        *("--global-batch", str(training.global_batch)),
        *("--epochs", str(training.epochs)),
        *(("--optimizer", training.optimizer) if training.optimizer else ()),
        *(("--learning-rate", repr(training.learning_rate)) if training.learning_rate else ()),
        *("--seed", str(training.seed)),
        *("--policy", training.policy),
        *("--communication", training.communication),
        "--elastic" if training.elastic else "--no-elastic",
        *("--checkpoint-every", str(training.checkpoint_every)),
    )
    if lost_rank_seconds != LOST_RANK_SECONDS:
        how += ("--heartbeat-timeout", f"{lost_rank_seconds:g}")
    if training.resume:
        how += ("--resume",)
    if data_folder:
        how += ("--data-dir", data_folder)
    own = (script, *training.args) if script else ()
    # Without -P a trainer.py or trainer folder where the agent starts would be run in place of ours.
    return (python, "-P", "-m", "trainer", *what, *how, *own)

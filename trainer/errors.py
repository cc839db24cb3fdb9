"""Everything that can go wrong in a rank or in the agent that starts the ranks of one host.

TrainerError
├── UsageError            options or environment are wrong; exit 2, no traceback
├── DataError             the data folder does not hold what the dataset needs; exit 2, no traceback
├── StartError            the run never began: no go, or ranks that did not come
├── GroupBroken           a collective failed; the survivors form a new group
├── RunAborted            the run ended because of another rank, which the message names
├── CoordinatorLost       the process on the master that knows the members does not answer
└── CheckpointError       a checkpoint is broken or belongs to another run
"""

from __future__ import annotations

from typing import Final

UNFIT: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON of another shape raises: no number, no such key, nested too deep, beyond what a float holds."""


class TrainerError(Exception):
    """A message that says what was tried, what came back, and what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}" if self.next_step else self.message


class UsageError(TrainerError):
    """An option or an environment variable is wrong."""

    exit_code = 2


class DataError(TrainerError):
    """A dataset is missing or damaged."""

    exit_code = 2


class StartError(TrainerError):
    """The run could not begin."""


class GroupBroken(TrainerError):
    """A collective of this generation failed, or the coordinator gave the generation up."""


class RunAborted(TrainerError):
    """The coordinator ended the run; the message names the first cause."""


class CoordinatorLost(TrainerError):
    """The coordinator on the master does not answer any more."""


class CheckpointError(TrainerError):
    """A checkpoint is truncated, damaged, or belongs to another run."""

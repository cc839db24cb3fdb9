"""Where a run stands, apart from the tensors: small enough to send to a rank that joins and to keep in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.exclusion import Exclusion


@dataclass(slots=True)
class EpochSums:
    """What an epoch has added up to so far, over all ranks."""

    samples: int = 0
    units: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Progress:
    """The position of a run; equal on all members after every step."""

    step: int = 0
    """Completed optimizer steps. With the global batch and the seed it also is the position in the data."""
    samples: int = 0
    """Samples of all ranks together, over all epochs."""
    seconds: float = 0.0
    """Time spent in completed steps."""
    loss: float = math.nan
    applied_commands: int = 0
    paused: bool = False
    stopping: bool = False
    epoch: EpochSums = field(default_factory=EpochSums)
    exclusion: Exclusion = field(default_factory=Exclusion)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; NaN becomes ``null``."""
        values = asdict(self)
        values["exclusion"] = self.exclusion.to_json()
        values["loss"] = None if math.isnan(self.loss) else self.loss
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Read what :meth:`to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            step=int(values["step"]),
            samples=int(values["samples"]),
            seconds=float(values["seconds"]),
            loss=math.nan if values["loss"] is None else float(values["loss"]),
            applied_commands=int(values["applied_commands"]),
            paused=bool(values["paused"]),
            stopping=bool(values["stopping"]),
            epoch=EpochSums(**values["epoch"]),
            exclusion=Exclusion.from_json(values.get("exclusion", {})),
        )

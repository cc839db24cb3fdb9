"""How much quicker a new plan must promise to be before it replaces the one in force.

Moving samples costs nothing, but shares that never rest cannot be read, and a plan that follows noise is no better than
the one before it. So a change must promise the more, the more changes there were lately; and only a plan that has held
for long is refined for a small gain. Standard library only, and the arithmetic is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

GAIN: Final = 0.035
"""A new plan must promise a step this much shorter."""
SMALL_GAIN: Final = 0.015
"""The same once the plan has held for long: by then the speeds are known to a fraction of this."""
RESTRAINT: Final = 1.0
"""A change raises the gain that the next one must promise by this part, less with every step that has passed since."""
FORGOTTEN: Final = 150
"""Steps after which a change does not raise it any more."""
START: Final = 16
"""Changes within the first steps correct the calibration, and are no restlessness."""
REFINED_AFTER: Final = (48, 100, 300)
"""Steps a plan must have held to be refined for a small gain, after no, one and several changes within the last of
these numbers of steps: twice the speed of a rank changed and was followed by a refinement, and then there is peace."""


class Hysteresis:
    """Remembers when the plan was changed; one step is one observation."""

    def __init__(self, changes: Iterable[int] = ()) -> None:
        """``changes`` are the steps of earlier changes, as :attr:`changes` has them."""
        self._changes = list(changes)

    @property
    def changes(self) -> list[int]:
        """Steps of the changes that still count, to build an equal object from."""
        return list(self._changes)

    def changed(self, step: int) -> None:
        """Note that the plan was changed after ``step`` steps."""
        if step > START:
            self._changes.append(step)

    def required(self, step: int, planned_at: int) -> float:
        """Return by what part of the new plan's step the present plan must be slower.

        Args:
            step: Steps observed so far.
            planned_at: Step of the plan in force.
        """
        self._changes = [at for at in self._changes if step - at < REFINED_AFTER[-1]]
        if step - planned_at >= REFINED_AFTER[min(len(self._changes), len(REFINED_AFTER) - 1)]:
            return SMALL_GAIN
        recent = sum(max(0, FORGOTTEN - (step - at)) for at in self._changes)
        return GAIN * (1 + RESTRAINT * recent / FORGOTTEN)

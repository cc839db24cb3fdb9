"""How slow one rank is now, from noisy step times: a trimmed mean that forgets when the speed really changed.

A reading is the measured time over the time the calibration predicts for the same share, so 1.0 means "as calibrated"
and 2.0 "half as fast", whatever the share was. The mean of a window without its ends ignores spikes and pauses, and
unlike a median it is right for readings that jump between two values, as those of a rank under a CPU quota do. A change
detector empties the window when several readings in a row lie on the same side, so a real change is followed within a
few steps. Only operations that IEEE 754 rounds in one way are used (no logarithms): all ranks reach the same state.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

WINDOW: Final = 64
"""Readings that count: the error of their mean is ``noise / sqrt(WINDOW)``."""
TRIM: Final = 0.1
"""Part of the readings ignored at each end, and the quantiles the noise is read from."""
SMALLEST_RESIDUAL: Final = 0.06
"""A reading closer to the estimate than this never counts as a sign of change."""
RUN: Final = 4
"""Readings in a row on the same side that mean the speed changed."""
SHORT_RUN: Final = 3
"""The same for readings that are far off and agree with each other."""
FAR: Final = 0.25
RESTLESS_WITHIN: Final = 24
"""A change that follows another one within this many readings is taken for a swing, and the next needs a longer run."""
LONGEST_RUN: Final = 32
CALM_AFTER: Final = 150
"""Readings without a change after which one swing is forgotten."""
FEW: Final = 8
"""With fewer readings than this the noise of the window is not known, and the noise before it is used."""
INITIAL_NOISE: Final = 0.05
SMALLEST_NOISE: Final = 0.005


TYPICAL_OF: Final = 32
"""Readings that say what is usual."""


class TypicalSeconds:
    """What a short, noisy and seldom changing duration usually is: the median of the last readings."""

    def __init__(self, readings: Sequence[float] = ()) -> None:
        self._window: deque[float] = deque(readings, maxlen=TYPICAL_OF)
        self.value = median(self._window) if self._window else 0.0
        """In seconds; 0 before any reading."""

    def update(self, reading: float) -> None:
        """Take in a reading; one that is negative or not finite is none."""
        if reading >= 0 and math.isfinite(reading):
            self._window.append(reading)
            self.value = median(self._window)

    def state(self) -> list[float]:
        """Return the readings, to build an equal object from."""
        return list(self._window)


class SpeedEstimate:
    """Follows the slowness of one rank."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._sorted: list[float] = []
        self._noise = INITIAL_NOISE
        self._run = 0
        self._since_change = CALM_AFTER
        self._swings = 0
        self._slowness = 1.0

    @property
    def slowness(self) -> float:
        """Time of the rank over the time it was calibrated with: 2.0 is half as fast. 1.0 before any reading."""
        return self._slowness

    @property
    def readings(self) -> int:
        """Readings in the window: since the last change, at most ``WINDOW``."""
        return len(self._window)

    @property
    def noise(self) -> float:
        """Relative standard deviation of one reading, read from quantiles so that spikes do not count.

        Readings that may belong to a change in progress are left out. The distance between the 10 % and the 90 %
        quantile of a normal distribution is 2.56 standard deviations.
        """
        old = len(self._window) - abs(self._run)
        if old < FEW:
            return self._noise
        return _spread(self._sorted if not self._run else sorted(list(self._window)[:old]))

    @property
    def error(self) -> float:
        """Relative standard error of :attr:`slowness`."""
        return self.noise / math.sqrt(max(1, len(self._window)))

    def restart(self, slowness: float) -> None:
        """Forget everything but one reading: the rank was idle and has been tried again."""
        self._noise = self.noise
        self._window.clear()
        self._sorted.clear()
        self._run = 0
        self._add(slowness)

    def update(self, reading: float) -> bool:
        """Take in a positive, finite reading; return True when the speed was found to have changed."""
        self._since_change += 1
        if self._swings and self._since_change % CALM_AFTER == 0:
            self._swings -= 1
        side = self._side(reading)
        self._run = self._run + side if side and self._run * side >= 0 else side
        self._add(reading)
        if not self._changed():
            return False
        self._swings = self._swings + 1 if self._since_change <= RESTLESS_WITHIN else self._swings
        self._since_change = 0
        self._keep_newest(abs(self._run))
        self._run = 0
        return True

    def _side(self, reading: float) -> int:
        """Return +1 or -1 for a reading that is slower or faster than the noise explains, else 0."""
        if not self._window:
            return 0
        ratio = reading / self._slowness
        if 1 / (1 + SMALLEST_RESIDUAL) < ratio < 1 + SMALLEST_RESIDUAL:
            return 0
        threshold = max(SMALLEST_RESIDUAL, 2 * self.noise)
        return 1 if ratio > 1 + threshold else -1 if ratio < 1 / (1 + threshold) else 0

    def _changed(self) -> bool:
        run = abs(self._run)
        if run < min(SHORT_RUN, RUN):
            return False
        if run >= min(RUN << self._swings, LONGEST_RUN):
            return True
        if self._swings or run < SHORT_RUN:
            return False
        newest = list(self._window)[-run:]
        middle = median(newest)
        far = max(FAR, 4 * self.noise)
        off = middle / self._slowness
        return not 1 / (1 + far) < off < 1 + far and max(newest) / min(newest) < 1 + max(FAR / 2, 4 * self.noise)

    def _keep_newest(self, count: int) -> None:
        kept = list(self._window)[-count:]
        self._noise = self.noise
        self._window.clear()
        self._window.extend(kept)
        self._sorted = sorted(kept)
        self._slowness = _middle(self._sorted)

    def _add(self, reading: float) -> None:
        if len(self._window) == WINDOW:
            oldest = self._window.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._window.append(reading)
        insort(self._sorted, reading)
        self._slowness = _middle(self._sorted)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; Python writes floats so that they read back to the same bits."""
        return {
            "window": list(self._window),
            "noise": self._noise,
            "run": self._run,
            "since_change": self._since_change,
            "swings": self._swings,
            "slowness": self._slowness,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._window = deque(state["window"], maxlen=WINDOW)
        self._sorted = sorted(self._window)
        self._noise = state["noise"]
        self._run = state["run"]
        self._since_change = state["since_change"]
        self._swings = state["swings"]
        self._slowness = state["slowness"]


def _middle(values: Sequence[float]) -> float:
    """Return the mean of sorted values without their ends; the median of a few."""
    cut = int(len(values) * TRIM)
    if not cut:
        return median(values)
    return math.fsum(values[cut:-cut]) / (len(values) - 2 * cut)


def _spread(values: Sequence[float]) -> float:
    """Return the relative standard deviation that the quantiles of sorted values stand for; never quite 0."""
    cut = int(len(values) * TRIM)
    return max((values[-1 - cut] - values[cut]) / (2.563 * _middle(values)), SMALLEST_NOISE)

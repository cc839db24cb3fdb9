"""Bytes per second over the last seconds, and bytes per layer. Pure, with the clock handed in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from remote.images.model import LayerProgress

WINDOW_SECONDS: Final = 3.0


@dataclass(slots=True)
class Meter:
    """Counts the bytes of each layer and how fast they come."""

    totals: dict[str, int]
    """Bytes of each layer, by digest."""
    clock: Callable[[], float] = time.monotonic
    reached: dict[str, int] = field(default_factory=dict)
    """How far each layer has come: bytes sent again count once."""
    moved: int = 0
    """All bytes handed out, those sent again too."""
    _times: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, layer: str, first: int, count: int) -> None:
        """Take in that bytes ``first`` to ``first + count`` of a layer were handed out."""
        self.reached[layer] = max(self.reached.get(layer, 0), first + count)
        self.moved += count
        now = self.clock()
        self._times.append((now, self.moved))
        while self._times[0][0] < now - WINDOW_SECONDS and len(self._times) > 2:
            self._times.popleft()

    @property
    def rate(self) -> float:
        """Bytes/s over the last three seconds."""
        if len(self._times) < 2:
            return 0.0
        (start, before), (end, after) = self._times[0], self._times[-1]
        return (after - before) / (end - start) if end > start else 0.0

    @property
    def done(self) -> int:
        """Bytes of all layers that have arrived, each once."""
        return sum(min(self.totals[layer], count) for layer, count in self.reached.items() if layer in self.totals)

    def layers(self) -> tuple[LayerProgress, ...]:
        """Return the layers that have begun to move."""
        return tuple(
            LayerProgress(layer.removeprefix("sha256:")[:12], self.reached[layer], total)
            for layer, total in self.totals.items()
            if layer in self.reached
        )

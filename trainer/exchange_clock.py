"""How long this rank's own processor works on the exchange of gradients, apart from waiting for others.

Ranks that start an exchange together do not end it together: one with a weak processor, or a container held down to an
eighth of one, still copies and adds when the others are done. The others wait for it, so the plan counts this time as
part of the rank's own step. It cannot be seen on a clock, because waiting and working alternate inside the exchange;
processor time tells them apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

SHORTEST_COMPUTING: Final = 0.02
"""Seconds of computing from which its rate of processor time is known well enough."""


@dataclass(slots=True)
class ExchangeClock:
    """Follows the steps of one rank: :meth:`begin`, compute, :meth:`computed`, exchange, :meth:`exchanged`."""

    _began: tuple[float, float] = (0.0, 0.0)
    _ready: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        """The computing of a step begins."""
        self._began = (time.perf_counter(), time.process_time())

    def computed(self) -> None:
        """The computing is done and the exchange begins."""
        self._ready = (time.perf_counter(), time.process_time())

    def exchanged(self) -> float:
        """Return the seconds the exchange would have lasted if nobody had to be waited for.

        Only for a rank that computes on its processor: on one that computes elsewhere, other threads may work now.
        """
        used = time.process_time() - self._ready[1]
        lasted, computing = (ready - began for ready, began in zip(self._ready, self._began, strict=True))
        if lasted < SHORTEST_COMPUTING or computing <= 0:
            return used
        # Only a processor that others keep busy, or a quota, makes this more than the processor time itself.
        return used * max(1.0, lasted / computing)

"""Two threads that take turns: the training loop of this package, and the user's own loop in the main thread.

The training loop decides what is computed and reduces it; the user's loop computes. Exactly one of them runs at any
time, so neither sees a half-done step of the other. It is the inversion a generator would give, without turning the
training loop, and everything it calls, into generators.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class ScriptLeft(Exception):
    """The user's loop was left before the end of the training."""


@dataclass(slots=True)
class Piece:
    """A micro-batch for the user's loop, and what the loop made of it."""

    batch: Any
    samples: int
    step: int
    nominal: float
    """The losses of all units of a step are divided by this before backward."""
    measuring: bool
    """Computed to see how long it takes; the gradient is thrown away."""
    has_gradient: bool = False
    units: int = 0
    losses: list[Tensor] = field(default_factory=list)
    """Detached sums over units."""
    correct: int = 0


class Turns:
    """Hands pieces to the user's thread and the turn back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._piece: Piece | None = None
        self._at_work = False
        self._ended = False
        self._error: BaseException | None = None
        self._left = False

    def offer(self, piece: Piece) -> None:
        """Give the turn to the user's loop, and wait until it has computed ``piece``. Called by the training.

        Raises:
            ScriptLeft: there will be no answer.
        """
        with self._changed:
            self._piece, self._at_work = piece, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._left or not self._at_work)
            if self._left:
                raise ScriptLeft

    def run(self, train: Callable[[], None]) -> None:
        """Train to the end; the user's thread is told how it ended. The body of the training's thread."""
        try:
            train()
        except ScriptLeft:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the user's thread
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def next(self) -> Piece | None:
        """Wait for the turn and return the piece to compute; None at the end. Called by the user's loop.

        Raises:
            BaseException: what ended the training.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._at_work or self._ended)
            if self._at_work:
                return self._piece
        if self._error is not None:
            raise self._error
        return None

    def at_work(self, piece: Piece) -> bool:
        """Say whether ``piece`` still waits to be done."""
        with self._changed:
            return self._at_work and self._piece is piece

    def done(self) -> None:
        """Give the turn back: the piece is computed. Returns when the next one is there, and the last one applied."""
        with self._changed:
            self._at_work = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._at_work or self._ended)

    def leave(self) -> None:
        """End the training's thread: nobody will compute any more."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

"""Asking hosts for a sign of life: how a rank that stands aside learns that a cut network is whole again.

Any answer counts, a refusal too: it comes from the other host's kernel. The port is one on which nobody listens, the
other rank's end of its own connection to the coordinator; it lies in the range that is open for training.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

EVERY_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.0
Address = tuple[str, int]


class Prober:
    """Asks what it was told to ask, once a second, and tells each rank that answered often enough in a row."""

    def __init__(self, on_answers: Callable[[list[int]], None]) -> None:
        """``on_answers`` takes ranks; it is called on the prober's own thread."""
        self._on_answers = on_answers
        self._changed = threading.Condition()
        self._asked: dict[int, Address] = {}
        self._answers = 1
        self._begun = False
        self._closed = False

    def ask(self, addresses: Mapping[int, Address], answers: int) -> None:
        """Ask these ranks from now on, and no others; each counts as reached after ``answers`` answers in a row."""
        with self._changed:
            self._asked, self._answers = dict(addresses), answers
            if self._asked and not self._begun:
                self._begun = True
                threading.Thread(target=self._run, name="prober", daemon=True).start()
            self._changed.notify_all()

    def close(self) -> None:
        """Ask no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        in_a_row: dict[int, int] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closed)
                if self._closed:
                    return
                asked, needed = dict(self._asked), self._answers
            in_a_row = {rank: in_a_row.get(rank, 0) + 1 if answers(at) else 0 for rank, at in asked.items()}
            if reached := [rank for rank, count in in_a_row.items() if count == needed]:
                self._on_answers(reached)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=EVERY_SECONDS)


def answers(address: Address, seconds: float = ANSWER_SECONDS) -> bool:
    """Return whether a host answers at an address within ``seconds``."""
    try:
        socket.create_connection(address, timeout=seconds).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True

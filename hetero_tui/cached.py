"""A value that is dear to make and asked for by several widgets in the same moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

UNCHANGED_SECONDS: Final = 0.05
SOME_RANKS: Final = 16
SOME_RANKS_SECONDS: Final = 0.2
MANY_RANKS: Final = 128
MANY_RANKS_SECONDS: Final = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cached(Generic[T]):
    """A view of all ranks as it was made at some time, from some version of what is known."""

    value: T
    made: float
    version: int

    def fresh(self, now: float, version: int, ranks: int) -> bool:
        """Tell whether it may be shown again: nothing new, or so many ranks that making it anew costs too much."""
        age = now - self.made
        if self.version == version and 0 <= age < UNCHANGED_SECONDS:
            return True
        limit = MANY_RANKS_SECONDS if ranks > MANY_RANKS else SOME_RANKS_SECONDS if ranks > SOME_RANKS else 0.0
        return 0 < age < limit

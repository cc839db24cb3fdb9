"""Bounded containers of the run's state: a ring with absolute numbers, a decimated history, a sliding window."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

WINDOW_SECONDS: Final = 10
"""Length of the window all rates are taken over."""


class Ring(Generic[T]):
    """The last ``capacity`` items, addressed by their absolute number, which never changes."""

    __slots__ = ("_capacity", "_items", "_next", "_start")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: list[T] = []
        self._start = 0
        self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> int:
        """Number of the oldest item that is still here; also how many were dropped."""
        return self._next - len(self._items)

    @property
    def next(self) -> int:
        """Number the next item will get; also how many there ever were."""
        return self._next

    def append(self, item: T) -> None:
        """Add one item; the oldest goes when the ring is full."""
        if len(self._items) < self._capacity:
            self._items.append(item)
        else:
            self._items[self._start] = item
            self._start = (self._start + 1) % self._capacity
        self._next += 1

    def __getitem__(self, number: int) -> T:
        """Return the item with that absolute number.

        Raises:
            IndexError: it was dropped or has not come yet.
        """
        offset = number - self.first
        if not 0 <= offset < len(self._items):
            raise IndexError(number)
        return self._items[(self._start + offset) % len(self._items)]

    def tail(self, count: int) -> list[T]:
        """Return the newest ``count`` items, oldest first."""
        return [self[number] for number in range(max(self.first, self._next - count), self._next)]

    def shrink(self, capacity: int) -> None:
        """Lower the capacity; the oldest items go."""
        if capacity >= self._capacity:
            return
        self._items = self.tail(capacity)
        self._start = 0
        self._capacity = capacity


@dataclass(frozen=True, slots=True)
class Point:
    """Mean, lowest and highest value over a stretch that ends at ``x``."""

    x: float
    mean: float
    low: float
    high: float


class History:
    """A whole run in at most ``capacity`` points: when full, neighbours are merged and the stride doubles."""

    __slots__ = ("_capacity", "_count", "_high", "_low", "_points", "_stride", "_sum", "_x")

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = capacity
        self._points: list[Point] = []
        self._stride = 1
        self._clear_partial()

    def _clear_partial(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._low = math.inf
        self._high = -math.inf
        self._x = 0.0

    def add(self, x: float, y: float) -> None:
        """Add one value. What lies at or behind ``x`` is replaced: training went back to a checkpoint."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        if self._count and self._x >= x:
            self._clear_partial()
        while self._points and self._points[-1].x >= x:
            self._points.pop()
        self._count += 1
        self._sum += y
        self._low = min(self._low, y)
        self._high = max(self._high, y)
        self._x = x
        if self._count < self._stride:
            return
        self._points.append(self._partial())
        self._clear_partial()
        if len(self._points) >= self._capacity:
            self._halve()

    @property
    def last_x(self) -> float | None:
        """The newest ``x``, or ``None`` before the first."""
        return self._x if self._count else self._points[-1].x if self._points else None

    def forget_from(self, x: float) -> None:
        """Forget what lies behind ``x``."""
        if self._count and self._x > x:
            self._clear_partial()
        while self._points and self._points[-1].x > x:
            self._points.pop()

    def shrink(self, capacity: int) -> None:
        """Lower the capacity; neighbours are merged until the points fit."""
        self._capacity = min(self._capacity, max(8, capacity))
        while len(self._points) >= self._capacity:
            self._halve()

    def _halve(self) -> None:
        odd = self._points[-1:] if len(self._points) % 2 else []
        pairs = zip(self._points[::2], self._points[1::2], strict=False)
        self._points = [*(_merge(left, right) for left, right in pairs), *odd]
        self._stride *= 2

    def _partial(self) -> Point:
        return Point(self._x, self._sum / self._count, self._low, self._high)

    def points(self) -> tuple[Point, ...]:
        """Return the points in rising ``x``, the unfinished last stretch included."""
        return (*self._points, self._partial()) if self._count else tuple(self._points)


def _merge(left: Point, right: Point) -> Point:
    return Point(right.x, (left.mean + right.mean) / 2, min(left.low, right.low), max(left.high, right.high))


@dataclass(slots=True)
class Totals:
    """Sums over the steps of a window. Durations are seconds."""

    steps: int = 0
    share: int = 0
    global_batch: int = 0
    compute: float = 0.0
    data: float = 0.0
    wait: float = 0.0
    communication: float = 0.0
    duration: float = 0.0
    start: float = math.inf
    end: float = -math.inf

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the first step to the end of the last, pauses included."""
        return max(self.end - self.start, self.duration if self.steps == 1 else 0.0, 0.0)

    def add(self, other: Totals) -> None:
        """Add another stretch."""
        self.steps += other.steps
        self.share += other.share
        self.global_batch += other.global_batch
        self.compute += other.compute
        self.data += other.data
        self.wait += other.wait
        self.communication += other.communication
        self.duration += other.duration
        self.start = min(self.start, other.start)
        self.end = max(self.end, other.end)


class StepWindow:
    """Sums over the last :data:`WINDOW_SECONDS` on the clock of the rank's own host, kept second by second."""

    __slots__ = ("_cached", "_seconds")

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Totals]] = deque()
        self._cached: Totals | None = None

    def second(self, time: float) -> Totals:
        """Return the sums to which a step that ended at ``time`` (seconds on the rank's clock) is to be added now."""
        second = math.floor(time)
        self._cached = None
        if self._seconds and second < self._seconds[-1][0] - WINDOW_SECONDS:
            self._seconds.clear()  # the clock of the host was set back
        if not self._seconds or second > self._seconds[-1][0]:
            self._seconds.append((second, Totals()))
            while self._seconds[0][0] <= second - WINDOW_SECONDS:
                self._seconds.popleft()
        return self._seconds[-1][1]

    def add(self, time: float, one: Totals) -> None:
        """Add one step that ended at ``time``."""
        self.second(time).add(one)

    def clear(self) -> None:
        """Forget everything."""
        self._seconds.clear()
        self._cached = None

    def totals(self) -> Totals:
        """Return the sums over the window."""
        if self._cached is None:
            self._cached = Totals()
            for _, second in self._seconds:
                self._cached.add(second)
        return self._cached

"""Fetching micro-batches off the critical path: the next ones are made while the present one is computed.

What a rank will compute is known before it is needed: the pieces of a step, and, unless shares change, those of the
next one. A fetch depends on nothing but the samples and the step, so it does not matter when or where it is made, and
one that turns out not to be wanted is thrown away.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
AHEAD: Final = 2
"""Micro-batches that are made ahead of the one that is computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One micro-batch to fetch."""

    step: int
    indices: Tensor
    """int64 of shape (samples,)."""

    def is_like(self, other: Order) -> bool:
        """Say whether both would give the same micro-batch."""
        return self.step == other.step and torch.equal(self.indices, other.indices)


class Batches(Protocol[T_co]):
    """Where micro-batches come from."""

    def queue(self, indices: Tensor, step: int, sizes: Sequence[int]) -> list[Order]:
        """Return the orders for pieces of ``sizes``; they are the next to be taken, in their order."""
        ...

    def take(self, order: Order) -> T_co:
        """Return the micro-batch of the oldest queued order, waiting where it is not there yet."""
        ...


class DirectBatches(Generic[T]):
    """Makes each micro-batch when it is needed."""

    def __init__(self, fetch: Callable[[Order], T]) -> None:
        self._fetch = fetch

    def queue(self, indices: Tensor, step: int, sizes: Sequence[int]) -> list[Order]:
        return split(indices, step, sizes)

    def take(self, order: Order) -> T:
        return self._fetch(order)


class ThreadBatches(Generic[T]):
    """Makes micro-batches ahead of time in one background thread; ``fetch`` must not use shared random generators."""

    def __init__(self, fetch: Callable[[Order], T]) -> None:
        self._fetch = fetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._orders: deque[Order] = deque()
        self._made: deque[Future[T]] = deque()

    def queue(self, indices: Tensor, step: int, sizes: Sequence[int]) -> list[Order]:
        orders = split(indices, step, sizes)
        if not same(orders, self._orders):
            for future in self._made:
                future.cancel()
            self._made.clear()
            self._orders = deque(orders)
        self._fill()
        return orders

    def take(self, order: Order) -> T:
        assert self._orders[0].is_like(order), "orders are taken as they were queued"
        self._fill()
        self._orders.popleft()
        future = self._made.popleft()
        self._fill()
        return future.result()

    def _fill(self) -> None:
        while len(self._made) < min(AHEAD, len(self._orders)):
            self._made.append(self._thread.submit(self._fetch, self._orders[len(self._made)]))


def split(indices: Tensor, step: int, sizes: Sequence[int]) -> list[Order]:
    """Return one order for each piece of ``sizes``."""
    bounds = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    return [Order(step, indices[start:end]) for start, end in bounds]


def same(orders: Sequence[Order], queued: Sequence[Order]) -> bool:
    """Say whether exactly these orders are queued."""
    return len(orders) == len(queued) and all(one.is_like(other) for one, other in zip(orders, queued, strict=True))


def make_batches(fetch: Callable[[Order], T], device: str) -> Batches[T]:
    """Fetch in a thread where that pays: beside an accelerator, or with a processor that torch leaves free."""
    return ThreadBatches(fetch) if device != "cpu" or _processors() > torch.get_num_threads() else DirectBatches(fetch)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

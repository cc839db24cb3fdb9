"""The samples of a user's DataLoader, dealt out by the balance plan instead of by the loader itself.

The loader's dataset, collate function and worker processes are used; its batch size is the global batch. A sample's
randomness (augmentation in ``__getitem__``) is seeded by the run's seed, the step and the sample, so it does not
matter which rank fetches it, or when.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from trainer.data import mix_number, sample_keys
from trainer.errors import UsageError
from trainer.prefetch import Batches, DirectBatches, Order, make_batches, same, split

Pairs = list[tuple[int, int]]
"""(index, key) of each sample."""
NUMPY_SEEDS: Final = 1 << 32


class LoaderData:
    """What is needed of a loader: how many samples, in which order, and the micro-batches themselves."""

    def __init__(self, loader: DataLoader[Any], seed: int, device: str) -> None:
        """Look at the loader.

        Raises:
            UsageError: its samples cannot be dealt out.
        """
        _check(loader)
        assert loader.batch_size is not None
        self.size = len(loader.sampler)  # type: ignore[arg-type]  # map-style datasets have sized samplers
        self.global_batch = loader.batch_size
        self.drop_last = loader.drop_last
        self._loader = loader
        self._seed = seed
        self.batches = self._make_batches(device)

    def order(self) -> Callable[[int], Tensor] | None:
        """Return the order of each epoch as the loader's sampler gives it; None: a random permutation."""
        sampler = self._loader.sampler
        if isinstance(sampler, SequentialSampler):
            return lambda _epoch: torch.arange(self.size)
        if type(sampler) is RandomSampler and not sampler.replacement and self.size == len(sampler.data_source):
            return None
        return self._sampled

    def _sampled(self, epoch: int) -> Tensor:
        """Ask a sampler of another kind, with the same random numbers on every rank."""
        sampler = self._loader.sampler
        seed = mix_number(self._seed, epoch) & ((1 << 63) - 1)
        generator = getattr(sampler, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        with _own_randomness():
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            return torch.tensor([int(index) for index in sampler], dtype=torch.int64)

    def _make_batches(self, device: str) -> Batches[Any]:
        loader = self._loader
        if type(loader.dataset) is TensorDataset and loader.collate_fn is default_collate:
            return make_batches(self._slice, device)
        if loader.num_workers > 0:
            return WorkerBatches(loader, self._pairs)
        return DirectBatches(self._fetch)

    def _slice(self, order: Order) -> list[Tensor]:
        """Index whole tensors at once: nothing there is random."""
        dataset = self._loader.dataset
        assert isinstance(dataset, TensorDataset)
        return list(dataset[order.indices])

    def _fetch(self, order: Order) -> Any:
        with _own_randomness():
            return self._loader.collate_fn(_seeded_samples(self._loader.dataset, self._pairs(order)))

    def _pairs(self, order: Order) -> Pairs:
        keys = sample_keys(order.indices, self._seed, order.step)
        return list(zip(order.indices.tolist(), keys.tolist(), strict=True))


class SeededSamples(Dataset[Any]):
    """A dataset whose samples are asked for by (index, key); the key seeds what is random in them."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, pair: tuple[int, int]) -> Any:
        return _seeded_samples(self._dataset, [pair])[0]

    def __getitems__(self, pairs: Pairs) -> list[Any]:
        """Return several samples: what the DataLoader's workers call."""
        return _seeded_samples(self._dataset, pairs)


class WorkerBatches:
    """Micro-batches made ahead of time by the loader's own worker processes."""

    def __init__(self, loader: DataLoader[Any], pairs: Callable[[Order], Pairs]) -> None:
        self._queued: deque[Order] = deque()
        self._pairs = pairs
        self._made: Iterator[Any] = iter(())
        self._loader = DataLoader(
            SeededSamples(loader.dataset),
            batch_sampler=_Waiting(self),
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            prefetch_factor=loader.prefetch_factor,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            persistent_workers=True,
        )

    def queue(self, indices: Tensor, step: int, sizes: Sequence[int]) -> list[Order]:
        orders = split(indices, step, sizes)
        if not same(orders, self._queued):
            self._queued = deque(orders)
            self._made = iter(self._loader)
        return orders

    def take(self, order: Order) -> Any:
        assert self._queued[0].is_like(order), "orders are taken as they were queued"
        self._queued.popleft()
        return next(self._made)

    def waiting(self) -> Iterator[Pairs]:
        """Give the workers what is queued now."""
        return map(self._pairs, tuple(self._queued))


class _Waiting:
    """The batch sampler of the workers' loader."""

    def __init__(self, batches: WorkerBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Pairs]:
        return self._batches.waiting()


class _own_randomness:  # noqa: N801 - used like a function
    """Leave the process's random generators as they were."""

    def __enter__(self) -> None:
        self._torch = torch.default_generator.get_state()
        self._python = random.getstate()
        self._numpy = numpy.random.get_state()

    def __exit__(self, *_error: object) -> None:
        torch.default_generator.set_state(self._torch)
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)


def to_device(batch: Any, device: str) -> Any:
    """Copy the tensors of nested lists, tuples and mappings to a device."""
    if device == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return type(batch)({key: to_device(value, device) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _seeded_samples(dataset: Dataset[Any], pairs: Pairs) -> list[Any]:
    samples = []
    for index, key in pairs:
        torch.default_generator.manual_seed(key & ((1 << 63) - 1))
        random.seed(key)
        numpy.random.seed(key % NUMPY_SEEDS)
        samples.append(dataset[index])
    return samples


def _check(loader: DataLoader[Any]) -> None:
    if not isinstance(loader, DataLoader):
        raise UsageError(f"trainer.prepare: expected a DataLoader, not {type(loader).__name__}")
    problem = ""
    if isinstance(loader.dataset, IterableDataset):
        problem = "an iterable dataset cannot be dealt out by sample; it needs __len__ and __getitem__"
    elif loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        problem = "the DataLoader needs a batch_size, which is the global batch, and no batch_sampler of its own"
    elif isinstance(loader.sampler, DistributedSampler):
        problem = "leave the DistributedSampler out: every rank gives the whole dataset, and shares are dealt from it"
    elif len(loader.sampler) == 0:  # type: ignore[arg-type]  # map-style datasets have sized samplers
        problem = "the dataset is empty"
    if problem:
        raise UsageError(f"trainer.prepare: {problem}")

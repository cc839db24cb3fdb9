"""Micro-batches are made ahead of time, whatever is asked for, and are the same as those made on the spot."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from trainer import prefetch
from trainer.data import piece_sizes
from trainer.learner import Learner
from trainer.options import Options
from trainer.prefetch import AHEAD, DirectBatches, Order, ThreadBatches, make_batches
from trainer.workloads import build


def described(order: Order) -> tuple[int, list[int]]:
    return order.step, order.indices.tolist()


def test_the_next_micro_batches_are_made_while_one_is_computed() -> None:
    made: list[int] = []
    enough = threading.Event()

    def fetch(order: Order) -> int:
        made.append(int(order.indices[0]))
        if len(made) == 1 + AHEAD:
            enough.set()
        return made[-1]

    batches = ThreadBatches(fetch)
    orders = batches.queue(torch.arange(50), 0, piece_sizes(50, 10, whole=False))
    assert batches.take(orders[0]) == 0
    assert enough.wait(30), "nobody asked for the second micro-batch yet, but it must be on its way"
    assert [batches.take(order) for order in orders[1:]] == [10, 20, 30, 40]
    assert made == [0, 10, 20, 30, 40], "nothing is made twice"


def test_an_announced_step_is_there_when_it_begins_and_a_changed_one_is_thrown_away() -> None:
    made: list[tuple[int, list[int]]] = []

    def fetch(order: Order) -> tuple[int, list[int]]:
        made.append(described(order))
        return described(order)

    batches = ThreadBatches(fetch)
    batches.queue(torch.arange(6), 7, [3, 3])
    [first, second] = batches.queue(torch.arange(6), 7, [3, 3])
    assert batches.take(first) == (7, [0, 1, 2])
    assert batches.take(second) == (7, [3, 4, 5])
    assert len(made) == 2
    batches.queue(torch.arange(6), 8, [3, 3])
    for indices, step, sizes in ((torch.arange(5), 8, [3, 2]), (torch.arange(5), 9, [3, 2]), (torch.arange(5), 9, [5])):
        [*orders] = batches.queue(indices, step, sizes)
        assert [batches.take(order) for order in orders] == [described(order) for order in orders]
    assert batches.queue(torch.empty(0, dtype=torch.int64), 10, []) == []


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_needed() -> None:
    def fetch(_order: Order) -> int:
        raise OSError("the disk is gone")

    batches = ThreadBatches(fetch)
    [order] = batches.queue(torch.arange(3), 0, [3])
    with pytest.raises(OSError, match="the disk is gone"):
        batches.take(order)


def test_a_thread_is_used_where_a_processor_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_processors", lambda: torch.get_num_threads())
    assert isinstance(make_batches(described, "cpu"), DirectBatches)
    assert isinstance(make_batches(described, "cuda:0"), ThreadBatches)
    monkeypatch.setattr(prefetch, "_processors", lambda: torch.get_num_threads() + 1)
    assert isinstance(make_batches(described, "cpu"), ThreadBatches)


@pytest.mark.parametrize("workload", ["simple_cnn", "bert_small"])
def test_gradients_are_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch, workload: str) -> None:
    gradients = []
    for free in (0, 1):
        monkeypatch.setattr(prefetch, "_processors", lambda free=free: torch.get_num_threads() + free)
        options = Options(workload=workload, samples=64)
        learner = Learner(build(options), options, device="cpu", world_size=1, simulated_samples_per_second=math.inf)
        indices = torch.arange(10)
        learner.announce(indices, 3, 4)
        computed = learner.compute(indices, 3, 4, 10.0, lambda: False)
        assert computed.samples == 10
        assert computed.data_seconds >= 0
        gradients.append(learner.flat.gradient.clone())
    assert torch.equal(*gradients)

"""The gradient of any split equals that of one machine; every sample is computed exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.cluster import REPOSITORY
from trainer.data import BalancedSampler, mix, mix_number, piece_sizes, sample_keys, uniform, whole_pieces
from trainer.workloads.layers import SampleDropout

CASES = [
    {"data": "images", "batch": 96, "step": 0, "shares": [64, 32, 0, 0], "micro_batch": 64},
    {"data": "images", "batch": 192, "step": 1, "shares": [94, 66, 17, 15], "micro_batch": 94},
    {"data": "images", "batch": 192, "step": 1, "shares": [94, 66, 17, 15], "micro_batch": 16},
    {"data": "images", "batch": 192, "step": 2, "shares": [60, 0, 40, 16], "micro_batch": 33},
    {"data": "images", "batch": 128, "step": 0, "shares": [0, 0, 0, 128], "micro_batch": 50},
    {"data": "tokens", "batch": 192, "step": 0, "shares": [94, 66, 17, 15], "micro_batch": 20},
    {"data": "tokens", "batch": 200, "step": 2, "shares": [100, 11, 1, 0], "micro_batch": 7},
]


@pytest.mark.slow
def test_unequal_shares_give_the_gradient_of_one_machine(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.exact_worker", str(rank), str(tmp_path)], env=environment
        )
        for rank in range(4)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    for rank in range(4):
        results = json.loads((tmp_path / f"result{rank}.json").read_text())
        for case, (error, loss_error, samples, reference_samples) in zip(CASES, results, strict=True):
            assert error <= 1e-6, f"rank {rank}, {case}: relative gradient error {error}"
            assert loss_error <= 1e-6
            assert samples == reference_samples


def test_averaging_the_ranks_means_would_be_noticed() -> None:
    """The tolerance above would be worthless if the usual mistake passed it."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(96, 20), torch.randn(96, 1)
    weights = torch.zeros(20, 1, requires_grad=True)

    def mean_gradient(start: int, end: int) -> torch.Tensor:
        loss = ((inputs[start:end] @ weights - targets[start:end]) ** 2).mean()
        return torch.autograd.grad(loss, weights)[0]

    whole = mean_gradient(0, 96)
    averaged = (mean_gradient(0, 64) + mean_gradient(64, 96)) / 2
    assert float((averaged - whole).norm() / whole.norm()) > 1e-3


@settings(max_examples=100, deadline=None)
@given(data=st.data(), size=st.integers(1, 400), global_batch=st.integers(1, 150), seed=st.integers(0, 2**40))
def test_every_sample_once_an_epoch_for_any_share_history(
    data: st.DataObject, size: int, global_batch: int, seed: int
) -> None:
    sampler = BalancedSampler(size, global_batch, seed)
    for epoch in range(2):
        seen: list[int] = []
        for k in range(sampler.steps_per_epoch):
            step = epoch * sampler.steps_per_epoch + k
            batch = sampler.batch_size(step)
            cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=4)))
            shares = [high - low for low, high in zip([0, *cuts], [*cuts, batch], strict=True)]
            for position in range(len(shares)):
                seen += sampler.part(step, shares, position).tolist()
        assert sorted(seen) == list(range(size))


@settings(max_examples=100, deadline=None)
@given(shares=st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(any), piece=st.integers(1, 70))
def test_ghost_batches_are_the_same_for_any_shares(shares: list[int], piece: int) -> None:
    """Whoever gets them: the pieces of all ranks in a row are those of one rank that computes everything."""
    dealt = whole_pieces(shares, piece)
    assert sum(dealt) == sum(shares)
    together = [size for share in dealt for size in piece_sizes(share, piece, whole=True)]
    assert together == piece_sizes(sum(shares), piece, whole=True)
    assert all(size == piece for size in together[:-1])
    assert piece <= 2 * together[-1] < 3 * piece or len(together) == 1
    assert all(abs(given - share) <= 1.5 * piece for given, share in zip(dealt, shares, strict=True))


def test_every_sample_once_also_in_ghost_batches_and_without_the_last_step() -> None:
    sampler = BalancedSampler(103, 20, 1, ghost_batch=8, drop_last=True)
    assert sampler.steps_per_epoch == 5
    parts = [sampler.part(step, [9, 7, 4], rank) for step in range(5) for rank in range(3)]
    assert [len(part) for part in parts[:3]] == [8, 8, 4]
    seen = torch.cat(parts).tolist()
    assert len(seen) == len(set(seen)) == 100


def test_shares_that_miss_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up to 10"):
        BalancedSampler(100, 10, 0).part(0, [5, 4], 0)


def test_epochs_have_their_own_order_and_seeds_too() -> None:
    first = BalancedSampler(64, 64, 1)
    assert first.batch(0).tolist() != first.batch(1).tolist()
    assert first.batch(0).tolist() != BalancedSampler(64, 64, 2).batch(0).tolist()
    assert first.batch(0).tolist() == BalancedSampler(64, 64, 1).batch(0).tolist()


def test_the_hash_is_splitmix64() -> None:
    """Reference values of SplitMix64 with seed 0: its first two outputs."""
    second_state = 2 * 0x9E3779B97F4A7C15 % 2**64
    assert mix_number(0) % 2**64 == 0xE220A8397B1DCDAF
    assert int(mix(torch.tensor([second_state]))) % 2**64 == 0x6E789E6AA1B965F4


def test_uniform_numbers_are_uniform_and_differ_by_salt() -> None:
    keys = sample_keys(torch.arange(20_000), 1, 2)
    values = uniform(keys, 3)
    assert 0 <= float(values.min()) < float(values.max()) < 1
    histogram = torch.histc(values, bins=20, min=0, max=1)
    assert float((histogram - 1000).abs().max()) < 150
    other = uniform(keys, 4)
    correlation = torch.corrcoef(torch.stack([values, other]))[0, 1]
    assert abs(float(correlation)) < 0.03


def test_dropout_of_a_sample_does_not_depend_on_its_neighbours() -> None:
    dropout = SampleDropout(0.3, layer=1).train()
    keys = sample_keys(torch.arange(16), 9)
    features = torch.ones(16, 500)
    together = dropout(features, keys)
    apart = torch.cat([dropout(features[:5], keys[:5]), dropout(features[5:], keys[5:])])
    assert torch.equal(together, apart)
    assert abs(float((together == 0).float().mean()) - 0.3) < 0.02
    assert abs(float(together.mean()) - 1) < 0.03
    assert not torch.equal(together[0], together[1])
    assert torch.equal(dropout.eval()(features, keys), features)

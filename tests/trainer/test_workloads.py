"""The built-in models learn, and their data is the same on every rank."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch

from trainer.data import BalancedSampler, sample_keys
from trainer.errors import DataError, UsageError
from trainer.learner import Learner
from trainer.options import Options
from trainer.workloads import build
from trainer.workloads.images import Cifar, SyntheticImages
from trainer.workloads.language import IGNORED, MASK_TOKEN, MaskedTokens, NextToken
from trainer.workloads.text import LENGTH, SUCCESSOR_CHANCES, SyntheticText, TextFiles


def losses(options: Options, batch: int, steps: int, *, same: bool) -> list[float]:
    """Train alone; with ``same`` on one batch again and again, which any working model learns by heart."""
    workload = build(options)
    learner = Learner(workload, options, device="cpu", world_size=1, simulated_samples_per_second=math.inf)
    sampler = BalancedSampler(workload.source.size, batch, options.seed)
    found = []
    for step in range(steps):
        nominal = batch * workload.units_per_sample
        learner.flat.zero()
        indices = sampler.batch(0 if same else step)
        computed = learner.compute(indices, 0 if same else step, batch, nominal, lambda: False)
        learner.apply(nominal / computed.units, options.chosen_learning_rate)
        found.append(computed.loss / computed.units)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "batch", "parameters"),
    [
        ("simple_cnn", 32, (0.5e6, 2.5e6)),
        ("resnet18", 8, (11.0e6, 11.3e6)),
        ("resnet50", 4, (23.4e6, 23.7e6)),
        ("gpt_small", 4, (3e6, 4e6)),
        ("bert_small", 4, (3e6, 4e6)),
    ],
)
def test_every_model_learns_with_its_own_optimizer(workload: str, batch: int, parameters: tuple[float, float]) -> None:
    options = Options(workload=workload, samples=500)
    size = sum(parameter.numel() for parameter in build(options).model.parameters())
    assert parameters[0] < size < parameters[1]
    curve = losses(options, batch, 14, same=True)
    assert curve[0] < 1.15 * math.log(10 if "small" not in workload else 256) + 0.5
    assert min(curve[-3:]) < 0.75 * curve[0], curve


def test_simple_cnn_learns_images_it_has_not_seen() -> None:
    curve = losses(Options(samples=4000), 64, 40, same=False)
    assert sum(curve[-5:]) / 5 < 0.6 * math.log(10), curve
    assert min(curve) > 0.05, "some images have no contrast: nobody can know their class"


def test_bf16_forward_stays_close_and_parameters_stay_float32() -> None:
    exact = losses(Options(samples=500, learning_rate=0.02), 32, 3, same=True)
    half = losses(Options(samples=500, learning_rate=0.02, precision="bf16"), 32, 3, same=True)
    assert half == pytest.approx(exact, rel=0.05)
    assert half != exact


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("default")
def test_a_compiled_model_learns_alike() -> None:
    """Also with another micro-batch, which must not be compiled anew: shares change all the time."""
    plain = losses(Options(samples=500, learning_rate=0.02), 32, 3, same=True)
    compiled = losses(Options(samples=500, learning_rate=0.02, compile=True), 32, 3, same=True)
    # Other kernels round differently, and three steps amplify it to 2e-4; a wrong step changes the loss by percents.
    assert compiled == pytest.approx(plain, rel=2e-3)


def test_synthetic_images_do_not_depend_on_how_they_are_asked_for() -> None:
    source = SyntheticImages(100, seed=4)
    indices = torch.tensor([5, 50, 7])
    keys = sample_keys(indices, 1)
    together = source.batch(indices, keys)
    alone = SyntheticImages(100, seed=4).batch(indices[1:2], keys[1:2])
    assert torch.equal(together.inputs[1:2], alone.inputs)
    assert torch.equal(together.targets[1:2], alone.targets)
    assert not torch.equal(together.inputs, SyntheticImages(100, seed=5).batch(indices, keys).inputs)
    counts = torch.bincount(source.batch(torch.arange(2000), keys).targets, minlength=10)
    assert int(counts.min()) > 130


def write_cifar(folder: Path, classes: int, rows: int) -> None:
    labels = 1 if classes == 10 else 2
    folder.mkdir(parents=True)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if classes == 10 else ["train.bin"]
    for file, name in enumerate(names):
        content = bytearray()
        for row in range(rows):
            content += bytes([(file + row) % classes] * labels) + bytes([row % 256] * 3072)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(("classes", "inner"), [(10, "cifar-10-batches-bin"), (100, "cifar-100-binary")])
def test_cifar_is_read_from_its_binary_files(tmp_path: Path, classes: int, inner: str) -> None:
    write_cifar(tmp_path / inner, classes, 4)
    source = Cifar(tmp_path, classes)
    assert source.size == (20 if classes == 10 else 4)
    indices = torch.arange(4)
    batch = source.batch(indices, sample_keys(indices, 3))
    assert batch.inputs.shape == (4, 3, 32, 32)
    assert batch.targets.tolist() == [0, 1, 2, 3]
    again = source.batch(indices[2:], sample_keys(indices[2:], 3))
    assert torch.equal(batch.inputs[2:], again.inputs), "augmentation must not depend on the neighbours"


def test_cifar_augmentation_shifts_and_flips(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    picture = bytes(range(256)) * 12
    (folder / "train.bin").write_bytes(bytes([1, 1]) + picture)
    source = Cifar(tmp_path, 100)
    indices = torch.zeros(400, dtype=torch.int64)
    images = source.batch(indices, sample_keys(torch.arange(400), 1)).inputs
    different = {tuple(image.flatten()[:200:7].tolist()) for image in images}
    assert 100 < len(different) <= 2 * 81


def test_missing_or_broken_cifar_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="binary version"):
        Cifar(tmp_path, 10)
    write_cifar(tmp_path / "cifar-10-batches-bin", 10, 2)
    broken = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    broken.write_bytes(broken.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 6141 bytes"):
        Cifar(tmp_path, 10)


def test_synthetic_text_has_the_entropy_it_promises() -> None:
    source = SyntheticText(1000, seed=2)
    tokens = source.tokens(torch.arange(300))
    assert tokens.shape == (300, LENGTH + 1)
    pairs: dict[tuple[int, int], int] = {}
    for row in tokens.tolist():
        for pair in itertools.pairwise(row):
            pairs[pair] = pairs.get(pair, 0) + 1
    firsts: dict[int, int] = {}
    for (first, _), count in pairs.items():
        firsts[first] = firsts.get(first, 0) + count
    total = sum(pairs.values())
    entropy = -sum(count / total * math.log(count / firsts[first]) for (first, _), count in pairs.items())
    promised = -sum(chance * math.log(chance) for chance in SUCCESSOR_CHANCES)
    assert entropy == pytest.approx(promised, abs=0.08)


def test_next_token_targets_are_shifted_and_masked_targets_count_only_what_is_hidden() -> None:
    source = SyntheticText(100, seed=2)
    indices = torch.arange(50)
    keys = sample_keys(indices, 1)
    following = NextToken(source).batch(indices, keys)
    assert torch.equal(following.inputs[:, 1:], following.targets[:, :-1])
    assert following.units == 50 * LENGTH

    masked = MaskedTokens(source).batch(indices, keys)
    hidden = masked.targets != IGNORED
    assert masked.units == int(hidden.sum()) == pytest.approx(0.15 * 50 * LENGTH, rel=0.1)
    original = source.tokens(indices)[:, :-1]
    assert torch.equal(masked.targets[hidden], original[hidden])
    assert torch.equal(masked.inputs[~hidden], original[~hidden])
    assert int((masked.inputs == MASK_TOKEN).sum()) == pytest.approx(0.8 * masked.units, rel=0.1)


def test_text_files_are_cut_without_loss(tmp_path: Path) -> None:
    text = ("All happy families are alike; " * 60).encode()
    (tmp_path / "b.txt").write_bytes(text[700:])
    (tmp_path / "a.txt").write_bytes(text[:700])
    source = TextFiles(tmp_path)
    assert source.size == (len(text) - 1) // LENGTH
    rows = source.tokens(torch.arange(source.size))
    assert bytes(rows[:, :-1].flatten().tolist()) == text[: source.size * LENGTH]
    with pytest.raises(DataError, match=r"no \*\.txt files"):
        TextFiles(tmp_path / "nothing")


def test_a_dataset_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="has no images"):
        build(Options(dataset="synthetic_text"))
    with pytest.raises(UsageError, match="has no text"):
        build(Options(workload="gpt_small", dataset="cifar10"))

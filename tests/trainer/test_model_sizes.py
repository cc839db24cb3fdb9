"""The table of gradient sizes against the models themselves."""

from __future__ import annotations

import pytest

from trainer.compression import PowerSgdReduction
from trainer.model_sizes import GradientBytes, gradient_bytes
from trainer.options import WORKLOADS, Options
from trainer.reduction import ROW_LENGTH, FlatModel
from trainer.workloads import build
from trainer.workloads.vision import image_model


def measured(flat: FlatModel) -> GradientBytes:
    rows = ROW_LENGTH * 4
    return GradientBytes(flat.size * 4, PowerSgdReduction(flat, Options().powersgd_rank, 0).bytes_per_step(flat) - rows)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_sizes_are_those_of_the_models(workload: str) -> None:
    flat = FlatModel(build(Options(workload=workload, samples=64)).model, 1)
    assert gradient_bytes(workload, "") == measured(flat)


@pytest.mark.parametrize("workload", ["simple_cnn", "resnet18", "resnet50"])
def test_a_hundred_classes_make_a_bigger_last_layer(workload: str) -> None:
    assert gradient_bytes(workload, "cifar100") == measured(FlatModel(image_model(workload, 100), 1))


def test_a_script_has_no_known_size() -> None:
    assert gradient_bytes("", "") is None

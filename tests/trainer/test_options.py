"""The command line and the environment; and what must not be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.environment import read_host, read_rank
from trainer.errors import UsageError
from trainer.options import WORKLOADS, Options, parse


def test_defaults_are_the_options_own() -> None:
    assert parse([]) == Options()


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_has_an_optimizer_and_a_learning_rate_of_its_own(workload: str) -> None:
    own = parse(["--workload", workload])
    assert own.chosen_optimizer == ("adamw" if workload in ("gpt_small", "bert_small") else "sgd")
    assert 0 < own.chosen_learning_rate < 0.05
    other = "sgd" if own.chosen_optimizer == "adamw" else "adamw"
    asked = parse(["--workload", workload, "--optimizer", other])
    assert asked.chosen_optimizer == other
    assert asked.chosen_learning_rate != own.chosen_learning_rate
    assert parse(["--workload", workload, "--learning-rate", "0.3"]).chosen_learning_rate == 0.3


def test_everything_behind_the_first_word_is_the_script() -> None:
    options = parse(["--policy", "equal", "--no-elastic", "--seed=3", "train.py", "--epochs", "5", "x"])
    assert options.script == ("train.py", "--epochs", "5", "x")
    assert (options.policy, options.elastic, options.seed, options.epochs) == ("equal", False, 3, Options().epochs)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--global-batch", "0"], "--global-batch is 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--learning-rate", "-1"], "--learning-rate is -1"),
        (["--epochs", "many"], "--epochs"),
        (["--workload", "alexnet"], "simple_cnn"),
        (["--colour", "red"], "--colour"),
        (["--policy"], "--policy"),
        (["--policy", "fair"], "dynamic"),
        (["--optimizer", "magic"], "adamw"),
        (["--heartbeat-timeout", "0.1"], "at least 0.5"),
    ],
)
def test_mistakes_are_told(arguments: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert told in str(caught.value)


def test_a_launch_plan_is_read() -> None:
    host = read_host(
        {
            "RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "HETERO_RANKS": "1,2", "NODE_RANK": "1",
            "HETERO_DEVICES": "cuda:0,cuda:1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
            "HETERO_CONTROL": "/c", "HETERO_MASTER": "0", "HETERO_SIMULATED_SAMPLES_PER_SECOND": "12.5",
        }
    )  # fmt: skip
    assert host.ranks == (1, 2)
    assert host.devices == ("cuda:0", "cuda:1")
    assert not host.is_master
    assert host.control == Path("/c")
    assert host.simulated_samples_per_second == 12.5


def test_without_a_launch_plan_one_rank_trains_alone() -> None:
    host = read_host({})
    assert (host.ranks, host.world_size, host.is_master, host.control) == ((0,), 1, True, None)


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "2", "HETERO_RANKS": "5", "HETERO_CONTROL": "/c"},
        {"WORLD_SIZE": "2", "HETERO_RANKS": "0"},
        {"HETERO_RANKS": "a"},
        {"WORLD_SIZE": "3", "HETERO_RANKS": "0,1,2", "HETERO_DEVICES": "cpu,cpu", "HETERO_CONTROL": "/c"},
        {"HETERO_SIMULATED_SAMPLES_PER_SECOND": "-1"},
        {"HETERO_SIMULATED_SAMPLES_PER_SECOND": "nan"},
    ],
)
def test_a_contradictory_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        read_host(environment)


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(UsageError):
        read_rank({"RANK": "3", "WORLD_SIZE": "2", "HETERO_DEVICE": "cpu", "HETERO_CONTROL": "/c"})


@pytest.mark.parametrize(
    "module", ["trainer", "trainer.events", "trainer.plan", "trainer.balance", "trainer.agent", "trainer.__main__",
               "trainer.rank", "trainer.store", "trainer.coordinator", "trainer.link"],
)  # fmt: skip
def test_the_agent_and_the_pure_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0

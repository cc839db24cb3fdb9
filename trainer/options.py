"""The command line of ``python -m trainer``. Standard library only: the agent reads it too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, NoReturn

from trainer.balance import POLICIES
from trainer.errors import UsageError

WORKLOADS: Final = ("simple_cnn", "resnet18", "resnet50", "gpt_small", "bert_small")
DATASETS: Final = ("synthetic_images", "cifar10", "cifar100", "synthetic_text", "text")
COMMUNICATION: Final = ("exact", "bf16", "fp16", "powersgd", "local_sgd", "auto")
PRECISIONS: Final = ("fp32", "bf16", "fp16")

Optimizer = Literal["sgd", "adamw"]

LEARNING_RATES: Final[dict[str, dict[Optimizer, float]]] = {
    "simple_cnn": {"sgd": 0.02, "adamw": 1e-3},
    "resnet18": {"sgd": 0.01, "adamw": 1e-3},
    "resnet50": {"sgd": 0.01, "adamw": 3e-4},
    "gpt_small": {"adamw": 1e-3, "sgd": 0.02},
    "bert_small": {"adamw": 3e-4, "sgd": 0.02},
}
"""Learning rates that work with each workload and optimizer; the first optimizer is the workload's own."""
DEFAULT_POLICY: Final = "dynamic"

Communication = Literal["exact", "bf16", "fp16", "powersgd", "local_sgd", "auto"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to train and how. The same on every rank."""

    workload: str = "simple_cnn"
    dataset: str = ""
    """Empty: the synthetic dataset of the workload's kind."""
    samples: int = 10_000
    """Samples of a synthetic dataset; datasets on disk have their own size."""
    global_batch: int = 256
    epochs: int = 3
    steps: int = 0
    """End after this many optimizer steps; 0: when the epochs are done."""
    learning_rate: float | None = None
    """None: one that works with the workload and its optimizer."""
    optimizer: Optimizer | Literal[""] = ""
    """Empty: the workload's own."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int = 0
    seed: int = 0
    policy: str = ""
    """Empty: ``dynamic``, or with ``resume`` the policy of the checkpoint."""
    micro_batch: int = 0
    """Largest micro-batch in samples; 0: measured."""
    communication: Communication = "exact"
    powersgd_rank: int = 4
    local_steps: int = 8
    """Optimizer steps between two averages of the parameters with local_sgd."""
    precision: Precision = "fp32"
    compile: bool = False
    elastic: bool = True
    max_restarts: int = 3
    """How often the agent starts a rank again that died, in an elastic run."""
    heartbeat_timeout: float = 2.0
    """Seconds without a sign of life after which a rank counts as lost."""
    check_every: int = 50
    """Compare the parameters of all ranks every so many steps; 0: never."""
    checkpoint_every: int = 0
    """Steps between two checkpoints; 0: only at the end and when asked."""
    checkpoint_keep: int = 3
    resume: bool = False
    data_dir: Path = Path("data")
    download: bool = True
    """Download a dataset that is not in the data folder."""
    script: tuple[str, ...] = ()
    """A script of the user's with its arguments; empty: a built-in workload."""

    @property
    def chosen_optimizer(self) -> Optimizer:
        """The optimizer asked for, or the workload's own."""
        if self.optimizer == "":
            return next(iter(LEARNING_RATES[self.workload]))
        return self.optimizer

    @property
    def chosen_learning_rate(self) -> float:
        """The learning rate asked for, or one that works with the workload and its optimizer."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES[self.workload][self.chosen_optimizer]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"python -m trainer: {message}", next_step="see python -m trainer --help")


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = _Parser(
        prog="python -m trainer",
        description="Balanced data-parallel training: every rank gets the share of the global batch it can carry.",
        epilog="Everything from the first word that is no option on is a script of your own and its arguments.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, default=default.workload, help="model to train (default %(default)s)")
    add("--dataset", choices=DATASETS, default="", help="default: synthetic data of the workload's kind")
    add("--samples", type=int, default=default.samples, help="size of a synthetic dataset (default %(default)s)")
    add("--global-batch", type=int, default=default.global_batch, help="samples a step, all ranks together")
    add("--epochs", type=int, default=default.epochs)
    add("--steps", type=int, default=default.steps, help="end after so many steps; 0: when the epochs are done")
    add("--learning-rate", type=float, default=default.learning_rate, help="default: one that suits the workload")
    add("--optimizer", choices=("sgd", "adamw"), default=default.optimizer, help="default: the workload's own")
    add("--momentum", type=float, default=default.momentum)
    add("--weight-decay", type=float, default=default.weight_decay)
    add("--warmup-steps", type=int, default=default.warmup_steps, help="raise the learning rate over so many steps")
    add("--seed", type=int, default=default.seed)
    policy_help = f"how shares are chosen (default {DEFAULT_POLICY}, or with --resume that of the checkpoint)"
    add("--policy", choices=POLICIES, default=default.policy, help=policy_help)
    add("--micro-batch", type=int, default=default.micro_batch, help="largest micro-batch; 0: measured")
    add("--communication", choices=COMMUNICATION, default=default.communication, help="how gradients travel")
    add("--powersgd-rank", type=int, default=default.powersgd_rank)
    add("--local-steps", type=int, default=default.local_steps, help="steps between averages with local_sgd")
    add("--precision", choices=PRECISIONS, default=default.precision, help="precision of forward and backward")
    add("--compile", action="store_true", help="torch.compile the model")
    add("--elastic", action=argparse.BooleanOptionalAction, default=default.elastic, help="go on without lost ranks")
    add("--max-restarts", type=int, default=default.max_restarts, help="restarts of a dead rank in an elastic run")
    add("--heartbeat-timeout", type=float, default=default.heartbeat_timeout, help="seconds of silence of a lost rank")
    add("--check-every", type=int, default=default.check_every, help="steps between comparisons of the parameters")
    add(
        "--checkpoint-every",
        type=int,
        default=default.checkpoint_every,
        help="steps between checkpoints; 0: at the end",
    )
    add("--checkpoint-keep", type=int, default=default.checkpoint_keep, help="how many checkpoints stay")
    add("--resume", action="store_true", help="go on from the newest good checkpoint")
    add("--data-dir", type=Path, default=default.data_dir, help="folder of the datasets on disk")
    download_help = "download a dataset that is not in the data folder"
    add("--download", action=argparse.BooleanOptionalAction, default=default.download, help=download_help)
    return parser


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        UsageError: an unknown option, a missing value or a value out of range.
    """
    parser = _parser()
    split = _first_positional(parser, arguments)
    values = vars(parser.parse_args(list(arguments[:split])))
    options = Options(**values, script=tuple(arguments[split:]))
    _check_ranges(options)
    return options


def _first_positional(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Return where the user's script begins: argparse has no optional positional that also ends the options."""
    takes_value = {name: action.nargs != 0 for action in parser._actions for name in action.option_strings}
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        name, has_equals, _ = arguments[at].partition("=")
        at += 2 if takes_value.get(name, False) and not has_equals else 1
    return min(at, len(arguments))


_AT_LEAST_ONE: Final = ("samples", "global_batch", "epochs", "powersgd_rank", "local_steps", "checkpoint_keep")


def _check_ranges(options: Options) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        lowest = 1 if field.name in _AT_LEAST_ONE else 0
        if not lowest <= value < float("inf"):
            flag = "--" + field.name.replace("_", "-")
            raise UsageError(f"python -m trainer: {flag} is {value}, must be at least {lowest}")
    if options.heartbeat_timeout < 0.5:
        raise UsageError("python -m trainer: --heartbeat-timeout must be at least 0.5 seconds")

"""What ``dynamic`` does with the step times of a real run under CPU quotas, recorded and played back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from trainer.balance import make_policy
from trainer.plan import TimeTable

RECORDED = Path(__file__).with_name("recorded_quota_run.json")
LEARNING_STEPS = 20
"""The calibration is corrected within the first steps; that is not a steady cluster."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy made of the recorded steps."""

    changes: list[int]
    """Steps at which the shares changed."""
    seconds: list[float]
    """The slowest rank's compute time of each step, with the policy's shares instead of the recorded ones."""


def play(policy: str) -> Played:
    recorded: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    tables = [TimeTable.measured([(size, seconds) for size, seconds in table]) for table in recorded["tables"]]
    balancer = make_policy(policy, tables, recorded["global_batch"])
    played = Played([], [])
    for step, row in enumerate(recorded["steps"]):
        shares = balancer.shares
        # Each rank was so much slower or quicker than its table in this step, whatever its share.
        seconds = [
            measured * table.seconds(share) / table.seconds(before)
            for table, share, before, measured in zip(tables, shares, row[0::3], row[1::3], strict=True)
        ]
        played.seconds.append(max(seconds))
        if balancer.observe(step, shares, seconds, row[2::3]) is not None:
            played.changes.append(step)
    return played


def test_a_real_run_at_steady_quotas_keeps_its_plan() -> None:
    """Two changes at most in 230 steps, and one of them has a real cause: a rank became a tenth quicker for good."""
    later = [step for step in play("dynamic").changes if step >= LEARNING_STEPS]
    assert len(later) <= 2


def test_what_is_left_alone_costs_next_to_nothing() -> None:
    dynamic, static, equal = play("dynamic"), play("static"), play("equal")
    assert mean(dynamic.seconds) < mean(static.seconds)
    assert mean(dynamic.seconds) < 0.5 * mean(equal.seconds)

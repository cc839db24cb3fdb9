"""The arithmetic of load balancing, as the documentation tells it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hetero_tui.shares import document, numbers, render, splits
from remote.errors import UserError

SPEEDS = (256.0, 180.0, 45.0, 40.0)


def test_the_example_of_the_documentation() -> None:
    found = {split.name: split for split in splits(SPEEDS, 192, (64, 64, 32, 32))}
    assert found["yours"].samples_per_second == pytest.approx(240)
    assert found["proportional"].shares == (94, 66, 17, 15)
    assert round(found["proportional"].samples_per_second) == 508
    assert found["best"].shares == (95, 67, 16, 14)
    assert round(found["best"].samples_per_second) == 516


def test_the_slowest_rank_waits_for_nobody() -> None:
    for split in splits(SPEEDS, 192):
        assert min(split.waits) == 0


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(UserError, match="add up to 192"):
        splits(SPEEDS, 192, (64, 64, 32, 33))
    with pytest.raises(UserError, match="positive"):
        splits((1.0, 0.0), 8)


@pytest.mark.parametrize("text", ["", "1,x", "nan", "-1,2", "inf"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="are not numbers"):
        numbers(text, "speeds")


def test_the_table_and_its_json_tell_the_same() -> None:
    found = splits(SPEEDS, 192)
    assert "94/66/17/15" in render(found, SPEEDS)
    assert [each["name"] for each in json.loads(document(found))["splits"]] == ["equal", "proportional", "best"]


def test_the_command() -> None:
    command = [sys.executable, "-m", "hetero_tui", "shares", "--speeds", "256,180,45,40", "--global-batch", "192"]
    done = subprocess.run([*command, "--by-hand", "64,64,32,32"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "0.800 s  240" in done.stdout
    assert "0.378 s  508" in done.stdout
    wrong = subprocess.run([*command, "--by-hand", "1,2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "add up to 192" in wrong.stderr

"""Checkpoints come out of real containers whose trainer is no root, and other containers go on from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.hosts import Rig

pytestmark = pytest.mark.rig


def test_a_run_goes_on_from_the_checkpoint_that_another_brought_home(rig: Rig, tmp_path: Path) -> None:
    first = Client(rig, tmp_path, epochs=1)
    began = first.document("up", "--skip-checks", timeout=180)
    assert (began["state"], began["steps"]) == ("finished", 20)
    (checkpoint,) = [tmp_path / path for path in began["checkpoints"]]
    told = checkpoint.with_name(f"{checkpoint.name}.sha256").read_text().split()[0]
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == told
    assert first.containers() == [[], [], []]

    second = Client(rig, tmp_path, epochs=2, checkpoint_every=5)
    went_on = second.document("up", "--skip-checks", "--resume", timeout=180)
    assert (went_on["state"], went_on["steps"]) == ("finished", 40)
    assert went_on["share_changes"][0]["step"] == 20
    assert went_on["first_loss"] < began["first_loss"]
    assert [Path(path).name for path in went_on["checkpoints"]] == ["step-00000040.pt"]
    assert second.containers() == [[], [], []]

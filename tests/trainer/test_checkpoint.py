"""Checkpoints: whole or refused, and resumable with other ranks and shares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.trainer.cluster import cluster
from trainer.checkpoint import CheckpointFolder
from trainer.errors import CheckpointError
from trainer.events import Checkpoint, Done, Notice, Step
from trainer.state import EpochSums, Progress

IDENTITY = {"workload": "simple_cnn", "seed": 0}


def progress(step: int) -> Progress:
    return Progress(step=step, samples=step * 10, seconds=1.5, loss=2.0, epoch=EpochSums(samples=3, loss=1.0))


def save(folder: CheckpointFolder, step: int) -> Path:
    parameters = torch.arange(6, dtype=torch.float32) + step
    model = {"weight": parameters.view(2, 3)}
    return folder.save(progress(step), {"policy": "dynamic"}, {"parameters": parameters}, {}, model)


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2, identity=IDENTITY)
    for step in (5, 10, 15):
        save(folder, step)
    saved, refused = folder.newest()
    assert saved is not None
    assert saved.progress == progress(15)
    assert saved.balance_state == {"policy": "dynamic"}
    assert saved.tensors["parameters"].tolist() == [15, 16, 17, 18, 19, 20]
    assert refused == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000010.pt", "step-00000010.pt.sha256", "step-00000015.pt", "step-00000015.pt.sha256",
    ]  # fmt: skip
    assert torch.load(saved.path, weights_only=True)["model"]["weight"].shape == (2, 3)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no digest", "empty digest", "not torch"])
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_used(tmp_path: Path, damage: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=3, identity=IDENTITY)
    save(folder, 5)
    newest = save(folder, 10)
    digest = newest.with_name(newest.name + ".sha256")
    content = newest.read_bytes()
    match damage:
        case "truncate":
            newest.write_bytes(content[:-20])
        case "flip":
            newest.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        case "no digest":
            digest.unlink()
        case "empty digest":
            digest.write_bytes(b"")
        case "not torch":
            import hashlib

            newest.write_bytes(b"hello")
            digest.write_text(hashlib.sha256(b"hello").hexdigest() + "  x\n")
    saved, refused = folder.newest()
    assert saved is not None
    assert saved.progress.step == 5
    assert [each.path for each in refused] == [newest]
    assert refused[0].reason


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    save(CheckpointFolder(tmp_path, keep=3, identity={**IDENTITY, "seed": 1}), 5)
    with pytest.raises(CheckpointError, match="seed is 1 there and 0 here"):
        CheckpointFolder(tmp_path, keep=3, identity=IDENTITY).newest()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3, identity=IDENTITY)
    path = save(folder, 5)
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (trap,))  # type: ignore[return-value]

    import hashlib

    torch.save({"facts": Trap(), "tensors": {}}, path)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    saved, refused = folder.newest()
    assert saved is None
    assert len(refused) == 1
    assert not trap.exists()


def test_a_full_disk_leaves_the_old_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, keep=1, identity=IDENTITY)
    save(folder, 5)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(folder, 10)
    saved, refused = folder.newest()
    assert saved is not None
    assert (saved.progress.step, refused) == (5, [])


def test_progress_survives_json() -> None:
    first = progress(3)
    assert Progress.from_json(first.to_json()) == first
    unknown = Progress.from_json(dataclasses.replace(first, loss=float("nan")).to_json())
    assert unknown.loss != unknown.loss


@pytest.mark.slow
def test_resume_with_another_number_of_ranks_follows_the_same_curve(tmp_path: Path) -> None:
    options = ["--samples", "640", "--global-batch", "64", "--epochs", "2", "--optimizer", "adamw"]
    options += ["--learning-rate", "0.0003", "--micro-batch", "16", "--checkpoint-every", "6", "--check-every", "1"]
    with cluster(tmp_path / "whole") as run:
        run.start([1], options)
        assert run.wait() == [0]
        whole = {event.step: event.loss for event in run.of(Step)}
    with cluster(tmp_path / "parts") as run:
        run.start([1, 1], [*options, "--steps", "13"])
        assert run.wait() == [0, 0]
        assert [event.step for event in run.of(Checkpoint)] == [6, 12, 13]
    newest = tmp_path / "parts" / "output0" / "checkpoints" / "step-00000013.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    with cluster(tmp_path / "parts") as run:
        # The host with the checkpoint is not rank 0 this time, and there are three ranks.
        (tmp_path / "parts" / "output0").rename(tmp_path / "parts" / "output1")
        run.start([1, 2], [*options, "--resume"])
        assert run.wait() == [0, 0]
        actions = [(event.action, event.step) for event in run.of(Checkpoint, 1)]
        assert actions[:2] == [("refused", 0), ("restored", 12)]
        steps = run.of(Step, 0)
        assert [event.step for event in steps] == list(range(12, 20))
        for event in steps:
            assert event.loss == pytest.approx(whole[event.step], rel=1e-3)
        assert {event.samples for event in run.of(Done)} == {1280}
        assert not [event for event in run.of(Notice) if "drifted" in event.text]

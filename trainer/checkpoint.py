"""Checkpoints: written so that a crash at any moment leaves a good one, and refused when damaged.

A checkpoint is two files: ``step-00000120.pt`` and, written after it, ``step-00000120.pt.sha256`` in the format of
``sha256sum``. Both are written under another name, flushed to the disk and renamed. Without its digest, or with
another one, a checkpoint is refused and the previous one is used.

The ``.pt`` file is read with ``weights_only=True``: it holds tensors and JSON text, and no code. ``["model"]`` is the
model's ordinary ``state_dict``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.state import Progress

VERSION: Final = 1
_NAME: Final = re.compile(r"step-(\d{8,})\.pt")


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds."""

    path: Path
    progress: Progress
    balance_state: Mapping[str, Any] | None
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any]
    """What else there is to take over: the loss scaling, a schedule."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A checkpoint that cannot be used, and why."""

    path: Path
    reason: str


class CheckpointFolder:
    """The checkpoints of one run on one host."""

    def __init__(self, folder: Path, *, keep: int, identity: Mapping[str, Any]) -> None:
        """``identity`` is what must be equal for a checkpoint to fit: model, data, seed, global batch."""
        self._folder = folder
        self._keep = keep
        self._identity = dict(identity)

    def save(
        self,
        progress: Progress,
        balance_state: Mapping[str, Any] | None,
        tensors: Mapping[str, Tensor],
        extra: Mapping[str, Any],
        model: Mapping[str, Tensor],
    ) -> Path:
        """Write a checkpoint, then remove all but the newest ``keep``.

        Raises:
            CheckpointError: it could not be written; older checkpoints are untouched.
        """
        facts = {
            "version": VERSION,
            "identity": self._identity,
            "progress": progress.to_json(),
            "balance": balance_state,
            "extra": dict(extra),
        }
        buffer = io.BytesIO()
        # The model's tensors are views of the flat parameters, so they are stored once.
        torch.save({"facts": json.dumps(facts), "tensors": dict(tensors), "model": dict(model)}, buffer)
        content = buffer.getbuffer()
        path = self._folder / f"step-{progress.step:08d}.pt"
        digest = hashlib.sha256(content).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(path, content)
            _write(_digest_path(path), f"{digest}  {path.name}\n".encode())
            _flush_folder(self._folder)
            self._remove_old()
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror}", next_step="look for free space and write permission there"
            ) from error
        return path

    def newest(self) -> tuple[Saved | None, list[Refused]]:
        """Return the newest good checkpoint, if there is one, and those that had to be refused on the way.

        Raises:
            CheckpointError: the newest good one belongs to another model, dataset, seed or global batch.
        """
        refused: list[Refused] = []
        for path in reversed(self._paths()):
            try:
                content = _verified(path)
                stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                facts = json.loads(stored["facts"])
                saved = _saved(path, facts, stored["tensors"])
                identity = _mapping(facts["identity"])
            except CheckpointError as error:
                refused.append(Refused(path, str(error)))
                continue
            except Exception as error:  # noqa: BLE001 - whatever a damaged file makes the reader raise
                refused.append(Refused(path, f"cannot be read: {type(error).__name__}: {str(error)[:200]}"))
                continue
            self._check_identity(path, identity)
            return saved, refused
        return None, refused

    def _check_identity(self, path: Path, found: Mapping[str, Any]) -> None:
        different = [
            f"{name} is {found.get(name)!r} there and {value!r} here"
            for name, value in self._identity.items()
            if found.get(name) != value
        ]
        if different:
            raise CheckpointError(
                f"{path} belongs to another run: {'; '.join(different)}",
                next_step="use the same options, or train without --resume",
            )

    def _paths(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = [(int(match[1]), path) for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def _remove_old(self) -> None:
        for path in self._paths()[: -self._keep]:
            _digest_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _saved(path: Path, facts: Mapping[str, Any], tensors: Any) -> Saved:
    """Make sure that a checkpoint holds what its reader takes for granted: a right digest does not say who wrote it."""
    balance = facts["balance"]
    if not all(isinstance(tensor, Tensor) for tensor in _mapping(tensors).values()):
        raise TypeError("not everything that should be a tensor is one")
    return Saved(
        path,
        Progress.from_json(facts["progress"]),
        None if balance is None else _mapping(balance),
        tensors,
        _mapping(facts["extra"]),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{type(value).__name__} where names with values should be")
    return value


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _verified(path: Path) -> bytes:
    try:
        told = _digest_path(path).read_text(encoding="ascii", errors="replace").split(maxsplit=1)
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError("its digest is missing: it was not written to the end") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from error
    if not told or hashlib.sha256(content).hexdigest() != told[0]:
        raise CheckpointError("its content does not match its digest: it is truncated or damaged")
    return content


def _write(path: Path, content: bytes | memoryview) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

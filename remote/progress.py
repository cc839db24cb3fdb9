"""What the control plane tells while it works: light values, for screens that must not load SSH or Docker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from remote.errors import HostKeyUnknown

HostPhase = Literal["waiting", "connecting", "connected", "failed", "lost"]
ConfirmHostKey = Callable[[HostKeyUnknown], Awaitable[bool]]
LaunchPhase = Literal[
    "creating",
    "created",
    "starting",
    "importing",
    "ready",
    "go",
    "training",
    "failed",
    "stopped",
    "ending",
    "fetching",
    "kept",
]
"""``ending``, ``fetching`` and ``kept`` belong to the end of a run; ``kept``: its results could not be brought home."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """How this program stands with one host."""

    host: str
    phase: HostPhase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LaunchProgress:
    """One host moved on during the launch or the end of a run."""

    host: str
    phase: LaunchPhase
    detail: str = ""

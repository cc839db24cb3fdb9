"""What workers and widgets tell the screens: frozen values only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from hetero_tui.session import LaunchProgress
    from remote.checks.model import CheckProgress
    from remote.runtime import HostRunState


class Connected(Message):
    """Contact with every host was tried; how it went is in ``session.hosts``."""


class RunsFound(Message):
    """Earlier runs were looked for."""

    def __init__(self, runs: tuple[HostRunState, ...]) -> None:
        super().__init__()
        self.runs = runs


class CheckMoved(Message):
    """A check began or answered."""

    def __init__(self, progress: CheckProgress) -> None:
        super().__init__()
        self.progress = progress


class ChecksEnded(Message):
    """The checklist (or the part that was asked for) has been gone through."""


class LaunchMoved(Message):
    """One host moved on in the launch, or was stopped."""

    def __init__(self, progress: LaunchProgress) -> None:
        super().__init__()
        self.progress = progress


class LaunchEnded(Message):
    """The launch is through. ``error`` is ``None`` when every rank trains."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error


class RunEnded(Message):
    """Nothing more will come from the run's logs."""


class OperationFailed(Message):
    """A worker ended with an error that a person should read."""

    def __init__(self, title: str, error: BaseException) -> None:
        super().__init__()
        self.title = title
        self.error = error


class RankChosen(Message):
    """A rank was picked in a table."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank


class Attached(Message):
    """An earlier run was taken over."""

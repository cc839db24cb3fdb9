"""What a rank's process knows while it runs a script of the user's, for the script to find with ``trainer.prepare``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.control import Command, ControlFolder
from trainer.environment import RankEnvironment
from trainer.events import Emitter
from trainer.options import Options

if TYPE_CHECKING:
    from trainer.link import Link


@dataclass(slots=True)
class Launched:
    """One rank that was started by the launcher and runs a script."""

    place: RankEnvironment
    options: Options
    emitter: Emitter
    control: ControlFolder
    commands: Sequence[Command]
    """Control messages that came together with the go."""
    device: str
    link: Link
    stop_signal: threading.Event = field(default_factory=threading.Event)
    """The script asked for the end of the run."""
    told_to_end: threading.Event = field(default_factory=threading.Event)
    """SIGTERM came: this host is to end, which need not end the run."""
    stop_watching: Callable[[], None] = lambda: None
    """Ends the watching from outside: the script trains through this package, which tells more."""
    is_launched: bool = True
    """Whether there is a launcher, which may ask to stop."""
    is_prepared: bool = False
    """The script called ``trainer.prepare``."""
    is_over: bool = False
    """The training that the script prepared has ended in good order, and that was told."""
    steps: Callable[[], int] = field(default=lambda: 0)
    """Completed optimizer steps of the prepared training."""


current: Launched | None = None
"""Set by the rank before it runs the script; None in a process that nobody launched."""

"""Control messages: JSON files that the launcher drops into a folder, named so that they sort by arrival."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from trainer.errors import UNFIT, StartError
from trainer.exclusion import NAME_CHARACTERS

CommandName = Literal["go", "stop", "pause", "resume", "checkpoint", "policy", "simulate", "exclude", "admit"]
COMMANDS: Final = get_args(CommandName)
POLL_SECONDS: Final = 0.05
GO_TIMEOUT_SECONDS: Final = 600.0
MAX_MESSAGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """One control message."""

    file: str
    """Its file name: the same on every host that got the same message."""
    name: CommandName
    policy: str = ""
    samples_per_second: float = math.inf
    host: str = ""
    """Inventory name of the host to exclude or admit."""
    by: str = ""
    """Who wants it."""


class ControlFolder:
    """Reads each message of a folder once. Several ranks of a host read the same folder, so nothing is removed."""

    def __init__(self, folder: Path | None, on_bad: Callable[[str], None]) -> None:
        """``on_bad`` takes one sentence about a message that cannot be understood."""
        self._folder = folder
        self._on_bad = on_bad
        self._seen: set[str] = set()
        self._next_look = 0.0

    def read(self, *, now: bool = False) -> list[Command]:
        """Return the messages that came since the last call, in order of their names.

        Looks 20 times a second, and whenever ``now`` is set.
        """
        at = time.monotonic()
        if self._folder is None or (at < self._next_look and not now):
            return []
        self._next_look = at + POLL_SECONDS
        try:
            names = {entry.name for entry in self._folder.iterdir() if entry.name.endswith(".json")}
        except FileNotFoundError:
            return []
        new = sorted(names - self._seen)
        self._seen.update(new)
        return [command for name in new if (command := self._parse(self._folder / name)) is not None]

    def wait_for_go(self, stopped: Callable[[], bool], timeout: float = GO_TIMEOUT_SECONDS) -> list[Command]:
        """Wait until the folder holds a go, and return the other messages that came with it.

        Without a folder there is nobody to wait for. Returns at once when ``stopped`` says so, or on a stop message.

        Raises:
            StartError: no go within ``timeout`` seconds.
        """
        if self._folder is None:
            return []
        others: list[Command] = []
        deadline = time.monotonic() + timeout
        while not stopped():
            others += [command for command in self.read() if command.name != "go"]
            if self._has_go or any(command.name == "stop" for command in others):
                return others
            if time.monotonic() >= deadline:
                raise StartError(
                    f"no go within {timeout:.0f} s in {self._folder}",
                    next_step="the launcher gives it when every rank has said hello; look for the rank that did not",
                )
            time.sleep(POLL_SECONDS)
        return others

    _has_go = False

    def _parse(self, path: Path) -> Command | None:
        try:
            with path.open("rb") as file:
                payload = json.loads(file.read(MAX_MESSAGE_BYTES))
            name = payload["command"]
            if name not in COMMANDS:
                self._on_bad(f"control message {path.name}: unknown command {str(name)[:40]!r}")
                return None
            speed = payload.get("samples_per_second")
            command = Command(
                path.name,
                name,
                policy=str(payload.get("policy", "")),
                samples_per_second=math.inf if speed is None else float(speed),
                host=str(payload.get("host", ""))[:NAME_CHARACTERS],
                by=str(payload.get("by", ""))[:NAME_CHARACTERS],
            )
        except (OSError, *UNFIT) as error:
            self._on_bad(f"control message {path.name} cannot be read: {type(error).__name__}")
            return None
        if name == "simulate" and not command.samples_per_second > 0:
            self._on_bad(f"control message {path.name}: a speed must be above 0 samples/s")
            return None
        if name in ("exclude", "admit") and not command.host:
            self._on_bad(f"control message {path.name}: it names no host")
            return None
        self._has_go = self._has_go or name == "go"
        return command

"""The client away for minutes while real training goes on: what the hosts did meanwhile, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from remote.run_dir import RunDir
from tests.rig.chaos.faults import Inject, cut_off_client_for, freeze_client_for

Way = Literal["offline", "suspended"]
TOLD_SECONDS: Final = 10.0
"""A lost host is told within five; this machine carries all hosts, and may be busy."""
FALSE_ALARM: Final = "no step for"
_LOST: Final = "no contact"


@dataclass(slots=True)
class Away:
    """How long the client was away, and what was seen."""

    way: Way
    seconds: float
    steps_meanwhile: Mapping[str, int] = field(default_factory=dict)
    """By host: steps that its rank made while nobody heard of them."""
    told_after: Mapping[str, float] = field(default_factory=dict)
    """By host: seconds until a person was told that it cannot be reached."""
    caught_up_after: float = 0.0
    """Seconds from the return until every line that the hosts had written by then was kept."""
    lines: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def fault(self) -> Inject:
        """What takes the client away and gives it back."""
        return partial(cut_off_client_for if self.way == "offline" else freeze_client_for, self.seconds)

    def judge(self, run: RunDir, began: float) -> None:
        """Look at what was told: every host as lost, soon, and nothing of a hang.

        Args:
            run: what the client kept.
            began: when it was taken away, in seconds since the epoch.
        """
        notes = [record for record in run.records() if record.get("did") == "note" and record["at"] >= began]
        lost = [note for note in reversed(notes) if str(note["text"]).startswith(_LOST)]
        self.told_after = {str(note["host"]): round(float(note["at"]) - began, 1) for note in lost}
        self.violations += [f"a false alarm: {note['text']}" for note in notes if FALSE_ALARM in str(note["text"])]
        if self.way == "offline":
            late = {host: self.told_after.get(host) for host in self.steps_meanwhile}
            self.violations += [
                f"{host} was told as lost after {seconds} s"
                for host, seconds in late.items()
                if seconds is None or seconds > TOLD_SECONDS
            ]
        self.violations += [f"{host} made no step" for host, count in self.steps_meanwhile.items() if count <= 0]

"""A host that is told to end by somebody other than this program's person: SIGTERM to its agent.

An engine that restarts, ``docker stop`` by hand and a machine that shuts down look like this. A person who stops the
run says so with the control message ``stop``, so a SIGTERM alone means: this host leaves, the others go on. Its ranks
ask for that through the command log, leave together with all others' consent after the same step, and a new group is
formed without them at once: nothing is lost or done again.

The run itself ends, with a checkpoint, where leaving cannot be: on the master, whose end takes the rendezvous with it;
in a run that is not elastic; and where no member would be left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.environment import RankEnvironment
from trainer.events import Emitter, Notice
from trainer.link import Link

Asked = Literal["", "stop", "leave"]
"""What this process was asked for past the control folder: nothing, the end of the run, or the end of this host."""


class HasLeft(Exception):
    """This rank has nothing to do any more: the others go on without it."""


@dataclass(slots=True)
class Leavers:
    """Which members leave after the present step, by the command log, which is the same on all members."""

    ranks: set[int] = field(default_factory=set)

    def note(self, entry: Mapping[str, Any], generation: int) -> None:
        """Take in a request. One that was made in another generation has no effect: it is made again in this one."""
        if entry["generation"] == generation:
            self.ranks.add(int(entry["rank"]))

    def take(self, members: Collection[int]) -> frozenset[int]:
        """Return the members that leave now, and forget them."""
        leaving = frozenset(self.ranks.intersection(members))
        self.ranks.clear()
        return leaving


class Departure:
    """Turns what this process was asked for into entries of the command log."""

    def __init__(
        self, place: RankEnvironment, emitter: Emitter, asked: Callable[[], Asked], *, elastic: bool, process_id: int
    ) -> None:
        """``process_id`` tells the requests of this process from those of another one of the same rank."""
        self._place = place
        self._emitter = emitter
        self._asked = asked
        self._elastic = elastic
        self._process_id = process_id
        self._stop_sent = False
        self._leave_sent = -2
        """The generation in which the last request to leave was made."""

    def run_stops(self) -> None:
        """A person's stop is on its way to the log: what the signal asks for beside it is no news."""
        self._stop_sent = True

    @property
    def is_asked(self) -> bool:
        """Whether there is anything to pass on."""
        return bool(self._asked())

    @property
    def is_wanted(self) -> bool:
        """Whether this rank is to leave while the others go on."""
        return self._asked() == "leave" and self._elastic and not self._place.host.is_master

    @property
    def reason(self) -> str:
        """Why this rank is not there any more, for the others."""
        return f"rank {self._place.rank} left: {self._place.host.host} was told to end from outside (SIGTERM)"

    def ask(self, link: Link, generation: int) -> None:
        """Pass on what was asked for, unless that was done already or the run is stopped anyway.

        Called when the control folder has been read: a stop that came before a signal is in the log by then.
        """
        if not self._asked() or self._stop_sent or link.is_told_to_stop:
            return
        if not self.is_wanted:
            self._stop_sent = True
            entry: dict[str, str] = {"command": "stop", "reason": "" if self._asked() == "stop" else self._why_stop}
            link.command(f"signal-{self._place.rank}-{self._process_id}", entry)
        elif generation != self._leave_sent:
            if self._leave_sent < -1:
                text = "told to end from outside (SIGTERM): this rank leaves after this step, the others go on"
                self._emitter.emit(Notice, level="warning", text=text)
            self._leave_sent = generation
            request = {"command": "leave", "rank": self._place.rank, "generation": generation}
            link.command(f"leave-{self._place.rank}-{self._process_id}-{generation}", request)

    @property
    def _why_stop(self) -> str:
        why = "the rendezvous lives there" if self._elastic else "the run is not elastic"
        return f"{self._place.host.host} was told to end from outside (SIGTERM), and {why}"

"""Who trains: the decisions of the coordinator, free of sockets and clocks.

The members of a process group are fixed while it lives, so every change of membership is a new *generation*:

* A member dies, or a collective fails: the generation is broken, every living member leaves its group and says
  ``ready`` with the number of steps it has completed; once all living members are ready, the next one is formed.
* A rank leaves in good order (its host is told to end): it asks the members to part after a step they agree on, and
  says ``left``; the next generation is formed without it.
* The network between two hosts is cut while both reach the master: the generation is broken, and the slower side
  *stands aside*: it stays connected and is no member, until it gets answers from the others again.
* A rank (re)joins: it says ``ready`` when it has nothing left to prepare; the members are asked to leave at a step
  they agree on, and the next generation includes the newcomer.

The member with the most completed steps is the *source*: a rank may have finished the collective that failed for
another one, and then its parameters already hold that step. Everybody else takes its state. Of several, one that was
a member before: a rank that comes back may have done the same step with others.

Commands of a person (pause, stop, …) become a log with one order for all ranks. Each rank tells its newest entry
with its gradients, so all of them apply the same entries after the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Message = dict[str, Any]
Outgoing = list[tuple[int, Message]]
"""(rank, message) pairs."""

ANSWERS: Final = 3
"""How many times in a row a peer must answer before it counts as reached again; twice as many at each new cut."""
MAX_ANSWERS: Final = 24
MAX_FRUITLESS_GENERATIONS: Final = 5
"""Generations in a row without one completed step and without a change of members."""


@dataclass(slots=True)
class _Ready:
    step: int
    card: Mapping[str, Any]
    samples_per_second: float


@dataclass(slots=True)
class Roster:
    """The state of one run's membership. Each method takes what happened and returns what to tell whom."""

    world_size: int
    elastic: bool
    generation: int = -1
    members: tuple[int, ...] = ()
    reason: str = ""
    """Why the present generation is being replaced; the first cause."""
    over: bool = False
    aborted: str = ""
    breaking: bool = False
    _connected: set[int] = field(default_factory=set)
    _finished: set[int] = field(default_factory=set)
    _lost: dict[int, str] = field(default_factory=dict)
    _left: set[int] = field(default_factory=set)
    """Ranks that went in good order while the others go on."""
    _ready: dict[int, _Ready] = field(default_factory=dict)
    _log: list[Message] = field(default_factory=list)
    _command_names: set[str] = field(default_factory=set)
    _cut: dict[int, set[int]] = field(default_factory=dict)
    """Rank that stands aside → connected ranks that it does not reach."""
    _cuts: dict[int, int] = field(default_factory=dict)
    """How often a rank has stood aside."""
    _speeds: dict[int, float] = field(default_factory=dict)
    """Samples a second of the members, by their own calibration."""
    _regroup_asked: bool = False
    _fruitless: int = 0
    _best_step: int = -1

    def connected(self, rank: int) -> Outgoing:
        """A rank's process is there; it is told every command so far."""
        self._connected.add(rank)
        if self.aborted:
            return [(rank, {"type": "abort", "reason": self.aborted})]
        return [(rank, entry) for entry in self._log]

    def ready(self, rank: int, step: int, card: Mapping[str, Any]) -> Outgoing:
        """A rank waits for the next generation, having completed ``step`` steps (-1: it has no state).

        Raises:
            TypeError, ValueError: the card's table is none.
        """
        self._ready[rank] = _Ready(step, card, _speed(card))
        return self._let_in(rank)

    def _let_in(self, rank: int) -> Outgoing:
        may_join = rank in self._ready and rank not in self.members and rank not in self._cut
        if self.generation >= 0 and may_join and not self.breaking and not self._regroup_asked:
            self._regroup_asked = True
            return self._append({"command": "regroup", "generation": self.generation}) + self._form_if_complete()
        return self._form_if_complete()

    def broken(self, rank: int, generation: int, reason: str) -> Outgoing:
        """A collective of ``generation`` failed on ``rank``."""
        if generation != self.generation or self.breaking:
            return []
        return self._break(f"rank {rank}: {reason}")

    def cut(self, one: Iterable[int], other: Iterable[int]) -> Outgoing:
        """The network between two sets of ranks is cut, though all of them reach the master.

        Without ``elastic`` nothing can be done about it. With it, the side that computes fewer samples a second stands
        aside. Nothing happens when the two are not in one group anyway.
        """
        able = (set(self.members) & self._connected) - self._finished - self._cut.keys()
        sides = [able.intersection(one), able.intersection(other)]
        if not self.elastic or self.generation < 0 or not all(sides) or sides[0] & sides[1]:
            return []
        aside, staying = sorted(sides, key=lambda side: (sum(self._speeds.get(rank, 0.0) for rank in side), -min(side)))
        out: Outgoing = []
        for rank in sorted(aside):
            self._cut[rank] = set(staying)
            self._cuts[rank] = self._cuts.get(rank, 0) + 1
            out += self._probe(rank)
        cause = (
            f"{_ranks(aside)} and {_ranks(staying)} do not reach each other; the run goes on without {_ranks(aside)}"
        )
        if not self.breaking:
            out += self._break(f"{cause} until they do")
        return out + self._form_if_complete()

    def reached(self, rank: int, others: Iterable[int]) -> Outgoing:
        """A rank that stands aside gets answers from others again."""
        if rank not in self._cut:
            return []
        self._cut[rank] -= set(others)
        if self._cut[rank]:
            return self._probe(rank)
        del self._cut[rank]
        return self._probe(rank) + self._let_in(rank)

    def stands_aside(self, rank: int) -> bool:
        """Whether a rank waits until it reaches the others again."""
        return rank in self._cut

    def _probe(self, rank: int) -> Outgoing:
        answers = min(ANSWERS * 2 ** (self._cuts.get(rank, 1) - 1), MAX_ANSWERS)
        return [(rank, {"type": "probe", "ranks": sorted(self._cut.get(rank, ())), "answers": answers})]

    def _no_longer_there(self, rank: int) -> Outgoing:
        """Whoever stands aside because of a rank that is gone may come back."""
        self._cut.pop(rank, None)
        return [message for each in sorted(self._cut) for message in self.reached(each, [rank])]

    def lost(self, rank: int, reason: str) -> Outgoing:
        """A rank's process is gone or silent."""
        self._connected.discard(rank)
        self._ready.pop(rank, None)
        if rank in self._finished:
            return self._check_over()
        self._lost[rank] = reason
        if not self.elastic:
            return self.abort(f"rank {rank} was lost: {reason}")
        out: Outgoing = []
        if rank in self.members:
            cause = f"rank {rank} was lost: {reason}"
            if not self.breaking:
                out += self._break(cause)
            elif not self.reason.startswith("rank ") or " was lost: " not in self.reason:
                self.reason = cause
        return out + self._no_longer_there(rank) + self._form_if_complete() + self._check_over()

    def left(self, rank: int, reason: str) -> Outgoing:
        """A rank ended in good order while the others go on: the next generation does not wait for it.

        The members have agreed on that and are about to say ``ready``, unless one of them breaks the group first.
        """
        self._connected.discard(rank)
        self._ready.pop(rank, None)
        self._lost[rank] = reason
        self._left.add(rank)
        if rank in self.members:
            self._regroup_asked = True
            self.reason = self.reason or reason
        return self._no_longer_there(rank) + self._form_if_complete() + self._check_over()

    def finished(self, rank: int) -> Outgoing:
        """A rank ended in good order."""
        self._finished.add(rank)
        self._ready.pop(rank, None)
        if self._finished >= set(self.members):
            out = self._to(self._connected - self._finished, {"type": "over"})
        else:
            out = self._form_if_complete()
        return out + self._check_over()

    def command(self, name: str, message: Mapping[str, Any]) -> Outgoing:
        """A person's command, seen by one rank. The same name seen by another rank is the same command."""
        if name in self._command_names:
            return []
        self._command_names.add(name)
        return self._append(dict(message))

    def abort(self, reason: str) -> Outgoing:
        """End the run everywhere; only the first reason counts."""
        if self.aborted:
            return []
        self.aborted = reason
        return [(rank, {"type": "abort", "reason": reason}) for rank in sorted(self._connected - self._finished)]

    def missing(self) -> tuple[int, ...]:
        """Return the ranks that the next generation waits for."""
        return tuple(sorted(self._expected() - self._ready.keys()))

    def why_missing(self, rank: int) -> str:
        """Return what is known of a rank that does not come."""
        if rank in self._connected:
            return "connected, not ready"
        return self._lost.get(rank, "never connected")

    def _expected(self) -> set[int]:
        if self.generation < 0:
            return set(range(self.world_size)) - self._left
        return (set(self.members) & self._connected) - self._finished - self._cut.keys()

    def _break(self, cause: str) -> Outgoing:
        self.breaking = True
        self.reason = cause = self.reason or cause
        message = {"type": "break", "generation": self.generation, "reason": cause}
        return [(rank, message) for rank in self.members if rank in self._connected]

    def _append(self, entry: Message) -> Outgoing:
        entry = {**entry, "type": "command", "index": len(self._log) + 1}
        self._log.append(entry)
        return self._to(self._connected - self._finished, entry)

    @staticmethod
    def _to(ranks: Iterable[int], message: Message) -> Outgoing:
        return [(rank, message) for rank in sorted(ranks)]

    def _form_if_complete(self) -> Outgoing:
        candidates = self._ready.keys() - self._cut.keys()
        if self.aborted or not candidates or not self._expected() <= candidates:
            return []
        if self.generation >= 0 and not self.breaking and not self._regroup_asked:
            return []
        before = set(self.members)
        members = tuple(sorted(candidates))
        steps = {rank: self._ready[rank].step for rank in members}
        newest = max(steps.values())
        self._fruitless = self._fruitless + 1 if newest <= self._best_step and before == set(members) else 0
        self._best_step = max(self._best_step, newest)
        if self._fruitless >= MAX_FRUITLESS_GENERATIONS:
            return self.abort(f"{self._fruitless} groups in a row failed before one step was done; last: {self.reason}")
        self.generation += 1
        message = {
            "type": "form",
            "generation": self.generation,
            "members": list(members),
            "steps": {str(rank): step for rank, step in steps.items()},
            "source": min(
                (rank for rank in members if steps[rank] == newest), key=lambda rank: (rank not in before, rank)
            ),
            "left": sorted(before - set(members)),
            "joined": sorted(set(members) - before),
            "reason": self.reason,
            "cards": {str(rank): dict(self._ready[rank].card) for rank in members},
        }
        self.members = members
        self.breaking = False
        self.reason = ""
        self._regroup_asked = False
        self._speeds |= {rank: self._ready[rank].samples_per_second for rank in members}
        for rank in members:
            del self._ready[rank]
        return self._to(members, message)

    def _check_over(self) -> Outgoing:
        if self.generation < 0:
            # No group was formed here: scripts make their own. A rank that is late has not connected yet.
            ended = self._finished | self._lost.keys()
            self.over = bool(self._finished) and len(ended) == self.world_size
        else:
            self.over = bool(self._finished) and not (self._connected - self._finished)
        return []


def _speed(card: Mapping[str, Any]) -> float:
    """Return the samples a second of what a rank tells of itself: (samples, seconds) pairs under ``table``."""
    table = card.get("table", ())
    return max((float(samples) / float(seconds) for samples, seconds in table if seconds > 0), default=0.0)


def _ranks(ranks: Iterable[int]) -> str:
    ordered = sorted(ranks)
    return f"rank{'s' if len(ordered) > 1 else ''} {', '.join(str(rank) for rank in ordered)}"

"""Which events are new: numbers without gaps, repetitions after a reconnect, and processes that start over."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.events import Event, Hello


@dataclass(slots=True)
class _Sequence:
    """Where the numbering of one process stands."""

    expected: int
    last_time: float
    process_id: int


class Sequences:
    """Follows the numbers of every process: each rank, and the agent of each host."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Sequence] = {}

    def gap_before(self, host: str, event: Event) -> int | None:
        """Return how many events are missing just before this one, or ``None`` when it is a repetition."""
        key = (host, event.rank)
        process_id = event.process_id if isinstance(event, Hello) else 0
        known = self._known.get(key)
        if known is None or self._starts_over(known, event, process_id):
            self._known[key] = _Sequence(event.seq + 1, event.time, process_id)
            return max(0, event.seq)
        if event.seq < known.expected:
            return None
        lost = event.seq - known.expected
        known.expected = event.seq + 1
        known.last_time = max(known.last_time, event.time)
        known.process_id = process_id or known.process_id
        return lost

    def goes_on(self, host: str, rank: int, seq: int, time: float) -> bool:
        """Note an event other than ``Hello`` if it is just the one that was expected next, and tell whether it was."""
        known = self._known.get((host, rank))
        if known is None or seq != known.expected:
            return False
        known.expected = seq + 1
        known.last_time = max(known.last_time, time)
        return True

    def skip(self, host: str, rank: int, count: int, last: int) -> int:
        """Note events in a row that came and are not looked at, up to number ``last``; return how many are missing."""
        known = self._known.setdefault((host, rank), _Sequence(0, 0.0, 0))
        lost = max(0, last + 1 - known.expected - count)
        known.expected = max(known.expected, last + 1)
        return lost

    def _starts_over(self, known: _Sequence, event: Event, process_id: int) -> bool:
        """A repeated line is never newer than the newest seen, so a low number on a newer line is a new process."""
        if event.seq >= known.expected:
            return False
        another = bool(process_id and known.process_id and process_id != known.process_id)
        return another or event.time > known.last_time

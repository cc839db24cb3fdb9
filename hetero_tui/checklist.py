"""What is known of the checklist so far. Pure: progress in, cells and counts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from remote.checks.model import CheckProgress, CheckResult, CheckStarted, Verdict


@dataclass(frozen=True, slots=True)
class Place:
    """A cell: a check on a host; the host is empty for a check of the whole cluster."""

    check_id: str
    host: str


class ChecklistState:
    """Results by place. ``version`` changes with every step forward."""

    def __init__(self) -> None:
        self.results: dict[Place, CheckResult] = {}
        self.running: set[Place] = set()
        self.version = 0

    def feed(self, progress: CheckProgress) -> None:
        """Take in what started or what was found."""
        self.version += 1
        place = Place(progress.check_id, progress.host)
        match progress:
            case CheckStarted():
                self.running.add(place)
            case CheckResult():
                self.running.discard(place)
                self.results[place] = progress

    def forget(self, places: Iterable[Place]) -> None:
        """Drop old answers before a check runs again."""
        for place in places:
            self.results.pop(place, None)
        self.version += 1

    def ended(self) -> None:
        """Nothing runs any more; what never answered is shown as not run."""
        self.running.clear()
        self.version += 1

    def counts(self) -> Counter[Verdict]:
        """Return how many cells have which verdict."""
        return Counter(result.finding.verdict for result in self.results.values())

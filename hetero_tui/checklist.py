"""What is known of the checklist so far, and which rows are shown. Pure: progress in, cells, counts and rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from remote.checks.model import CheckProgress, CheckResult, CheckStarted, Verdict

if TYPE_CHECKING:
    from hetero_tui.session import CheckInfo

ORDER: Final = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIP, Verdict.OK)
"""The worst first."""


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


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A row of one check."""

    check: CheckInfo


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The heading of a group of checks."""

    group: str
    checks: tuple[CheckInfo, ...]
    """All checks of the group that pass the filter, also when they are folded away."""
    folded: bool


Row = CheckRow | GroupRow


def places_of(check: CheckInfo, hosts: Sequence[str]) -> tuple[Place, ...]:
    """Return the cells of a check."""
    return (Place(check.id, ""),) if check.scope == "cluster" else tuple(Place(check.id, host) for host in hosts)


def worst(results: Mapping[Place, CheckResult], places: Iterable[Place]) -> tuple[Verdict, int] | None:
    """Return the worst verdict among the places and how many have it, or None where nothing has answered yet."""
    found = Counter(results[place].finding.verdict for place in places if place in results)
    return next(((verdict, found[verdict]) for verdict in ORDER if found[verdict]), None)


def rows(
    checks: Sequence[CheckInfo],
    results: Mapping[Place, CheckResult],
    hosts: Sequence[str],
    *,
    folded: frozenset[str] = frozenset(),
    failing_first: bool = False,
    wanted: str = "",
) -> tuple[Row, ...]:
    """Return the rows to show.

    Args:
        checks: the checklist in its order.
        results: what has answered.
        hosts: in the order of the inventory.
        folded: groups of which only the heading is shown.
        failing_first: the worst rows on top, without headings.
        wanted: a filter, see :func:`passes`; a filter looks into folded groups, too.
    """
    shown = [check for check in checks if passes(check, results, hosts, wanted)]
    if failing_first:
        return tuple(CheckRow(check) for check in sorted(shown, key=lambda check: _rank(check, results, hosts)))
    if not any(check.group for check in shown):
        return tuple(CheckRow(check) for check in shown)
    found: list[Row] = []
    for group in dict.fromkeys(check.group for check in shown):
        members = tuple(check for check in shown if check.group == group)
        is_folded = group in folded and not wanted
        found.append(GroupRow(group, members, is_folded))
        if not is_folded:
            found.extend(CheckRow(check) for check in members)
    return tuple(found)


def _rank(check: CheckInfo, results: Mapping[Place, CheckResult], hosts: Sequence[str]) -> int:
    found = worst(results, places_of(check, hosts))
    return len(ORDER) if found is None else ORDER.index(found[0])


def passes(check: CheckInfo, results: Mapping[Place, CheckResult], hosts: Sequence[str], wanted: str) -> bool:
    """Say whether a check passes a filter: every word occurs in its name, group, or one of its answers.

    A word that begins with ``!`` must not occur. Capitals do not matter.
    """
    words = wanted.casefold().split()
    if not words:
        return True
    pieces = [check.id, check.title, check.group, check.severity]
    for place in places_of(check, hosts):
        result = results.get(place)
        if result is not None:
            pieces += [place.host, result.finding.verdict.value, result.finding.reason]
    text = "\n".join(pieces).casefold()
    return all(word[1:] not in text if word.startswith("!") and word[1:] else word in text for word in words)


def affected(checks: Sequence[CheckInfo], check_id: str) -> frozenset[str]:
    """Return the checks to ask again after something was done about one: itself and all that depend on it.

    Where it reads what another check found out (the network probe), everything that reads the same is asked again:
    what opens one port may open another.
    """
    by_id = {check.id: check for check in checks}
    needed = {check_id}
    while more := {need for each in needed for need in by_id[each].needs if need in by_id} - needed:
        needed |= more
    found = {check_id, *(need for need in needed if by_id[need].is_source)}
    while more := {check.id for check in checks if not found.isdisjoint(check.needs)} - found:
        found |= more
    return frozenset(found)


def known_checks() -> tuple[CheckInfo, ...]:
    """Return all checks that there are, by the groups they are shown in."""
    from hetero_tui.session import CheckInfo
    from remote.checks.catalogue import GROUPS

    return tuple(
        CheckInfo(
            id=check.id,
            title=check.title,
            severity=check.severity.value,
            scope="cluster" if check.scope == "cluster" else "host",
            needs=check.needs,
            group=group,
            is_source=check.is_source,
        )
        for group, checks in GROUPS
        for check in checks
    )

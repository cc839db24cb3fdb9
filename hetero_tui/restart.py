"""Trying a failed run again: how often, after which wait, and without whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hetero_tui.session import HostStatus
from remote.inventory import Limits

LONGEST_WAIT_SECONDS: Final = 300.0


def wait_before(limits: Limits, attempt: int) -> float:
    """Return the seconds to wait before restart 0, 1, 2, …: doubling, up to five minutes."""
    return float(min(LONGEST_WAIT_SECONDS, limits.restart_wait_seconds * 2.0 ** min(attempt, 30)))


def gone(statuses: Iterable[HostStatus]) -> tuple[str, ...]:
    """Return the hosts that cannot be reached now."""
    return tuple(sorted(each.host for each in statuses if each.phase != "connected"))

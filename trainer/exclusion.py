"""Hosts that a person has taken out of the shares: their ranks stay in the group as warm spares.

They compute nothing and take part in every reduction, so they have the present parameters and can be admitted again
from one step to the next. The state is equal on all members after every step and travels to a rank that joins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

NAME_CHARACTERS: Final = 64
"""Of a name in a control message so many are read."""


class NotChanged(ValueError):
    """The wish changes nothing; the message says why. ``level`` is that of the notice."""

    def __init__(self, text: str, level: Literal["info", "error"]) -> None:
        super().__init__(text)
        self.level = level


@dataclass(slots=True)
class Exclusion:
    """Which hosts are excluded, and which ranks that concerns."""

    hosts: dict[int, str] = field(default_factory=dict)
    """Host of each rank that has been a member of the run."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Excluded hosts and why they have no share."""

    def reasons(self) -> dict[int, str]:
        """Return why a rank has no share, by global rank, for the ranks of all excluded hosts."""
        return {rank: self.excluded[host] for rank, host in sorted(self.hosts.items()) if host in self.excluded}

    def form(self, hosts: Mapping[int, str]) -> str:
        """Take in the host of each member of a new group, and return what there is to tell.

        When only excluded hosts are left they compute again: somebody has to.
        """
        self.hosts |= hosts
        present = set(hosts.values())
        if not present <= self.excluded.keys():
            return ""
        for host in present:
            del self.excluded[host]
        named = ", ".join(sorted(present))
        return f"no other host is left: {named} {'computes' if len(present) == 1 else 'compute'} again"

    def exclude(self, host: str, by: str, members: Collection[int]) -> str:
        """Take a host out of the shares, and return the reason of the new plan.

        Args:
            host: Its name.
            by: Who wants it; may be empty.
            members: Global ranks of the present group.

        Raises:
            NotChanged: no such host, excluded already, or no member of another host would have a share.
        """
        self._check_known("exclude", host)
        if host in self.excluded:
            raise NotChanged(f"{host} is excluded already", "info")
        left = {self.hosts[rank] for rank in members} - self.excluded.keys() - {host}
        if not left:
            raise NotChanged(f"cannot exclude {host}: no other host is left to compute", "error")
        self.excluded[host] = f"excluded{_by(by)}"
        return f"{host} excluded{_by(by)}"

    def admit(self, host: str, by: str) -> str:
        """Let a host have a share again, and return the reason of the new plan.

        Raises:
            NotChanged: no such host, or it is not excluded.
        """
        self._check_known("admit", host)
        if host not in self.excluded:
            raise NotChanged(f"{host} is not excluded", "info")
        del self.excluded[host]
        return f"{host} admitted again{_by(by)}"

    def _check_known(self, command: str, host: str) -> None:
        known = sorted(set(self.hosts.values()))
        if host not in known:
            raise NotChanged(f"cannot {command} {host!r}: the ranks are on {', '.join(known)}", "error")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"hosts": sorted(self.hosts.items()), "excluded": sorted(self.excluded.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Exclusion:
        """Read what :meth:`to_json` returned.

        Raises:
            TypeError, ValueError: it is something else.
        """
        return cls(
            {int(rank): str(host) for rank, host in values.get("hosts", ())},
            {str(host): str(reason) for host, reason in values.get("excluded", ())},
        )


def _by(name: str) -> str:
    return f" by {name}" if name else ""

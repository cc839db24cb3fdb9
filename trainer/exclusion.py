"""Hosts that a person has taken out of the shares: their ranks stay in the group as warm spares.

They compute nothing and take part in every reduction, so they have the present parameters and can be admitted again
from one step to the next. The state is equal on all members after every step and travels to a rank that joins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from trainer.balance import Balancer, Decision

NAME_CHARACTERS: Final = 64
"""Of a name in a control message so many are read."""


class NotChanged(ValueError):
    """The wish changes nothing; the message says why. The attributes are those of the notice."""

    def __init__(self, text: str, level: Literal["info", "error"], command: str, host: str) -> None:
        super().__init__(text)
        self.level = level
        self.code = f"{command}-refused"
        self.about = host


@dataclass(slots=True)
class Exclusion:
    """Which hosts are excluded, and which ranks that concerns."""

    hosts: dict[int, str] = field(default_factory=dict)
    """Host of each rank that has been a member of the run."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Excluded hosts and why they have no share."""

    def reasons(self, members: Collection[int]) -> dict[int, str]:
        """Return why a rank has no share, by global rank, for the ranks of all excluded hosts.

        While all ``members`` are on excluded hosts it is empty, and they compute: somebody has to.
        """
        if not self._sharing(members):
            return {}
        return {rank: self.excluded[host] for rank, host in sorted(self.hosts.items()) if host in self.excluded}

    def warning(self, members: Collection[int]) -> str:
        """Return what a person should know of a new group; empty when all is as it was wished."""
        if self._sharing(members):
            return ""
        named = sorted({self.hosts[rank] for rank in members})
        verb = "computes" if len(named) == 1 else "compute"
        return f"no other host is left: {', '.join(named)} {verb} although excluded"

    def change(self, entry: Mapping[str, Any], balancer: Balancer, step: int) -> Decision:
        """Do what an entry of the command log asks for, and return the new plan.

        Raises:
            NotChanged: it changes nothing.
        """
        host, by, members = str(entry["host"]), str(entry["by"]), balancer.members
        reason = self.exclude(host, by, members) if entry["command"] == "exclude" else self.admit(host, by)
        return balancer.exclude(self.reasons(members), step, reason)

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
            raise NotChanged(f"{host} is excluded already", "info", "exclude", host)
        if self._sharing(members) <= {host}:
            raise NotChanged(f"cannot exclude {host}: no other host is left to compute", "error", "exclude", host)
        self.excluded[host] = f"excluded{_by(by)}"
        return f"{host} excluded{_by(by)}"

    def admit(self, host: str, by: str) -> str:
        """Let a host have a share again, and return the reason of the new plan.

        Raises:
            NotChanged: no such host, or it is not excluded.
        """
        self._check_known("admit", host)
        if host not in self.excluded:
            raise NotChanged(f"{host} is not excluded", "info", "admit", host)
        del self.excluded[host]
        return f"{host} admitted again{_by(by)}"

    def _sharing(self, members: Collection[int]) -> set[str]:
        """Return the hosts of members that are not excluded."""
        return {self.hosts[rank] for rank in members} - self.excluded.keys()

    def _check_known(self, command: str, host: str) -> None:
        known = sorted(set(self.hosts.values()))
        if host not in known:
            text = f"cannot {command} {host!r}: the ranks are on {', '.join(known)}"
            raise NotChanged(text, "error", command, host)

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

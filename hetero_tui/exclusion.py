"""Taking a host out of the shares of a running job, and back in: who may go, what that costs, what is sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hetero_tui.diagnosis import without_host
from hetero_tui.formats import percent, rate
from hetero_tui.store import Store
from hetero_tui.views import ClusterView, RankState, RankView


def excluded_hosts(views: Sequence[RankView]) -> frozenset[str]:
    """Return the hosts that a person has taken out of the shares."""
    return frozenset(view.host for view in views if view.state is RankState.EXCLUDED)


def refusal(views: Sequence[RankView], host: str) -> str:
    """Return why a host cannot be excluded; empty when it can. The ranks have the last word."""
    alive = {view.host for view in views if not view.state.ended}
    if host not in alive:
        return f"no rank of {host} takes part in the run"
    if host in excluded_hosts(views):
        return f"{host} is excluded already"
    if alive - excluded_hosts(views) <= {host}:
        return f"{host} cannot be excluded: no other host is left to compute"
    return ""


def refusal_told(store: Store, begin: int, command: str, host: str) -> str:
    """Return what a rank has said since event ``begin`` of a command that changes nothing; empty when none has.

    It is recognised by its code (``trainer.events.Notice``), never by its words.
    """
    for number in range(max(begin, store.events.first), store.events.next):
        record = store.events[number]
        if record.rank >= 0 and (record.code, record.about) == (f"{command}-refused", host):
            return record.text
    return ""


def cost_text(views: Sequence[RankView], cluster: ClusterView, host: str) -> str:
    """Return in words what the run would do without a host."""
    found = without_host(views, cluster, host)
    if found is None:
        return "What that costs cannot be predicted: no speeds have been measured yet."
    verb = "costs" if found.cost >= 0 else "gains"
    label = " (simulated)" if any(view.simulated for view in views) else ""
    change = f"{'+' if found.change > 0 else ''}{percent(found.change, 1)}"
    return (
        f"Predicted: it {verb} {rate(abs(found.cost))} samples/s{label}; the others do "
        f"{rate(found.samples_per_second)} samples/s without it, {change}."
    )


def exclusion_message(command: str, host: str) -> dict[str, object]:
    """Return the control message that excludes or admits a host, signed with the account that sends it."""
    from remote.claim import this_account

    return {"command": command, "host": host, "by": this_account()}

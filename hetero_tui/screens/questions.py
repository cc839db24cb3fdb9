"""The words of the app's questions, made from frozen values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from hetero_tui.checklist import Place
from hetero_tui.exclusion import cost_text
from hetero_tui.formats import rate
from hetero_tui.screens.dialogs import Confirm
from hetero_tui.views import FailureRecord

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol
    from remote.runtime import HostRunState

POLICIES: Final = (
    ("equal", "every rank the same number of samples"),
    ("static", "shares from the speeds at the start, never changed"),
    ("proportional", "shares follow the speeds measured while training"),
    ("dynamic", "shares are solved again when speeds have really changed"),
    ("hybrid", "dynamic, within the limits of each rank's memory"),
)


def policy_options() -> list[tuple[str, str]]:
    """Return the policies to choose from."""
    return [(name, f"{name:<14}{about}") for name, about in POLICIES]


def speed_options(configured: float) -> list[tuple[str, str]]:
    """Return simulated speeds to choose from, around the one in ``cluster.toml``."""
    factors = ((0.25, "a quarter"), (0.5, "half"), (1.0, "as in cluster.toml"), (2.0, "double"))
    return [
        (f"{configured * factor:g}", f"{rate(configured * factor):>6} samples/s  {word}") for factor, word in factors
    ]


def attach_options(runs: Sequence[HostRunState]) -> list[tuple[str, str]]:
    """Return one entry for each run: its id, and on how many hosts it stands how."""
    by_run: dict[str, list[HostRunState]] = {}
    for run in runs:
        by_run.setdefault(run.run_id, []).append(run)
    options = []
    for run_id, parts in by_run.items():
        states = sorted({part.state.value for part in parts})
        words = ", ".join(f"{state} on {sum(part.state.value == state for part in parts)}" for state in states)
        options.append((run_id, f"{run_id}   {words} of {len(parts)} hosts"))
    return options


def stop_question(session: SessionProtocol) -> Confirm:
    """Name what will be stopped."""
    hosts = [host.name for host in session.inventory.hosts]
    view = session.store.cluster_view()
    named = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    text = (
        f"This ends training at step {view.step} of {view.steps_total} on {len(hosts)} hosts: {named}.\n\n"
        "A checkpoint is written first where the run can still do so. Other runs are not touched."
    )
    return Confirm(f"Stop run {session.run_id}?", text, yes="Stop the run", danger=True)


def exclude_question(session: SessionProtocol, host: str) -> Confirm:
    """Name the host that will compute nothing, and what that costs."""
    views = session.store.rank_views()
    ranks = [str(view.rank) for view in views if view.host == host]
    named = f"{'Rank' if len(ranks) == 1 else 'Ranks'} {', '.join(ranks[:16])}{', …' if len(ranks) > 16 else ''}"
    text = (
        f"{named} on {host} will get no samples from the next step on; the other hosts take them over.\n\n"
        f"{cost_text(views, session.store.cluster_view(), host)}\n\n"
        "It stays in the group as a warm spare and can be admitted again at any step."
    )
    return Confirm(f"Exclude {host}?", text, yes=f"Exclude {host}", danger=True)


def ways_on(*, failed: bool, gone: Collection[str], kept: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what can be done after a run's end, the likeliest first; nothing when all is well.

    Args:
        failed: the run did not come to its end.
        gone: hosts that do not answer.
        kept: hosts where results stay that could not be brought home.
    """
    options = []
    named = ", ".join(sorted(gone))
    if failed and gone:
        options.append(("without", f"Resume from the newest checkpoint without {named}"))
    if failed:
        options.append(("resume", "Resume from the newest checkpoint" + (" on all hosts" if gone else "")))
    if kept:
        there = ", ".join(sorted(kept))
        options.append(("fetch", f"Try again to bring the results home from {there}"))
        options.append(("discard", f"Give up the results on {there} and clean up"))
    return [*options, ("", "Leave it as it is")] if options else []


def launch_anyway_question(failing: Place) -> Confirm:
    """Name the failing check before a launch in spite of it."""
    where = f" on {failing.host}" if failing.host else ""
    text = f"'{failing.check_id}' fails{where}. Training will most likely not start, or hang."
    return Confirm("Launch although a check fails?", text, yes="Launch anyway", danger=True)


def quit_question(*, launching: bool, run_ends_with_app: bool) -> Confirm:
    """Say what goes on without this program."""
    text = "Training goes on without this program. Run hetero-tui again to reattach."
    if run_ends_with_app:
        text = "The demo's hosts live inside this program: they and the training end with it."
    elif launching:
        text = "The launch is not finished. What was started stays on the hosts; run hetero-tui again to find it."
    return Confirm("Quit hetero-tui?", text, yes="Quit", no="Stay")


def failure_text(failures: Sequence[FailureRecord]) -> str:
    """Describe the failures, the likely cause first."""
    first = failures[0]
    where = "" if first.step is None else f" at step {first.step}"
    code = "" if first.exit_code is None else f" (exit code {first.exit_code})"
    lines = [f"Rank {first.rank} on {first.host} failed first{where}{code}:", f"  {first.error}", ""]
    if first.cause:
        lines += [f"That means: {first.cause}."]
    if first.next_step:
        lines += [f"Next: {first.next_step}"]
    if first.cause or first.next_step:
        lines.append("")
    if first.traceback:
        lines += [first.traceback, ""]
    if len(failures) > 1:
        followed = [failure for failure in failures[1:] if failure.consequence]
        for failure in [failure for failure in failures[1:] if not failure.consequence][:8]:
            lines.append(f"Then rank {failure.rank} on {failure.host}: {failure.error}")
        if followed:
            ranks = ", ".join(str(failure.rank) for failure in followed[:16])
            lines.append(f"Followed from it: rank {ranks} lost a peer.")
    return "\n".join(lines)

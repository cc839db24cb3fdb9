"""The words of the checklist's detail pane. Remote text is literal here, never markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from hetero_tui.checklist import ChecklistState, GroupRow, Place, places_of, worst
from hetero_tui.formats import counted
from hetero_tui.sanitize import clean, clean_block
from hetero_tui.session import CheckInfo, HostStatus
from remote.checks.model import CheckResult, Fix, Verdict
from remote.fixes import FixPlan, Way

Piece = Content | str | tuple[str, str]
COLOURS: Mapping[Verdict, str] = {
    Verdict.OK: "$text-success",
    Verdict.WARN: "$text-warning",
    Verdict.FAIL: "$text-error",
    Verdict.UNKNOWN: "$text-warning",
    Verdict.SKIP: "$muted",
}
HOW: Mapping[Way, str] = {
    Way.COPY: "y copies",
    Way.USER: "F runs it, y copies",
    Way.SUDO: "F runs it through sudo, y copies",
    Way.PASSWORD: "F runs it through sudo and asks for your password, y copies",
    Way.BRING: "F shows what would be brought, y copies",
}


def check_detail(
    check: CheckInfo,
    place: Place,
    state: ChecklistState,
    status: HostStatus | None,
    plan: FixPlan | None,
    glyphs: Mapping[Verdict, str],
) -> Content:
    """Say why, show the fix and the evidence.

    Args:
        check: the check under the cursor.
        place: the cell under the cursor.
        state: what has answered.
        status: how this program stands with the host, where it is a host's cell.
        plan: how the fix can be run; None without one, or where fixes are not run.
        glyphs: of the verdicts.
    """
    pieces: list[Piece] = [(check.title, "bold"), f" · {place.host or 'whole cluster'}\n"]
    if status is not None and status.phase in ("failed", "lost"):
        pieces += [("Not connected: ", "bold $text-error"), clean_block(status.detail), "\n"]
    result = state.results.get(place)
    if result is None:
        needs = f"\nNeeds: {', '.join(check.needs)}" if check.needs else ""
        pieces.append("Running…" if place in state.running else f"Not run yet.{needs}")
        return Content.assemble(*pieces)
    finding = result.finding
    pieces += [_verdict(finding.verdict, glyphs), f"  {clean(finding.reason)}\n"]
    if finding.fix is not None:
        pieces += _fix(finding.fix, plan)
    if finding.evidence:
        pieces += [("\nEvidence\n", "bold"), (clean_block(finding.evidence), "$muted"), "\n"]
    if result.seconds:
        pieces.append((f"\nanswered in {result.seconds:.2f} s", "$muted"))
    return Content.assemble(*pieces)


def _verdict(verdict: Verdict, glyphs: Mapping[Verdict, str]) -> tuple[str, str]:
    return f"{glyphs[verdict]} {verdict.value}", f"bold {COLOURS[verdict]}"


def _fix(fix: Fix, plan: FixPlan | None) -> list[Piece]:
    where = f" on {fix.host}" if fix.host else ""
    root = ", needs root" if fix.needs_root else ""
    how = HOW[plan.way] if plan else HOW[Way.COPY]
    pieces: list[Piece] = [("\nFix", "bold"), f"{where}{root} ({how})\n{clean_block(fix.text)}\n"]
    pieces += [(f"  {clean(command)}\n", "$text-accent") for command in fix.commands]
    if fix.new_login and plan and plan.way is not Way.COPY:
        pieces.append(("  it takes effect with a new login: the connection is then made anew\n", "$muted"))
    return pieces


def group_detail(row: GroupRow, state: ChecklistState, hosts: Sequence[str], glyphs: Mapping[Verdict, str]) -> Content:
    """Say what a group holds, the worst first."""
    pieces: list[Piece] = [
        (row.group, "bold"),
        f" · {counted(len(row.checks), 'check')} (space folds, z folds all)\n\n",
    ]
    found: list[tuple[CheckInfo, CheckResult]] = []
    for check in row.checks:
        answers = [state.results[place] for place in places_of(check, hosts) if place in state.results]
        found += [(check, each) for each in answers if each.finding.verdict in (Verdict.FAIL, Verdict.UNKNOWN)]
        at_worst = worst(state.results, places_of(check, hosts))
        word = f"{glyphs[at_worst[0]]} {at_worst[0].value}" if at_worst else "not run"
        style = COLOURS[at_worst[0]] if at_worst else "$muted"
        pieces += [(f"{word:<10}", style), f" {check.title}\n"]
    for check, result in found[:20]:
        where = result.host or "whole cluster"
        pieces += ["\n", _verdict(result.finding.verdict, glyphs), f" {check.title} · {where}\n"]
        pieces.append(f"  {clean(result.finding.reason)}\n")
    return Content.assemble(*pieces)

"""What the headless commands print: text for people, documents for programs. Pure: a session's state in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from hetero_tui.prediction_report import compared_text
from hetero_tui.sanitize import clean
from hetero_tui.session import CheckInfo, HostStatus
from hetero_tui.store import Store
from hetero_tui.views import EFFICIENCY_DEFINITION, LogRecord, RankView
from remote.checks.model import CheckResult, Verdict
from remote.checks.run import summarize
from remote.runtime import HostRunState, State

SCHEMA: Final = 1
"""Version of every JSON document."""

MARKS: Final = {Verdict.OK: "✔", Verdict.WARN: "!", Verdict.FAIL: "✖", Verdict.UNKNOWN: "?", Verdict.SKIP: "–"}
SIMULATED: Final = "SIMULATED SPEEDS: the ranks are held down on purpose; these figures describe no real machine"


def checks_document(
    cluster: str, hosts: Iterable[HostStatus], results: Sequence[CheckResult], checks: Sequence[CheckInfo]
) -> dict[str, Any]:
    """Return the checklist for programs."""
    titles = {check.id: check.title for check in checks}
    return {
        "schema": SCHEMA,
        "cluster": cluster,
        "ok": summarize(results).exit_code == 0,
        "hosts": [{"host": each.host, "phase": each.phase, "detail": each.detail} for each in hosts],
        "checks": [
            {
                "check": result.check_id,
                "title": titles.get(result.check_id, ""),
                "host": result.host,
                "verdict": result.finding.verdict.value,
                "reason": result.finding.reason,
                "evidence": result.finding.evidence,
                "fix": None
                if result.finding.fix is None
                else {
                    "text": result.finding.fix.text,
                    "commands": list(result.finding.fix.commands),
                    "host": result.finding.fix.host,
                    "needs_root": result.finding.fix.needs_root,
                },
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


def checklist_text(hosts: Sequence[str], results: Sequence[CheckResult], checks: Sequence[CheckInfo]) -> str:
    """Return the checklist as a grid (hosts as columns) with every problem and its fix below."""
    found = {(result.check_id, result.host): result for result in results}
    widths = [max(len(host), 7) for host in hosts]
    title_width = max(len(check.title) for check in checks)
    lines = [" " * title_width + "  " + "  ".join(host.ljust(width) for host, width in zip(hosts, widths, strict=True))]
    for check in checks:
        whole = found.get((check.id, ""))
        cells = [found.get((check.id, host)) for host in hosts]
        if whole is not None:
            shown = [_cell(whole)]
        else:
            shown = [(_cell(cell) if cell else "").ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append(f"{check.title.ljust(title_width)}  {'  '.join(shown)}".rstrip())
    for result in results:
        if result.finding.verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN):
            lines += ["", *_problem(result)]
    counts = summarize(results).counts
    told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    return "\n".join([*lines, "", told])


def _cell(result: CheckResult) -> str:
    return f"{MARKS[result.finding.verdict]} {result.finding.verdict.value}"


def _problem(result: CheckResult) -> list[str]:
    finding = result.finding
    lines = [f"{MARKS[finding.verdict]} {result.check_id} · {result.host or 'cluster'}: {clean(finding.reason)}"]
    lines += [f"    {clean(line)}" for line in finding.evidence.splitlines()[:6]]
    if finding.fix is not None:
        where = f" (on {finding.fix.host})" if finding.fix.host else ""
        lines.append(f"  → {finding.fix.text}{where}")
        lines += [f"      $ {command}" for command in finding.fix.commands]
    return lines


def progress_line(store: Store) -> str:
    """Return the state of the run in one line."""
    view = store.cluster_view()
    parts = [view.state_text]
    if view.steps_total:
        parts.append(f"step {view.step}/{view.steps_total}")
    if view.samples_per_second:
        parts.append(f"{view.samples_per_second:.0f} samples/s")
    if view.efficiency is not None:
        parts.append(f"balance {view.efficiency.total:.0%}")
    if view.loss is not None:
        parts.append(f"loss {view.loss:.3f}")
    if store.shares_history:
        parts.append(f"shares {'/'.join(map(str, store.shares_history[-1].shares))}")
    return " · ".join(parts)


def result_document(
    run_id: str, store: Store, states: Sequence[HostRunState], *, simulated: bool, folder: str
) -> dict[str, Any]:
    """Return how a run went, for programs. Rates are over the last ten seconds of the run."""
    view = store.cluster_view()
    efficiency = view.efficiency
    return {
        "schema": SCHEMA,
        "run": run_id,
        "state": view.state.value,
        "detail": view.state_text,
        "simulated": simulated,
        "folder": folder,
        "steps": view.step,
        "global_batch": view.global_batch,
        "seconds": _number(view.elapsed),
        "samples_per_second": _number(view.samples_per_second),
        "loss": _number(view.loss),
        "first_loss": _number(next((point.mean for point in store.loss_history), None)),
        "policy": view.policy,
        "balance": None
        if efficiency is None
        else {
            "definition": EFFICIENCY_DEFINITION,
            "total": _number(efficiency.total),
            "shares": _number(efficiency.balance),
            "jitter": _number(efficiency.jitter),
            "communication": _number(efficiency.communication),
            "ideal_samples_per_second": _number(efficiency.ideal_samples_per_second),
        },
        "ranks": [_rank_document(rank, store) for rank in store.rank_views()],
        "share_changes": [
            {"step": each.step, "shares": list(each.shares), "reason": each.reason} for each in store.shares_history
        ],
        "failures": [
            {"rank": each.rank, "host": each.host, "error": each.error, "exit_code": each.exit_code}
            for each in store.failures
        ],
        "hosts": [
            {"host": each.host, "state": each.state.value, "exit_code": each.exit_code, "detail": each.detail}
            for each in states
        ],
        "lost_lines": view.lost_lines,
    }


def _rank_document(rank: RankView, store: Store) -> dict[str, Any]:
    planned = store.shares_history[-1].shares if store.shares_history else ()
    return {
        "rank": rank.rank,
        "host": rank.host,
        "device": rank.device,
        "state": rank.state.value,
        "simulated": rank.simulated,
        "share": planned[rank.rank] if rank.rank < len(planned) else rank.share,
        "samples_per_second": _number(rank.samples_per_second),
        "speed": _number(rank.speed),
        "compute": _number(rank.parts.compute),
        "data": _number(rank.parts.data),
        "wait": _number(rank.parts.wait),
        "communication": _number(rank.parts.communication),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def result_text(document: dict[str, Any]) -> str:
    """Return how a run went, for people."""
    lines = [f"run {document['run']}: {document['detail']}"]
    if document["simulated"]:
        lines.append(SIMULATED)
    lines += [
        "",
        (
            f"{'rank':>4}  {'host':<16} {'device':<8} {'share':>6} {'samples/s':>10} "
            f"{'alone':>8} {'compute':>8} {'wait':>6}"
        ),
    ]
    for rank in document["ranks"]:
        lines.append(
            f"{rank['rank']:>4}  {clean(rank['host'])[:16]:<16} {clean(rank['device'])[:8]:<8} {rank['share']:>6} "
            f"{_figure(rank['samples_per_second']):>10} {_figure(rank['speed']):>8} "
            f"{_percent(rank['compute']):>8} {_percent(rank['wait']):>6}"
        )
    lines.append("")
    if document["samples_per_second"]:
        lines.append(f"cluster  {document['samples_per_second']:.0f} samples/s over the last 10 s")
    if document.get("prediction"):
        lines.append(f"         {compared_text(document['prediction'])}")
    if document["balance"]:
        balance = document["balance"]
        lines.append(
            f"balance  {balance['total']:.0%} of the ideal {balance['ideal_samples_per_second']:.0f} samples/s "
            f"(shares {balance['shares']:.0%} · jitter {balance['jitter']:.0%} · communication "
            f"{balance['communication']:.0%})"
        )
        lines.append(f"         = {balance['definition']}")
    if document["loss"] is not None and document["first_loss"] is not None:
        lines.append(f"loss     {document['first_loss']:.3f} → {document['loss']:.3f} in {document['steps']} steps")
    for failure in document["failures"][:5]:
        lines.append(f"✖ rank {failure['rank']} ({failure['host']}): {clean(failure['error'])}")
    if document["folder"]:
        lines.append(f"kept in  {document['folder']}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if not value else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def status_document(hosts: Iterable[HostStatus], runs: Sequence[HostRunState]) -> dict[str, Any]:
    """Return what runs on the hosts, for programs."""
    return {
        "schema": SCHEMA,
        "hosts": [{"host": each.host, "phase": each.phase, "detail": each.detail} for each in hosts],
        "runs": [
            {
                "run": run.run_id,
                "host": run.host,
                "state": run.state.value,
                "exit_code": run.exit_code,
                "ranks": list(run.ranks),
                "detail": run.detail,
            }
            for run in runs
        ],
    }


def status_text(hosts: Iterable[HostStatus], runs: Sequence[HostRunState]) -> str:
    """Return what runs on the hosts, for people."""
    lines = []
    for host in hosts:
        lines.append(f"{host.host}: {host.phase}{f' ({clean(host.detail)})' if host.detail else ''}")
        for run in runs:
            if run.host == host.host:
                code = "" if run.exit_code is None else f" with exit code {run.exit_code}"
                ranks = ", ".join(map(str, run.ranks)) or "–"
                lines.append(f"  run {run.run_id}  {run.state.value}{code}  ranks {ranks}")
    if not runs:
        lines.append("No run is on the hosts that answered.")
    ended = sorted({run.run_id for run in runs if run.state is State.EXITED})
    if ended:
        lines.append(f"Results of {', '.join(ended)} are still on the hosts:")
        lines.append("  hetero-tui watch or hetero-tui stop brings them home and removes the run there")
    return "\n".join(lines)


def log_text(record: LogRecord) -> str:
    """Return one line of output with where it came from."""
    rank = f"rank {record.rank}" if record.rank >= 0 else "agent"
    return f"[{rank} {record.host}] {record.text}"


def log_document(record: LogRecord) -> dict[str, Any]:
    """Return one line of output for programs."""
    return {
        "schema": SCHEMA,
        "time": _number(record.time),
        "host": record.host,
        "rank": record.rank,
        "stream": record.stream,
        "text": record.text,
    }

"""``hetero-tui runs``: what is kept on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hetero_tui import exit_codes, report
from hetero_tui.image_report import size_text
from hetero_tui.output import print_json, show
from hetero_tui.sanitize import clean
from hetero_tui.stored_runs import every_run
from remote.run_dir import RunDir, RunDirError

COLUMNS: Final = ("run", "cluster", "begun", "ended", "ranks", "policy", "recording")


def run(experiments: Path, *, as_json: bool) -> int:
    """Print every run below ``experiments``, oldest first."""
    found = [describe(each) for each in every_run(experiments)]
    if as_json:
        print_json({"schema": report.SCHEMA, "runs": found})
    elif not found:
        print(f"no runs are kept in {experiments}")
    else:
        show(table(found))
    return exit_codes.OK


def describe(run_dir: RunDir) -> dict[str, Any]:
    """Return a stored run for programs. What is damaged says so instead of hiding the others."""
    recording = run_dir.events_path.stat().st_size if run_dir.events_path.is_file() else 0
    known: dict[str, Any] = {
        "run": run_dir.run_id,
        "folder": str(run_dir.path),
        "begun": _begun(run_dir.run_id),
        "recording_bytes": recording,
        "cluster": "",
        "world_size": 0,
        "policy": "",
        "simulated": False,
        "ended": "",
        "problem": "",
    }
    try:
        plan, ended = run_dir.read_plan(), run_dir.read_ended()
    except RunDirError as error:
        return known | {"problem": error.message}
    codes = [state.exit_code for state in ended.states] if ended else []
    how = "not known here" if ended is None else "well" if codes and not any(codes) else "with an error"
    return known | {
        "cluster": plan.cluster,
        "world_size": plan.world_size,
        "policy": plan.policy,
        "simulated": any(host.simulated for host in plan.hosts),
        "ended": how,
    }


def _begun(run_id: str) -> str:
    """Return when a run began, by its id; empty for a folder that was given another name."""
    try:
        return datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).isoformat()
    except ValueError:
        return ""


def table(found: list[dict[str, Any]]) -> str:
    """Return the runs for people."""
    rows = [COLUMNS]
    for each in found:
        policy = each["policy"] + (" (simulated)" if each["simulated"] else "")
        rows.append(
            (
                clean(each["run"]),
                clean(each["cluster"]),
                each["begun"][:16].replace("T", " "),
                clean(each["problem"] or each["ended"]),
                str(each["world_size"]),
                clean(policy),
                size_text(each["recording_bytes"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

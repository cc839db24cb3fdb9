"""``hetero-tui report``: what came of one run, or how several compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hetero_tui import exit_codes, report
from hetero_tui.output import print_json
from hetero_tui.run_report import run_figures
from hetero_tui.run_report_pages import html_page, markdown_page
from hetero_tui.stored_runs import find_run
from remote.errors import UserError
from remote.run_dir import write_atomically

HTML_FILE: Final = "report.html"
MARKDOWN_FILE: Final = "report.md"


def run(named: Sequence[str], *, experiments: Path, output: Path | None, as_json: bool) -> int:
    """Write the report and say where it is.

    Args:
        named: the runs; with several, the first is the baseline.
        experiments: where runs are kept.
        output: folder to write to; the first run's own when left out.
        as_json: print the figures instead of the paths only.

    Raises:
        UserError: no such run, or the folder cannot be written.
    """
    runs = [run_figures(find_run(each, experiments)) for each in named]
    folder = output or runs[0].run.run_dir.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / HTML_FILE, html_page(runs).encode(errors="replace"))
        write_atomically(folder / MARKDOWN_FILE, markdown_page(runs).encode(errors="replace"))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}", next_step="choose another --output") from None
    if as_json:
        document = {
            "schema": report.SCHEMA,
            "html": str(folder / HTML_FILE),
            "markdown": str(folder / MARKDOWN_FILE),
            "runs": [
                {
                    "run": each.run.run_id,
                    "policy": each.run.plan.policy,
                    "simulated": each.run.simulated,
                    "steps": each.steps,
                    "samples_per_second": round(each.samples_per_second, 4),
                    "against_first": round(each.samples_per_second / runs[0].samples_per_second, 4)
                    if runs[0].samples_per_second
                    else None,
                    "step_seconds": round(each.step_seconds, 6),
                    "efficiency": None if each.efficiency is None else round(each.efficiency, 4),
                    "result": each.document,
                }
                for each in runs
            ],
        }
        print_json(document)
    else:
        print(folder / HTML_FILE)
        print(folder / MARKDOWN_FILE)
    return exit_codes.OK

"""Commands about runs that are kept on this machine. No host is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from hetero_tui.cli_options import DEFAULT_EXPERIMENTS, Ascii, AsJson, Experiments, StoredRun, no_screen


def runs(*, json: AsJson = False, experiments: Experiments = DEFAULT_EXPERIMENTS) -> int:
    """List the runs kept on this machine: when, which cluster, how they ended, how large their recording is.

    Example: `hetero-tui runs --json | jq -r '.runs[].run'`
    """
    from hetero_tui import runs_command

    return runs_command.run(experiments, as_json=json)


def replay(
    run: StoredRun = "latest",
    /,
    *,
    speed: Annotated[
        float | None,
        Parameter(help="Seconds of the run in one second; 0 is as fast as possible, the default without a screen."),
    ] = None,
    from_step: Annotated[int | None, Parameter(name="--from", help="Begin at this optimizer step.")] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON document a line: each event, then the result.")
    ] = False,
    ascii: Ascii = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Open a recorded run in the monitor. Space pauses, [ and ] go back and on, < and > change the speed.

    Example: `hetero-tui replay latest --speed 4 --from 100`
    """
    from hetero_tui import replay_command

    return replay_command.run(
        run,
        experiments=experiments,
        speed=speed,
        from_step=from_step,
        as_json=json,
        without_screen=bool(no_screen()),
        ascii_only=ascii,
    )


def report(
    *run: Annotated[str, Parameter(help="Runs kept on this machine; the newest when none is named.")],
    output: Annotated[Path | None, Parameter(help="Folder for the report; the folder of the first run.")] = None,
    json: AsJson = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Write one HTML page and one Markdown file about a run; several runs are compared with the first as baseline.

    Example: `hetero-tui report 20260101 20260102 --output comparison`
    """
    from hetero_tui import report_command

    return report_command.run(run or ("latest",), experiments=experiments, output=output, as_json=json)


COMMANDS: Final = (runs, replay, report)

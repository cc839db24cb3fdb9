"""``hetero-tui doctor`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hetero_tui.cli_options import DEFAULT_EXPERIMENTS, AsJson, Experiments, run_coroutine


def doctor(
    cluster: Annotated[Path | None, Parameter(name="cluster", help="Your cluster.toml.")] = None,
    /,
    *,
    report: Annotated[Path | None, Parameter(help="File to write; standard output when left out.")] = None,
    redact: Annotated[
        bool, Parameter(negative="", help="Take addresses, user and host names out, each for one placeholder.")
    ] = False,
    json: AsJson = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Collect what belongs into a bug report: versions, hosts, checks, engines, the last errors. No secrets.

    Example: `hetero-tui doctor cluster.toml --report doctor.md --redact`
    """
    from hetero_tui import doctor as doctor_command

    return run_coroutine(
        doctor_command.run(cluster, report=report, redact=redact, experiments=experiments, as_json=json)
    )


COMMANDS = (doctor,)

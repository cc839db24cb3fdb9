"""Commands that act on a run that is training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from hetero_tui.cli_options import (
    DEFAULT_CLUSTER,
    DEFAULT_EXPERIMENTS,
    AsJson,
    Experiments,
    RunId,
    run_coroutine,
)

OptionalFile = Annotated[
    Path, Parameter(name="cluster", help="Your file of machines; where only a host is named, cluster.toml.")
]
HostName = Annotated[str, Parameter(name="host", help="Its name in that file.", show_default=False)]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Ask nothing, at a terminal either.")]
Patience = Annotated[float, Parameter(name="--timeout", help="Seconds to wait until the ranks say that it is so.")]


def exclude(
    cluster: OptionalFile,
    host: HostName = "",
    /,
    *,
    run: RunId = "",
    yes: Yes = False,
    timeout: Patience = 120.0,
    json: AsJson = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Take a host out of the shares of a run that is training; its ranks stay as warm spares.

    At a terminal it says what that costs and asks. Exits 0 when the host computes nothing any more, or was excluded
    already; 1 when that was refused or nobody said so in time; 2 when there is no such host or run.

    Example: `hetero-tui exclude laptop --yes`
    """
    return _change("exclude", cluster, host, run, timeout, experiments, as_json=json, yes=yes)


def admit(
    cluster: OptionalFile,
    host: HostName = "",
    /,
    *,
    run: RunId = "",
    timeout: Patience = 120.0,
    json: AsJson = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Let a host that was excluded have a share again, from the next step on. Nothing is asked.

    Example: `hetero-tui admit laptop`
    """
    return _change("admit", cluster, host, run, timeout, experiments, as_json=json, yes=True)


def _change(
    command: Literal["exclude", "admit"],
    cluster: Path,
    host: str,
    run: str,
    timeout: float,
    experiments: Path,
    *,
    as_json: bool,
    yes: bool,
) -> int:
    from hetero_tui import exclusion_command

    if not host:
        cluster, host = DEFAULT_CLUSTER, str(cluster)
    return run_coroutine(
        exclusion_command.change(
            command, cluster, host, run=run, timeout=timeout, experiments=experiments, as_json=as_json, yes=yes
        ),
        "what was sent may still take effect after the present step; see hetero-tui watch",
    )


COMMANDS: Final = (exclude, admit)

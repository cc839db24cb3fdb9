"""Options that several commands share, and how a command that waits for hosts is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hetero_tui import exit_codes
from hetero_tui.output import say

ClusterFile = Annotated[Path, Parameter(name="cluster", help="Your file of machines.")]
DEFAULT_CLUSTER = Path("cluster.toml")
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document on standard output.")]
Experiments = Annotated[Path, Parameter(help="Folder on this machine where runs are kept.")]
Resume = Annotated[
    list[str] | None,
    Parameter(
        consume_multiple=(0, 1),
        negative="",
        help="Go on from the newest good checkpoint of this run; of the newest run that has one when none is named.",
    ),
]
Without = Annotated[
    list[str] | None, Parameter(negative="", help="Leave this host out, such as one that is gone; may be repeated.")
]
RunId = Annotated[str, Parameter(help="Which run; the newest when left out.")]
DEFAULT_EXPERIMENTS = Path("experiments")
Ascii = Annotated[bool, Parameter(negative="", help="Plain ASCII instead of box and braille characters.")]
StoredRun = Annotated[
    str,
    Parameter(name="run", help="A run kept on this machine: its id, the beginning of it, its folder, or `latest`."),
]

Metrics = Annotated[
    list[int] | None,
    Parameter(
        consume_multiple=(0, 1),
        negative="",
        help="Serve the figures as OpenMetrics to this machine: http://127.0.0.1:PORT/metrics, port 9464 unless given.",
    ),
]
DEFAULT_METRICS_PORT = 9464
"""The port that OpenTelemetry's exporters for Prometheus took as their default."""


def metrics_port(given: list[int] | None) -> int | None:
    """Return the port that was asked for, the default when none was named, or None when nothing was asked."""
    return None if given is None else given[0] if given else DEFAULT_METRICS_PORT


def no_screen() -> str:
    """Return why there is nothing here to draw the app on, or an empty string where there is."""
    if "TEXTUAL_DRIVER" in os.environ:  # `hetero-tui serve` draws in a browser, over pipes
        return ""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "this is no terminal"
    return "a terminal with TERM=dumb has no screen" if os.environ.get("TERM") == "dumb" else ""


def run_coroutine(command: Coroutine[Any, Any, int], interrupted: str = "") -> int:
    """Run a command to its exit code. Interrupted, it has ended what it began; ``interrupted`` says what goes on."""
    import asyncio  # a fifth of what --help waits for, without it

    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        if interrupted:
            say(f"interrupted: {interrupted}")
        return exit_codes.INTERRUPTED


def shown_default(value: object) -> str | None:
    """Return what the help says of a default: nothing of those that go without saying."""
    return None if value in (False, "", None) else str(value)

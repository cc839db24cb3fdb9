"""The command line. Every command is a thin door; what it does lives in the module it imports when called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from hetero_tui import __version__, cli_control, cli_doctor, cli_runs, cli_setup, exit_codes, garbage, output
from hetero_tui.cli_options import (
    DEFAULT_CLUSTER,
    DEFAULT_EXPERIMENTS,
    Ascii,
    AsJson,
    ClusterFile,
    Experiments,
    Metrics,
    Resume,
    RunId,
    Without,
    metrics_port,
    no_screen,
    shown_default,
)
from hetero_tui.cli_options import run_coroutine as _run

HELP = """\
Train one PyTorch model on all the unlike machines you own.

`hetero-tui cluster.toml` opens the app: setup checklist, launch, live monitor.
Try it without any other machine: `hetero-tui demo`.

Exit codes: 0 all well · 1 something failed · 2 a mistake in the call or in cluster.toml · 130 interrupted.
"""

PREPARE, TRAIN, LOOK_BACK, AROUND = (
    Group(name, sort_key=order) for order, name in enumerate(("Prepare", "Train", "Look back", "Around it"), 1)
)
GROUPS: Final = {
    **dict.fromkeys(("init", "data"), PREPARE),
    **dict.fromkeys(("exclude", "admit"), TRAIN),
    **dict.fromkeys(("runs", "replay", "report"), LOOK_BACK),
    **dict.fromkeys(("serve", "doctor", "schema", "completion"), AROUND),
}

app = App(
    name="hetero-tui",
    help=HELP,
    help_format="markdown",
    version=f"hetero-tui {__version__}",
    default_parameter=Parameter(show_default=shown_default),
)
app["--help"].group = app["--version"].group = Group("Help", sort_key=9)


@app.default
def open_app(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    readonly: Annotated[bool, Parameter(negative="", help="Look only: nothing can be started or stopped.")] = False,
    ascii: Ascii = False,
    metrics: Metrics = None,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Open the app on CLUSTER (default): checklist, launch, live monitor. Quitting leaves training running.

    Example: `hetero-tui cluster.toml --readonly`
    """
    garbage.wait_until_started()
    from hetero_tui import interactive

    interactive.require_screen(cluster, no_screen())
    garbage.started()
    return interactive.run(
        cluster, experiments=experiments, readonly=readonly, ascii_only=ascii, metrics=metrics_port(metrics)
    )


@app.command(group=PREPARE)
def check(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    json: AsJson = False,
    measure: Annotated[
        bool, Parameter(negative="", help="Measure each host's speed first, for the prediction: some ten seconds.")
    ] = False,
) -> int:
    """Run the setup checklist, predict what the cluster will do, and exit 0 only when nothing fails.

    Example: `hetero-tui check cluster.toml --json | jq .ok`
    """
    from hetero_tui import headless

    return _run(headless.check(cluster, as_json=json, measure=measure), "nothing was changed on any host")


@app.command(group=PREPARE)
def plan(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    json: AsJson = False,
    format: Annotated[
        Literal["compose", "kubernetes", "slurm", "torchrun"] | None,
        Parameter(help="Write the plan for another launcher instead."),
    ] = None,
) -> int:
    """Read the hosts and print what would be started where. Nothing is changed.

    Example: `hetero-tui plan cluster.toml --format compose > compose.yaml`
    """
    from hetero_tui import headless

    return _run(headless.plan(cluster, as_json=json, launcher=format))


@app.command(group=TRAIN)
def up(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    json: AsJson = False,
    detach: Annotated[bool, Parameter(negative="", help="Return once training has started.")] = False,
    skip_checks: Annotated[bool, Parameter(negative="", help="Launch even when checks fail.")] = False,
    resume: Resume = None,
    without: Without = None,
    metrics: Metrics = None,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Check, launch and follow a run without a screen. Ctrl-C stops the run and brings its results home.

    Example: `hetero-tui up cluster.toml --json > result.json`
    """
    from hetero_tui import headless

    return _run(
        headless.up(
            cluster,
            as_json=json,
            detach=detach,
            skip_checks=skip_checks,
            experiments=experiments,
            resume=None if resume is None else "".join(resume),
            without=tuple(without or ()),
            metrics=metrics_port(metrics),
        )
    )


IMAGES_HELP = """\
Show how each host gets its image; bring, list and remove images.

Nothing is moved without --bring. Example: `hetero-tui images cluster.toml --bring`
"""
images = App(name="images", group=PREPARE, help=IMAGES_HELP)
app.command(images)


@images.default
def show_images(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    bring: Annotated[bool, Parameter(negative="", help="Bring what is missing.")] = False,
    json: AsJson = False,
) -> int:
    """Show how each host gets its image: by which way, from where, how much. Nothing is moved without --bring.

    Example: `hetero-tui images cluster.toml --bring`
    """
    from hetero_tui import headless

    return _run(
        headless.images(cluster, as_json=json, bring=bring),
        "what has arrived stays, and the next time only the rest is brought",
    )


@images.command(name="ls")
def list_images(cluster: ClusterFile = DEFAULT_CLUSTER, /, *, json: AsJson = False) -> int:
    """List the images that this program put on the hosts.

    Example: `hetero-tui images ls cluster.toml`
    """
    from hetero_tui import headless

    return _run(headless.images_list(cluster, as_json=json))


@images.command(name="rm")
def remove_images(cluster: ClusterFile = DEFAULT_CLUSTER, /, *, json: AsJson = False) -> int:
    """Remove from the hosts what this program put there, and only that.

    Example: `hetero-tui images rm cluster.toml`
    """
    from hetero_tui import headless

    return _run(headless.images_remove(cluster, as_json=json))


@app.command(group=TRAIN)
def watch(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    run: RunId = "",
    json: AsJson = False,
    metrics: Metrics = None,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Reattach to a run and follow it to its end. Ctrl-C leaves it running.

    Exits 0 when the run finished or was stopped on purpose, 1 when it failed.

    Example: `hetero-tui watch cluster.toml --metrics`
    """
    from hetero_tui import headless

    return _run(headless.watch(cluster, run=run, as_json=json, experiments=experiments, metrics=metrics_port(metrics)))


@app.command(group=TRAIN)
def status(cluster: ClusterFile = DEFAULT_CLUSTER, /, *, json: AsJson = False) -> int:
    """Show what runs on the hosts, found by label.

    Example: `hetero-tui status cluster.toml --json | jq '.runs'`
    """
    from hetero_tui import headless

    return _run(headless.status(cluster, as_json=json))


@app.command(group=TRAIN)
def logs(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    run: RunId = "",
    rank: Annotated[int | None, Parameter(help="Only this rank.")] = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on as lines come.")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document a line.")] = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Print the output of all ranks, each line with its rank and host.

    Example: `hetero-tui logs cluster.toml --rank 2 --follow | grep -i loss`
    """
    from hetero_tui import headless

    return _run(
        headless.logs(cluster, run=run, rank=rank, follow=follow, experiments=experiments, as_json=json),
        "a run that trains goes on",
    )


@app.command(group=TRAIN)
def stop(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    run: RunId = "",
    json: AsJson = False,
    discard: Annotated[bool, Parameter(negative="", help="Remove it without bringing its results home.")] = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """End exactly one run on every host, bring its checkpoints home and remove what it left there.

    Example: `hetero-tui stop cluster.toml`
    """
    from hetero_tui import headless

    return _run(
        headless.stop(cluster, run=run, as_json=json, discard=discard, experiments=experiments),
        "the run may go on on some hosts; `hetero-tui stop` once more finishes that",
    )


@app.command(group=AROUND)
def demo(
    *,
    json: AsJson = False,
    headless: Annotated[
        bool | None, Parameter(help="Without a screen; the default where there is no terminal.")
    ] = None,
    ascii: Ascii = False,
    metrics: Metrics = None,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
) -> int:
    """Train on three embedded hosts of different speed (simulated) on this machine: no Docker, no SSH daemon.

    Example: `hetero-tui demo --headless --json | jq '.samples_per_second'`
    """
    from hetero_tui import demo as demo_command

    without_screen = bool(no_screen()) if headless is None else headless
    return demo_command.run(
        without_screen=without_screen or json,
        as_json=json,
        ascii_only=ascii,
        experiments=experiments,
        metrics=metrics_port(metrics),
    )


@app.command(group=PREPARE)
def shares(
    *,
    speeds: Annotated[str, Parameter(help="Samples/s of each rank alone, like 256,180,45,40.")],
    global_batch: Annotated[int, Parameter(help="Samples of one step, all ranks together.")],
    by_hand: Annotated[str, Parameter(help="Shares of your own to compare with, like 64,64,32,32.")] = "",
    json: AsJson = False,
) -> int:
    """Compare equal, proportional and best shares for speeds you name. Nothing is started.

    Example: `hetero-tui shares --speeds 256,180,45,40 --global-batch 192 --by-hand 64,64,32,32`
    """
    from hetero_tui import shares as arithmetic

    named = arithmetic.numbers(speeds, "speeds")
    own = tuple(int(share) for share in arithmetic.numbers(by_hand, "shares")) if by_hand else ()
    found = arithmetic.splits(named, global_batch, own)
    print(arithmetic.document(found) if json else arithmetic.render(found, named), end="\n" if json else "")
    return exit_codes.OK


for command in (*cli_control.COMMANDS, *cli_runs.COMMANDS, *cli_setup.COMMANDS, *cli_doctor.COMMANDS):
    app.command(command, group=GROUPS[command.__name__])


def _file_first(words: Sequence[str]) -> list[str]:
    """Return the command line with ``--resume cluster.toml`` the other way round: no file is the id of a run.

    The same goes for ``--metrics``: no file is a port.
    """
    ordered = list(words)
    for at, (word, behind) in enumerate(pairwise(words)):
        if word in ("--resume", "--metrics") and behind.endswith(".toml"):
            ordered[at : at + 2] = [behind, word]
    return ordered


def _check_command(words: Sequence[str]) -> None:
    """Tell a mistyped command from the name of a file, which the first word may be too.

    Raises:
        UserError: it is neither.
    """
    from remote.errors import UserError
    from remote.inventory_mistakes import nearest

    word = words[0] if words else ""
    names = [name for name in app if not name.startswith("-")]
    if not word or word.startswith("-") or word in names or "." in word or "/" in word or Path(word).exists():
        return
    near = nearest(word, names)
    raise UserError(
        f"{word[:60]!r} is no command and no file",
        next_step=f"did you mean {near}? " * bool(near) + "`hetero-tui --help` lists the commands",
    )


def _called(words: Sequence[str]) -> int:
    """Run the command line and return its exit code; what is wrong has been said on standard error."""
    from remote.errors import RemoteError, UserError

    try:
        _check_command(words)
        result = app(_file_first(words), exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return exit_codes.USAGE  # cyclopts has printed what is wrong and the nearest option
    except UserError as error:
        output.say(str(error))
        return exit_codes.USAGE
    except RemoteError as error:
        output.say(str(error))
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        output.give_up(sys.stdout)  # the reader (head, less) had enough
        return exit_codes.OK
    except SystemExit:
        return exit_codes.OK  # rich, which prints the help, ends a program whose reader had enough
    except OSError as error:
        if error.filename is None:
            return output.cannot_write(error)
        output.say(f"{error.filename}: {error.strerror}")
        return exit_codes.FAILED
    return result if isinstance(result, int) else exit_codes.OK


def main() -> None:
    """Entry point of the ``hetero-tui`` command. Ends the process with one of ``exit_codes``."""
    output.prepare()
    sys.exit(output.finish(_called(sys.argv[1:])))

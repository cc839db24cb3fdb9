"""Commands before and around a run: beginning from nothing, the data set, editors, shells, browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from hetero_tui import exit_codes
from hetero_tui.cli_options import DEFAULT_CLUSTER, AsJson, ClusterFile, run_coroutine


def schema(
    *,
    output: Annotated[
        bool, Parameter(negative="", help="The documents that --json prints, instead of cluster.toml.")
    ] = False,
) -> int:
    """Print the JSON schema of cluster.toml for editors, or of what the commands print for programs.

    Example: `hetero-tui schema > cluster.schema.json`
    """
    if output:
        from hetero_tui.json_documents import output_schema

        print(output_schema())
        return exit_codes.OK
    from remote.inventory import json_schema

    print(json_schema())
    return exit_codes.OK


def init(
    *,
    output: Annotated[Path, Parameter(help="The file to write.")] = Path("cluster.toml"),
    name: Annotated[str, Parameter(help="What to call the cluster.")] = "home",
    host: Annotated[
        list[str] | None,
        Parameter(negative="", help="Only this machine, as you would name it to ssh; give it once for each."),
    ] = None,
    yes: Annotated[
        bool, Parameter(name=["--yes", "-y"], negative="", help="Take all that answer, ask nothing.")
    ] = False,
    force: Annotated[bool, Parameter(negative="", help="Replace the file when it is there.")] = False,
    no_local: Annotated[bool, Parameter(name="--no-local", negative="", help="Leave this machine out.")] = False,
    json: AsJson = False,
) -> int:
    """Find machines in ~/.ssh/config, try them all, ask which take part, and write a commented cluster.toml.

    Example: `hetero-tui init --yes --host desk --host laptop`
    """
    from hetero_tui import init_command

    return run_coroutine(
        init_command.run(
            output, name=name, wanted=tuple(host or ()), yes=yes, force=force, no_local=no_local, as_json=json
        ),
        "no file was written",
    )


def data(
    cluster: ClusterFile = DEFAULT_CLUSTER,
    /,
    *,
    bring: Annotated[bool, Parameter(negative="", help="Bring hosts what they lack.")] = False,
    contents: Annotated[
        bool,
        Parameter(negative="", help="Compare what is in the files too, by SHA-256: reads all of them on every host."),
    ] = False,
    json: AsJson = False,
) -> int:
    """Compare every host's `data_dir` with the master's. Nothing is moved without --bring; nothing is ever removed.

    Exits 0 only when all are the same. Interrupted, it goes on the next time where it stopped.

    Example: `hetero-tui data cluster.toml --bring`
    """
    from hetero_tui import data_command

    return run_coroutine(
        data_command.run(cluster, bring=bring, contents=contents, as_json=json),
        "what has arrived stays, and the next time only the rest is brought",
    )


def serve(
    *command: Annotated[str, Parameter(help="What to open: cluster.toml, demo, or replay RUN, with their options.")],
    port: Annotated[int, Parameter(help="Port of the page.")] = 8000,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool,
        Parameter(
            negative="",
            help="Allow an address beyond this machine. There is no password and no encryption: whoever reaches the "
            "port can start and stop training on all your hosts, with your SSH keys, and read every log. "
            "`ssh -L 8000:localhost:8000 THIS-MACHINE` is the safe way.",
        ),
    ] = False,
) -> int:
    """Show the app in a browser, by default to this machine only. Each tab is a program of its own.

    Needs the extra `serve`: pip install 'hetero-tui[serve]'. Options of the app go behind `--`:
    `hetero-tui serve -- cluster.toml --readonly`.

    Example: `hetero-tui serve cluster.toml --port 8080`
    """
    from hetero_tui import serve_command

    return serve_command.run(command, host=host, port=port, expose=expose)


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"] | None, Parameter(help="Yours, when left out.")] = None,
    /,
    *,
    install: Annotated[
        bool, Parameter(negative="", help="Put it where the shell finds it, and name it in the shell's start file.")
    ] = False,
) -> int:
    """Print what completes commands and options in your shell, or install it.

    To try it: `source <(hetero-tui completion bash)`.
    """
    from hetero_tui import completion_command

    return completion_command.run(shell, install=install)


COMMANDS: Final = (init, data, serve, completion, schema)

"""What a person sees who mistypes: the right words on standard error, exit code 2, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_tui import __version__


def hetero_tui(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process with no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "hetero_tui", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        timeout=60,
        check=False,
    )


def test_version_is_the_package_version() -> None:
    answer = hetero_tui("--version")
    assert (answer.returncode, answer.stdout.strip()) == (0, f"hetero-tui {__version__}")


COMMANDS = (
    *("", "check", "plan", "images", "up", "watch", "status", "logs", "stop", "demo", "schema", "init", "serve"),
    *("data", "replay", "report", "runs", "completion"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    answer = hetero_tui(*([command] if command else []), "--help")
    assert answer.returncode == 0
    assert "Usage: hetero-tui" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "cluster"),
        (["check"], "cluster"),
        (["check", "cluster.toml", "--jsn"], "--json"),
        (["no-such-file.toml"], "no-such-file.toml"),
        (["check", "no-such-file.toml"], "no-such-file.toml"),
        (["up", "no-such-file.toml", "--resume"], "no such file"),
        (["up", "--resume", "no-such-file.toml"], "no such file"),
        (["up", "--resume", "20260101-000000-abcd", "no-such-file.toml"], "at most 1 element"),
        (["up", "no-such-file.toml", "--resume", "20260101-000000-abcd", "--json"], "no such file"),
    ],
)
def test_a_mistake_in_the_call_exits_2(arguments: list[str], said: str) -> None:
    answer = hetero_tui(*arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("command", [[], ["check"], ["plan"], ["up"], ["status"], ["stop"]])
def test_all_mistakes_of_the_file_are_told_at_once(tmp_path: Path, command: list[str]) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[cluster]\nname = "x"\nbackend = "glo"\n[[hosts]]\nname = "a"\nruntme = "process"\n')
    answer = hetero_tui(*command, str(cluster))
    assert answer.returncode == 2
    assert ":3:" in answer.stderr
    assert "gloo" in answer.stderr
    assert ":6:" in answer.stderr
    assert "runtime" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_schema_is_json() -> None:
    answer = hetero_tui("schema")
    assert answer.returncode == 0
    assert "hosts" in json.loads(answer.stdout)["properties"]


def test_the_schema_of_the_output_names_every_command() -> None:
    answer = hetero_tui("schema", "--output")
    document = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert document["schema"] == 1
    assert set(document["commands"]) >= {"check", "plan", "up", "replay", "report", "runs", "init", "stop"}
    (check,) = document["commands"]["check"]
    assert check["properties"]["ok"] == {"title": "Ok", "type": "boolean"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "cluster.toml"),
        (["serve", "rm -rf /"], "cannot be opened"),
        (["serve", "demo", "--host", "0.0.0.0"], "no password"),
        (["init"], "--yes"),
        (["completion", "csh"], "csh"),
        (["watch", "x.toml", "--metrics", "nope"], "nope"),
    ],
)
def test_what_is_not_possible_says_what_is(arguments: list[str], said: str, tmp_path: Path) -> None:
    answer = hetero_tui(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


COMPLETE = """
source "$SCRIPT"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p hetero-tui | sed 's/.*-F \\([^ ]*\\).*/\\1/') hetero-tui "${COMP_WORDS[COMP_CWORD]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("re",), {"replay", "report"}),
        (("up", "--det"), {"--detach"}),
        (("images", "l"), {"ls"}),
        (("completion", "f"), {"fish"}),
    ],
)
def test_bash_completes(tmp_path: Path, words: tuple[str, ...], offered: set[str]) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(hetero_tui("completion", "bash").stdout)
    answer = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "hetero-tui", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "SCRIPT": str(script)},
        timeout=60,
        check=False,
    )
    assert {line.strip() for line in answer.stdout.splitlines()} >= offered, answer.stderr


def test_completion_is_installed_where_the_shell_finds_it(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "hetero_tui", "completion", "bash", "--install"],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": ""},
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    path = Path(answer.stdout.partition(":")[0])
    assert path.is_relative_to(tmp_path)
    assert "complete" in path.read_text()
    for shell in ("zsh", "fish"):
        assert "hetero-tui" in hetero_tui("completion", shell).stdout

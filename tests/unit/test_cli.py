"""What a person sees who mistypes: the right words on standard error, exit code 2, never a traceback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_tui import __version__
from hetero_tui.cli import app


def in_shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which ``hetero-tui`` stands for this program."""
    function = f'hetero-tui() {{ {shlex.quote(sys.executable)} -m hetero_tui "$@"; }}; set -o pipefail; '
    return subprocess.run(
        ["bash", "--norc", "-c", function + line],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("hetero-tui --help | true", 0, ""),
        ("hetero-tui schema | true", 0, ""),
        ("hetero-tui runs --json | true", 0, ""),
        ("hetero-tui schema > /dev/full", 1, "standard output cannot be written: No space left on device\n"),
        ("hetero-tui runs --json > /dev/full", 1, "standard output cannot be written: No space left on device\n"),
        ("hetero-tui runs --json >&-", 0, "standard output is closed: what this command prints goes nowhere\n"),
        ("hetero-tui no-such-file.toml 2>&-", 2, ""),
        ("hetero-tui no-such-file.toml 2> /dev/full", 2, ""),
    ],
)
def test_output_that_nobody_takes_ends_in_no_traceback(line: str, code: int, said: str, tmp_path: Path) -> None:
    answer = in_shell(line, tmp_path)
    assert (answer.returncode, answer.stderr) == (code, said)


def test_an_old_encoding_loses_no_word(tmp_path: Path) -> None:
    shares = "hetero-tui shares --speeds 2,1 --global-batch 3"
    latin = in_shell(f"{shares}; hetero-tui nö.toml", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert latin.returncode == 2
    assert "no such file" in latin.stderr
    assert "Traceback" not in latin.stderr


def test_the_app_is_not_drawn_where_nobody_sees_it(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(
        '[cluster]\nname = "x"\n[[hosts]]\nname = "a"\naddress = "local"\n[image]\nref = "i"\n'
        '[training]\nworkload = "simple_cnn"\n'
    )
    piped = in_shell("hetero-tui", tmp_path)
    assert (piped.returncode, piped.stdout) == (2, "")
    assert "needs a terminal to draw on, and this is no terminal" in piped.stderr
    assert "`hetero-tui check`" in piped.stderr
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-m', 'hetero_tui'])))"
    dumb = in_shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(spawn)}", tmp_path, TERM="dumb")
    assert dumb.returncode == 2
    assert "TERM=dumb has no screen" in dumb.stdout


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
    *(
        "data",
        "replay",
        "report",
        "runs",
        "completion",
        "exclude",
        "admit",
        "doctor",
        "shares",
        "images ls",
        "images rm",
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hetero-tui"])
    monkeypatch.setenv("COLUMNS", "200")
    app([*command.split(), "--help"], exit_on_error=False, result_action="return_value")
    shown = capsys.readouterr().out
    assert f"Usage: hetero-tui {command}".rstrip() in shown
    example = re.search(r"(?:Example|To try it): (.*)", shown)
    assert command == "" or example is not None
    if command not in ("", "completion") and example is not None:
        words = shlex.split(re.split(r" [|>] ", example[1])[0])
        assert words[: 1 + len(command.split())] == ["hetero-tui", *command.split()]
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "cluster.toml: no such file\n  → `hetero-tui init` writes one"),
        (["check"], "cluster.toml: no such file"),
        (["exclude", "laptop"], "cluster.toml: no such file"),
        (["admit", "other.toml", "laptop"], "other.toml: no such file"),
        (["chekc"], "'chekc' is no command and no file\n  → did you mean check?"),
        (["chekc", "cluster.toml"], "did you mean check?"),
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

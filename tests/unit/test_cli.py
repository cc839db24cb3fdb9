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


@pytest.mark.parametrize("command", ["", "check", "plan", "up", "watch", "status", "logs", "stop", "demo", "schema"])
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

"""``hetero-tui demo``: what a newcomer runs first must work without Docker, without an SSH daemon, without a screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.terminal import Terminal

pytestmark = pytest.mark.slow


def test_without_a_terminal_it_trains_and_prints_throughput_and_balance(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "hetero_tui", "demo", "--experiments", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "SIMULATED" in answer.stdout
    for host in ("gaming-pc", "laptop", "old-server"):
        assert host in answer.stdout
    assert "samples/s" in answer.stdout
    assert "of the ideal" in answer.stdout


def test_its_result_is_a_balanced_run_on_a_falling_loss(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "hetero_tui", "demo", "--json", "--experiments", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    result = json.loads(answer.stdout)
    assert result["state"] == "finished", answer.stderr
    assert result["loss"] < result["first_loss"]
    shares = [rank["share"] for rank in result["ranks"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2] > 0
    assert result["balance"]["total"] > 0
    assert Path(result["folder"]) == tmp_path / "demo" / result["run"]
    replayed = subprocess.run(
        [sys.executable, "-m", "hetero_tui", "replay", result["folder"], "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    again = json.loads(replayed.stdout.splitlines()[-1])["result"]
    assert again == {key: value for key, value in result.items() if key not in ("checkpoints", "kept_on_hosts")}


def test_on_a_terminal_it_reaches_live_throughput_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hetero_tui", "demo", "--experiments", str(tmp_path)]
    with Terminal(command, env={"HETERO_DEMO_MARK": "painted"}) as terminal:
        terminal.wait_for("SIMULATED", 30)
        terminal.wait_for(r"[1-9]\d* samples/s", 180)
        terminal.send(b"q")
        terminal.wait_for("Quit", 30)
        terminal.send(b"y")
        assert terminal.wait(60) == 0
    assert _marked("HETERO_DEMO_MARK=painted") == []


def _marked(variable: str) -> list[int]:
    """Processes that inherited ``variable`` from the demo."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable in environ.read_text(errors="replace").split("\0"):
                found.append(int(environ.parent.name))
        except OSError:  # ended meanwhile
            continue
    return found


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "hetero_tui", "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert answer.returncode == 2
    assert "hetero-tui[trainer]" in answer.stderr

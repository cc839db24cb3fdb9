"""The app as a process of its own in a real pseudo-terminal: what it leaves behind, and how quickly keys answer."""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.terminal import Terminal

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60.0
STARTED = r"samples/s \(10 s\)"
"""What only the monitor shows."""
CRASH = """
from hetero_tui.screens.monitor import MonitorScreen
def crash(self):
    raise RuntimeError("made to crash")
MonitorScreen.key_f12 = crash
from tests.pilot.preview import main
main()
"""


OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the pseudo-terminal the one that hangs up, as a terminal window does for its shell."""


class Watched(Terminal):
    """Keeps every byte, and what the terminal was like before."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        super().__init__(
            [sys.executable, "-c", OWN_TERMINAL, sys.executable, *arguments],
            columns=100,
            rows=30,
            cwd=ROOT,
            env=environment,
        )

    @property
    def modes(self) -> int:
        """Whether the terminal echoes and waits for whole lines."""
        return int(termios.tcgetattr(self._master)[3]) & (termios.ECHO | termios.ICANON)

    def rest(self) -> bytes:
        """Read until the program has ended."""
        said = bytearray()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the last process that held the terminal has gone
                break
            if not data:
                break
            said += data
        self.process.wait(SECONDS)
        return bytes(said)


def assert_whole(said: bytes) -> None:
    """The normal screen is back, the cursor shows, and the mouse is nobody's business any more."""
    assert b"\x1b[?1049l" in said
    assert said.rindex(b"\x1b[?25h") > said.rfind(b"\x1b[?25l")
    assert b"\x1b[?1000l" in said


@pytest.fixture
def preview() -> Iterator[Watched]:
    with Watched("-m", "tests.pilot.preview", "--auto", "--pace", "0.02") as terminal:
        terminal.wait_for(STARTED, SECONDS)
        yield terminal


def test_sigterm_leaves_a_whole_terminal(preview: Watched) -> None:
    preview.process.send_signal(signal.SIGTERM)
    assert_whole(preview.rest())
    assert preview.process.returncode == 128 + signal.SIGTERM


def test_keys_answer_and_q_leaves_a_whole_terminal(preview: Watched) -> None:
    for key, shown in ((b"4", "Next rank"), (b"f", "FOLLOW OFF"), (b"2", "Efficiency"), (b"3", "Learning rate")):
        preview.send(key)
        preview.wait_for(shown, SECONDS)
    preview.send(b"q")
    preview.wait_for("Quit hetero-tui", SECONDS)
    preview.send(b"y")
    assert_whole(preview.rest())
    assert preview.process.returncode == 0


def test_ctrl_z_leads_to_the_shell_and_fg_back(preview: Watched) -> None:
    process = psutil.Process(preview.process.pid)
    preview.send(b"\x1a")
    deadline = time.monotonic() + SECONDS
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        preview.read_for(0.05)
    process.send_signal(signal.SIGCONT)
    preview.wait_for(STARTED, SECONDS)
    preview.send(b"q")
    preview.wait_for("Quit hetero-tui", SECONDS)
    preview.send(b"y")
    assert_whole(preview.rest())
    assert preview.process.returncode == 0


def test_a_hang_up_ends_it() -> None:
    with Watched("-m", "tests.pilot.preview", "--auto", "--pace", "0.02") as terminal:
        terminal.wait_for(STARTED, SECONDS)
        process = psutil.Process(terminal.process.pid)
    # Leaving closed the terminal, as when its window is closed, and waited for the end; nothing may be left over.
    assert terminal.process.returncode != -signal.SIGKILL
    assert not process.is_running()


def test_a_crash_leaves_a_whole_terminal_and_a_traceback() -> None:
    with Watched("-c", CRASH, "--auto", "--pace", "0.02") as terminal:
        modes = terminal.modes
        terminal.wait_for(STARTED, SECONDS)
        terminal.send(b"\x1b[24~")
        said = terminal.rest()
    assert_whole(said)
    assert b"made to crash" in said
    assert terminal.process.returncode != 0
    assert modes


def test_the_log_opens_in_the_pager_and_comes_back(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "PAGER HAS $(wc -l < "$1") LINES"\nread answer\n', encoding="utf-8")
    pager.chmod(0o755)
    with Watched("-m", "tests.pilot.preview", "--auto", "--pace", "0.02", PAGER=str(pager)) as terminal:
        terminal.wait_for(STARTED, SECONDS)
        terminal.send(b"4")
        terminal.wait_for("Next rank", SECONDS)
        terminal.send(b"o")
        terminal.wait_for(r"PAGER HAS [1-9]\d* LINES", SECONDS)
        terminal.send(b"\n")
        terminal.wait_for("following", SECONDS)
        terminal.send(b"q")
        terminal.wait_for("Quit hetero-tui", SECONDS)
        terminal.send(b"y")
        assert_whole(terminal.rest())

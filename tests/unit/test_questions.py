"""A question at a terminal: its answer, and the way out of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

ASK: Final = """
import asyncio
from hetero_tui.questions import confirmed
print("answer", asyncio.run(confirmed("Trust it?")), flush=True)
"""


class Asked:
    """A program that asks at a terminal."""

    def __init__(self) -> None:
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen([sys.executable, "-c", ASK], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.seen = b""

    def until(self, text: bytes) -> None:
        """Read what the terminal shows until a text is there."""
        while text not in self.seen:
            self.seen += os.read(self.terminal, 4096)


@pytest.fixture
def asked() -> Iterator[Asked]:
    program = Asked()
    try:
        program.until(b"Trust it? [yes/no]")
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        os.close(program.terminal)


@pytest.mark.parametrize(
    ("typed", "answer"), [(b"yes\n", b"answer True"), (b"y\n", b"answer False"), (b"\x04", b"answer False")]
)
def test_only_yes_is_yes(asked: Asked, typed: bytes, answer: bytes) -> None:
    os.write(asked.terminal, typed)
    asked.until(answer)
    assert asked.process.wait(timeout=60) == 0


def test_an_interrupted_question_ends_the_program_without_another_key(asked: Asked) -> None:
    asked.process.send_signal(signal.SIGINT)
    assert asked.process.wait(timeout=60) != 0
    assert asked.seen.count(b"answer") == 0

"""A rank that hangs inside a backend ends and is started again, instead of being missed by nobody for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch.distributed as dist

from trainer import group
from trainer.group import Group
from trainer.open_sockets import sockets
from trainer.stuck import EXIT_CODE, comes_back


class NoLink:
    """A link on which nothing comes, and whose generation was given up."""

    on_break: Any = None
    reason = "rank 1 was lost"

    def why_broken(self, generation: int) -> str:
        return self.reason

    def broken(self, generation: int, reason: str) -> None: ...


class Told:
    """What was said to be stuck."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.event = threading.Event()

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.event.set()


def a_group(told: Told) -> Group:
    link: Any = NoLink()
    return Group(link, rank=0, run_id="r", address="127.0.0.1", port=1, backend="gloo", on_stuck=told)


def test_what_comes_back_in_time_is_not_told() -> None:
    told = Told()
    with comes_back("it", 0.5, told):
        pass
    assert not told.event.wait(1.0)


def test_a_group_that_cannot_be_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    # Stands for a deadlock inside the backend: it ends when somebody was told.
    monkeypatch.setattr(dist, "destroy_process_group", lambda: told.event.wait(60))
    monkeypatch.setattr(group, "LEAVE_SECONDS", 0.05)
    own = a_group(told)
    own.leave()
    assert told.texts == ["leaving the group did not come back within 0.05 s"]
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    own.close()


def test_a_collective_that_no_interruption_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(group, "INTERRUPTED_SECONDS", 0.05)
    own = a_group(told)
    # It is the test's process whose connections would be shut down.
    monkeypatch.setattr(own, "_protected", frozenset(sockets()))
    link: Any = own._link
    link.reason = ""
    with own._collective():
        link.reason = "rank 1 was lost"
        link.on_break(0, link.reason)
        assert told.event.wait(60)
    assert "an interrupted collective did not come back" in told.texts[0]
    own.close()


def test_the_process_that_ends_says_where_it_was() -> None:
    code = "from trainer.stuck import end_process\nend_process('leaving the group did not come back')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_CODE
    assert "leaving the group did not come back; this process ends" in done.stderr
    assert "most recent call first" in done.stderr

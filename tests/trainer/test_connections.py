"""A message that was cut off in its middle, or a peer that never connects, holds up nobody for good."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from trainer.connections import NeverBack, open_connections
from trainer.errors import GroupBroken
from trainer.group import Group
from trainer.link import Formation
from trainer.open_sockets import sockets

FLOATS: Final = 50_000_000
"""200 MB: more than all buffers between two processes hold."""
_BYTES_ACKNOWLEDGED_AND_RECEIVED: Final = (120, "=QQ")
"""Position and form in ``struct tcp_info`` of Linux (include/uapi/linux/tcp.h)."""
PEER: Final = """
import sys, torch
from trainer.connections import open_connections
port, source = int(sys.argv[1]), int(sys.argv[2])
never = lambda: False
peer = open_connections("gloo", "127.0.0.1", port, "r/0", 1, torch.zeros(1), 2, never)
peer.broadcast(torch.zeros(int(sys.argv[3])), source, never)
"""


class Given:
    """A link that hands out one formation, and whose break is called by the test."""

    on_break: Any = None
    reason = ""

    def form(self, step: int, card: Any, while_waiting: Any) -> Formation:
        return Formation(generation=0, members=(0, 1), steps={0: 0, 1: 0}, source=0)

    def why_broken(self, generation: int) -> str:
        return self.reason

    def broken(self, generation: int, reason: str) -> None: ...

    def give_up(self) -> None:
        self.reason = "rank 1 was lost"
        self.on_break(0, self.reason)


@contextmanager
def a_peer(port: int, source: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PEER, str(port), str(source), str(FLOATS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def a_store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, None, is_master=True, timeout=timedelta(seconds=60), wait_for_workers=False)


def stopped(process_id: int) -> bool:
    return Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"


def moved(before: frozenset[int]) -> int:
    """Return the most bytes that went one way over a connection that was not there before."""
    offset, form = _BYTES_ACKNOWLEDGED_AND_RECEIVED
    most = 0
    for inode, descriptor in sockets().items():
        if inode in before:
            continue
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family == socket.AF_INET:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                most = max(most, *struct.unpack_from(form, info, offset))
    return most


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within 60 s"
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="freezes a process by its state in /proc")
@pytest.mark.parametrize("source", [0, 1], ids=["half sent", "half received"])
def test_a_message_cut_off_in_its_middle_ends_with_the_group(source: int, capfd: pytest.CaptureFixture[str]) -> None:
    store, link = a_store(), Given()
    own: Any = link
    group = Group(own, rank=0, run_id="r", address="127.0.0.1", port=store.port, backend="gloo")
    with a_peer(store.port, source) as peer:
        before = frozenset(sockets())
        group.form(0, {}, lambda: None)

        def freeze_and_give_up() -> None:
            try:
                wait_until(lambda: moved(before) > 1_000_000, "the first part of the message")
                peer.send_signal(signal.SIGSTOP)
                wait_until(lambda: stopped(peer.pid), "the freeze of the peer")
            finally:
                link.give_up()

        freezing = threading.Thread(target=freeze_and_give_up)
        freezing.start()
        with pytest.raises(GroupBroken, match="rank 1 was lost"):
            group.broadcast(torch.zeros(FLOATS), source)
        freezing.join()
        group.close()
    assert "an interrupted exchange did not come back from the backend" in capfd.readouterr().err


def test_a_peer_that_does_not_come_is_not_waited_for() -> None:
    store = a_store()
    before = frozenset(sockets())
    with pytest.raises(NeverBack):
        open_connections("gloo", "127.0.0.1", store.port, "r/0", 0, torch.zeros(1), 2, lambda: True)
    # What was left behind ends by itself, here because the peer comes after all.
    late = open_connections("gloo", "127.0.0.1", store.port, "r/0", 1, torch.zeros(1), 2, lambda: False)
    late.close()
    wait_until(lambda: not sockets().keys() - before, "the end of all connections")


def test_an_open_group_reduces_and_closes_its_connections() -> None:
    store = a_store()
    never = lambda: False  # noqa: E731 - the shape of a callback
    opened: list[Any] = []
    before = frozenset(sockets())

    def open_one(position: int) -> None:
        opened.append(open_connections("gloo", "127.0.0.1", store.port, "r/0", position, torch.zeros(1), 2, never))

    second = threading.Thread(target=open_one, args=(1,))
    second.start()
    open_one(0)
    second.join()
    sums = [torch.ones(3), torch.full((3,), 2.0)]
    reducing = threading.Thread(target=opened[1].all_reduce, args=(sums[1], never))
    reducing.start()
    opened[0].all_reduce(sums[0], never)
    reducing.join()
    assert all(torch.equal(each, torch.full((3,), 3.0)) for each in sums)
    for connections in opened:
        connections.close()
    wait_until(lambda: not sockets().keys() - before, "the end of all connections")

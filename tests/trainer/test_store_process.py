"""The process with the store and the coordinator, as its agent starts it: what it says, and to whom."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NATIVE: Final = "NCCL INFO Bootstrap : Using eth0"
TALKATIVE: Final = f"""
import os
from torch._C import _distributed_c10d as native
from trainer import coordinator, store

coordinator.TOLD_SECONDS = 0.5
Quiet = native.TCPStore

def talk(*arguments, **options):
    os.write(1, b"{NATIVE}\\n")
    print("a line of Python's", flush=True)
    return Quiet(*arguments, **options)

native.TCPStore = talk
store.main()
"""
"""The process itself, with a torch that prints to standard output as NCCL and many a plugin do."""


@contextmanager
def started(listening: socket.socket) -> Iterator[subprocess.Popen[str]]:
    settings = {
        "run_id": "run",
        "address": "127.0.0.1",
        "dialled": "127.0.0.1",
        "port": listening.getsockname()[1],
        "world_size": 1,
        "elastic": False,
        "heartbeat_timeout": 60.0,
        "inherited_socket": listening.fileno(),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", TALKATIVE, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(listening.fileno(),),
    )
    listening.close()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(connection: socket.socket, **message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def coordinator_port(store_port: int) -> int:
    """Ask for it where the ranks do."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    return int(PrefixStore("run", TCPStore("127.0.0.1", store_port)).get("coordinator_port"))


def test_a_silent_rank_is_named_and_what_libraries_print_is_no_notice() -> None:
    listening = socket.create_server(("", 0))
    port = listening.getsockname()[1]
    with started(listening) as process, socket.create_connection(("127.0.0.1", coordinator_port(port))) as rank:
        assert process.stdout is not None
        say(rank, type="hello", run="run", rank=0)
        say(rank, type="ready", step=0, card={})
        named = r"rank 0: no sign of life for \d+\.\d s: .*; it is given up after 60 s\n"
        assert re.fullmatch(named, process.stdout.readline())
        rank.sendall(b"\n")
        assert process.stdout.readline() == "rank 0 gives signs of life again\n"
        say(rank, type="finished")
        rest, errors = process.communicate("finish\n", timeout=60)
        assert process.returncode == 0
        assert all("no sign of life" in line or "signs of life again" in line for line in rest.splitlines())
        assert NATIVE in errors
        assert "a line of Python's" in errors

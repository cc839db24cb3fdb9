"""A frozen engine on this machine must not keep a program that has given it up from ending."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from remote.engine_threads import RequestThreads

GIVES_UP = """
import asyncio, sys
from remote.engine import Engine
from remote.local import LocalRunner

async def main():
    try:
        async with asyncio.timeout(0.5):
            await Engine.open(LocalRunner("pc"), sys.argv[1], timeout=3600.0)
    except TimeoutError:
        print("gave up")

asyncio.run(main())
"""


def test_a_program_ends_though_an_engine_has_not_answered() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent:
        path = str(Path(folder) / "docker.sock")  # pytest's own folders are too deep for the 107 bytes of an address
        silent.bind(path)
        silent.listen()
        done = subprocess.run(
            [sys.executable, "-c", GIVES_UP, path], capture_output=True, text=True, timeout=120, check=False
        )
    assert (done.stdout, done.stderr, done.returncode) == ("gave up\n", "", 0)


def test_no_more_requests_run_at_a_time_than_said_and_what_is_cancelled_first_never_runs() -> None:
    threads = RequestThreads("engine-pc", 2)
    release, running = threading.Event(), threading.Semaphore(0)
    asked: list[int] = []

    def request(number: int) -> int:
        asked.append(number)
        running.release()
        assert release.wait(60)
        return number

    answers: list[Future[int]] = [threads.submit(request, number) for number in range(2)]
    assert all(running.acquire(timeout=60) for _ in answers)
    late = threads.submit(request, 2)
    assert late.cancel(), "it waits for its turn"
    answers.append(threads.submit(request, 3))
    release.set()
    assert [answer.result(60) for answer in answers] == [0, 1, 3]
    assert sorted(asked) == [0, 1, 3]


async def test_what_a_request_raises_is_raised_where_it_is_waited_for() -> None:
    def request() -> None:
        raise OSError("the engine is gone")

    with pytest.raises(OSError, match="the engine is gone"):
        await asyncio.get_running_loop().run_in_executor(RequestThreads("engine-pc", 1), request)

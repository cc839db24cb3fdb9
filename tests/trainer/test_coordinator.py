"""The coordinator over real sockets: silence, closed connections, strangers."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

import trainer.link
from trainer.coordinator import Coordinator
from trainer.errors import CoordinatorLost, RunAborted
from trainer.link import Formation, Link
from trainer.roster import Roster


@asynccontextmanager
async def serving(
    roster: Roster, heartbeat_timeout: float = 1.0, tell: Callable[[str], None] = lambda _text: None
) -> AsyncIterator[tuple[Coordinator, int]]:
    coordinator = Coordinator(roster, run_id="run", heartbeat_timeout=heartbeat_timeout, tell=tell)
    port = await coordinator.start(0, "127.0.0.1")
    watch = asyncio.create_task(coordinator.watch())
    try:
        yield coordinator, port
    finally:
        watch.cancel()
        await asyncio.wait({watch})
        await coordinator.close()


@contextmanager
def link(port: int, rank: int) -> Iterator[Link]:
    opened = Link("127.0.0.1", port, run_id="run", rank=rank)
    try:
        yield opened
    finally:
        opened.close()


async def form(connection: Link, step: int = 0) -> Formation:
    return await asyncio.to_thread(connection.form, step, {"step": step}, lambda: None)


async def until(condition: asyncio.Event, seconds: float = 10.0) -> None:
    await asyncio.wait_for(condition.wait(), seconds)


async def test_two_ranks_form_and_one_that_closes_is_noticed_at_once() -> None:
    async with serving(Roster(2, elastic=True)) as (_, port):
        broken = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_break(_generation: int, _reason: str) -> None:
            loop.call_soon_threadsafe(broken.set)

        with link(port, 0) as first:
            first.on_break = on_break
            with link(port, 1) as second:
                formations = await asyncio.gather(form(first), form(second))
                assert formations[0] == formations[1]
                assert formations[0].members == (0, 1)
                began = loop.time()
            await until(broken)
            assert loop.time() - began < 1.5, "the connection was closed, so no heartbeat has to run out"
            assert "rank 1 was lost" in first.why_broken(0)
            assert (await form(first, 5)).members == (0,)


async def test_a_silent_rank_is_dropped_after_the_heartbeat_timeout() -> None:
    async with serving(Roster(1, elastic=True), heartbeat_timeout=0.6) as (coordinator, port):
        with socket.create_connection(("127.0.0.1", port)) as silent:
            for message in ({"type": "hello", "rank": 0, "run": "run"}, {"type": "ready", "step": 0, "card": {}}):
                silent.sendall(json.dumps(message).encode() + b"\n")
            silent.settimeout(0.1)
            began = asyncio.get_running_loop().time()
            while coordinator.roster.why_missing(0) in ("never connected", "connected, not ready"):
                assert asyncio.get_running_loop().time() - began < 10
                await asyncio.sleep(0.05)
            assert "no sign of life for" in coordinator.roster.why_missing(0)


async def test_two_ranks_between_which_the_network_is_cut_are_named() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with serving(Roster(2, elastic=True), tell=told.put_nowait) as (_, port):
        with link(port, 0), socket.create_connection(("127.0.0.1", port)) as cut_off:
            for message in (
                {"type": "hello", "rank": 1, "run": "run"},
                {"type": "unanswered", "addresses": ["127.0.0.1", "192.0.2.7"]},
                {"type": "unanswered", "addresses": []},
            ):
                cut_off.sendall(json.dumps(message).encode() + b"\n")
            cut = await asyncio.wait_for(told.get(), 30)
            assert cut.startswith("rank 1 gets no answer from rank 0 (127.0.0.1) since 1.5 s: the network between them")
            assert await asyncio.wait_for(told.get(), 30) == "rank 1 gets answers from rank 0 (127.0.0.1) again"
            assert told.empty(), "192.0.2.7 is no rank's"


def test_a_master_that_falls_silent_is_named_long_before_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.link, "TOLD_SECONDS", 0.8)
    told: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connection = Link("127.0.0.1", port, run_id="run", rank=0, tell=told.put)
        try:
            master, _ = listening.accept()
            with master:
                assert f"no sign of life from the coordinator at 127.0.0.1:{port} for " in told.get(timeout=30)
                master.sendall(b"\n")
                assert told.get(timeout=30) == f"the coordinator at 127.0.0.1:{port} gives signs of life again"
        finally:
            connection.close()


@pytest.mark.parametrize(
    "first_line",
    [
        b'{"type": "hello", "rank": 0, "run": "another run"}\n',
        b'{"type": "hello", "rank": 7, "run": "run"}\n',
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b'{"type": "ready"}\n',
        b"x" * (2 << 20),
    ],
)
async def test_strangers_are_shown_the_door(first_line: bytes) -> None:
    async with serving(Roster(1, elastic=True)) as (coordinator, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(first_line)
            assert await asyncio.wait_for(reader.read(), 10) == b""
        except ConnectionError:
            # The door may close while the second half of a long line is still coming.
            pass
        finally:
            writer.close()
        assert coordinator.roster.why_missing(0) == "never connected"


async def test_commands_of_two_ranks_get_one_order() -> None:
    async with serving(Roster(2, elastic=True)) as (_, port):
        with link(port, 0) as first, link(port, 1) as second:
            await asyncio.gather(form(first), form(second))
            first.command("1-pause.json", {"command": "pause"})
            second.command("1-pause.json", {"command": "pause"})
            second.command("2-resume.json", {"command": "resume"})
            logs = [await asyncio.to_thread(each.commands, 0, 2) for each in (first, second)]
            assert logs[0] == logs[1]
            assert [entry["command"] for entry in logs[0]] == ["pause", "resume"]


async def test_without_elastic_the_others_are_told_the_cause() -> None:
    async with serving(Roster(2, elastic=False)) as (coordinator, port):
        with link(port, 0) as first, link(port, 1) as second:
            await asyncio.gather(form(first), form(second))
            second.failed("RuntimeError: out of luck")
            with pytest.raises(RunAborted, match="rank 1 was lost: RuntimeError: out of luck"):
                await form(first, 1)
        await until(coordinator.ended)


async def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as free:
        # Bound, so that nobody else gets the port, but not listening.
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(CoordinatorLost, match=f"no coordinator at 127.0.0.1:{port}"):
            await asyncio.to_thread(lambda: Link("127.0.0.1", port, run_id="run", rank=0, timeout=0.2))

"""How probes talk: data is measured by what arrived, a slow link is soon known, and a host does one thing at a time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote.scripts.probe_line import CHUNK, LEAST_BYTES, Closed, Line, Stopped, Turns

PAYLOAD = 10_000_000


@pytest.fixture
def lines() -> Iterator[tuple[Line, Line]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    with near, far:
        yield Line(near, 30.0, 60.0), Line(far, 30.0, 60.0)


def test_all_of_it_is_counted_where_it_arrives(lines: tuple[Line, Line]) -> None:
    near, far = lines
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(far.pull)
        sent = near.push(PAYLOAD, 60.0)
        assert sent == received.result(30) >= PAYLOAD
        back = pool.submit(far.push, PAYLOAD, 60.0)
        assert near.pull() == back.result(30) == sent


def test_a_slow_link_is_known_before_all_of_it_has_passed(lines: tuple[Line, Line]) -> None:
    near, far = lines

    def slowly() -> int:
        done = 0
        while far.receive(1) == b"d":
            far.receive(CHUNK)
            done += CHUNK
            time.sleep(CHUNK * 8 / 30e6)  # as a link of 30 Mbit/s
            far.send(b"k")
        return done

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(slowly)
        sent = near.push(PAYLOAD, 0.1)
        assert LEAST_BYTES <= sent == received.result(30) < PAYLOAD


def test_silence_and_an_end_in_the_middle_are_told_with_what_had_arrived(lines: tuple[Line, Line]) -> None:
    near, far = lines
    near.allow(0.05, 30.0)
    far.send(b"kk")
    with pytest.raises(Stopped) as stopped:
        near.push(PAYLOAD, 60.0)
    assert stopped.value.count == 2 * CHUNK
    far.connection.close()
    near.allow(30.0, 30.0)
    with pytest.raises(Closed):
        near.push(PAYLOAD, 60.0)


def test_a_host_has_one_turn_at_a_time_and_nobody_keeps_it_for_ever() -> None:
    turns = Turns(time.monotonic() + 3600)
    first = turns.take(3600, wait=False)
    assert first is not None
    assert turns.take(3600, wait=False) is None
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.append(turns.take(0.0, wait=True)))
    waiting.start()
    turns.give_back(first)
    waiting.join(30)
    assert len(taken) == 1
    late = turns.take(3600, wait=False)
    assert late is not None, "a turn that lasted longer than it may is nobody's"
    turns.give_back(taken[0])
    assert turns.take(3600, wait=False) is None, "only who has the turn gives it back"
    turns.end = time.monotonic()
    assert turns.take(3600, wait=False) is not None, "at the end all the rest go at once"

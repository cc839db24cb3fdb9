"""A sign of life of another host: any answer, a refusal too."""

from __future__ import annotations

import queue
import socket

import pytest

from trainer import probing
from trainer.probing import Prober, answers


def a_port_where_nobody_listens() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def a_listener_that_never_answers() -> tuple[socket.socket, list[socket.socket]]:
    """Return a listener whose queue is full, so that its kernel drops what comes, as a cut network does."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = []
    for _ in range(2):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(listening.getsockname())
        waiting.append(caller)
    return listening, waiting


def test_a_refusal_is_an_answer_and_silence_is_none() -> None:
    assert answers(("127.0.0.1", a_port_where_nobody_listens()))
    listening, waiting = a_listener_that_never_answers()
    try:
        assert not answers(listening.getsockname(), 0.2)
    finally:
        for each in (listening, *waiting):
            each.close()


def test_a_rank_counts_as_reached_after_some_answers_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    told: queue.Queue[list[int]] = queue.Queue()
    asked: queue.Queue[probing.Address] = queue.Queue()
    replies = iter([True, True, False, True, True, True])

    def reply(address: probing.Address) -> bool:
        asked.put(address)
        return next(replies, False)

    monkeypatch.setattr(probing, "answers", reply)
    monkeypatch.setattr(probing, "EVERY_SECONDS", 0.01)
    prober = Prober(told.put)
    try:
        prober.ask({3: ("192.0.2.1", 5)}, answers=3)
        assert told.get(timeout=30) == [3]
        assert asked.qsize() >= 6, "two answers and a silence do not count"
        prober.ask({}, answers=3)
        assert told.empty()
    finally:
        prober.close()

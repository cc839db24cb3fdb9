"""What the kernel says of connections."""

from __future__ import annotations

import contextlib
import socket

import pytest

from trainer.open_sockets import plain_address, sockets, unanswered


def test_all_sockets_of_this_process_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening.fileno() in sockets().values()


def test_a_peer_that_reads_nothing_still_answers() -> None:
    """Its kernel does: a slow or stopped rank is no cut network."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sending,
    ):
        sending.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sending.send(bytes(65536)):
                pass
        assert unanswered() == frozenset()


def test_looking_leaves_sockets_as_they_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for default in (None, 5.0):
            socket.setdefaulttimeout(default)
            try:
                assert unanswered() == frozenset()
            finally:
                socket.setdefaulttimeout(None)
            assert listening.getblocking()
            listening.getsockname()


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_an_address_is_written_one_way(written: str, plain: str) -> None:
    assert plain_address(written) == plain

"""Where the rendezvous listens: not on more addresses than the ranks dial."""

from __future__ import annotations

import socket

import pytest

from trainer.listening import dialled_locally, listen_on

NOBODYS = "203.0.113.1"
"""Kept for documentation (RFC 5737): no machine has it."""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_the_dialled_address_alone_answers(address: str) -> None:
    other = "127.0.0.3"
    with listen_on(address, 0) as listening:
        port = listening.getsockname()[1]
        assert dialled_locally(listening) == address
        socket.create_connection((address, port), timeout=30).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, port), timeout=30)


@pytest.mark.parametrize("address", [NOBODYS, "2001:db8::1", "gpu-box", "localhost", ""])
def test_an_address_that_is_not_this_machines_means_all(address: str) -> None:
    with listen_on(address, 0) as listening:
        port = listening.getsockname()[1]
        for here in ("127.0.0.1", "127.0.0.3", dialled_locally(listening)):
            socket.create_connection((here, port), timeout=30).close()


@pytest.mark.parametrize("address", ["127.0.0.1", NOBODYS])
def test_a_port_that_is_taken_is_told(address: str) -> None:
    with listen_on(address, 0) as listening, pytest.raises(OSError, match="in use"):
        listen_on(address, listening.getsockname()[1])

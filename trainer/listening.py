"""Where the rendezvous and the coordinator listen: on the one address that the ranks dial, wherever that can be."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 256


def listen_on(address: str, port: int) -> socket.socket:
    """Listen on the master's address alone, so that nobody gets in by another interface of this machine.

    On all addresses only where that cannot be: a container on a bridge, the virtual machine of a desktop engine and a
    machine behind a port forwarding do not have the address that is dialled. Neither is a host name taken for an
    address: the own one often means loopback in ``/etc/hosts``.

    Raises:
        OSError: the port is taken.
    """
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return _listen_on_all(port)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return _listen_on_all(port)


def dialled_locally(listening: socket.socket) -> str:
    """Return the address at which a process of this machine reaches a socket that :func:`listen_on` opened."""
    address = str(listening.getsockname()[0])
    return LOOPBACK if ipaddress.ip_address(address).is_unspecified else address


def _listen_on_all(port: int) -> socket.socket:
    """Open one socket for both families: two sockets would get two different ports where any port will do."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)

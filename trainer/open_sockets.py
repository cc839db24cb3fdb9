"""This process's own sockets: which are open, and on which the other side does not answer any more.

Where the network between two ranks is cut, both wait in the same collective as all others do, while everybody's signs
of life reach the coordinator: nothing but the kernel knows who does not hear whom. It sends what was not acknowledged
again, after 0.2 s, then 0.4 s and so on (RFC 6298), and counts that. A peer that is only slow, or was stopped, still
acknowledges: its kernel does.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Final

UNANSWERED_RETRANSMISSIONS: Final = 3
CUT_SECONDS: Final = 1.5
"""What these take on a local network; each acknowledgement begins the count anew."""
_LAYOUT: Final = struct.Struct("=8B24I")
_RETRANSMISSIONS: Final = 2
_UNACKNOWLEDGED: Final = 12
"""Positions in ``struct tcp_info`` of Linux (include/uapi/linux/tcp.h), whose beginning never changes."""


def sockets() -> dict[int, int]:
    """Return inode → file descriptor of this process's sockets."""
    found: dict[int, int] = {}
    descriptors = Path("/dev/fd")
    for entry in descriptors.iterdir() if descriptors.exists() else ():
        try:
            status = os.fstat(int(entry.name))
        except OSError:
            # The descriptor of the listing itself is closed by now.
            continue
        if stat.S_ISSOCK(status.st_mode):
            found[status.st_ino] = int(entry.name)
    return found


def unanswered() -> frozenset[str]:
    """Return the addresses of peers that have acknowledged nothing for ``CUT_SECONDS``; empty except on Linux."""
    return frozenset(address for descriptor in sockets().values() if (address := unanswered_on(descriptor)))


def unanswered_on(descriptor: int) -> str:
    """Return the address of the peer that does not answer on one socket, or an empty string."""
    if sys.platform != "linux" or socket.getdefaulttimeout() is not None:
        # With a default timeout Python would make the sockets of others non-blocking by looking at them.
        return ""
    try:
        looked_at = socket.socket(fileno=descriptor)
    except OSError:
        return ""  # its owner has closed it
    try:
        if looked_at.family not in (socket.AF_INET, socket.AF_INET6) or looked_at.type != socket.SOCK_STREAM:
            return ""
        fields = _LAYOUT.unpack(looked_at.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size))
        if fields[_RETRANSMISSIONS] < UNANSWERED_RETRANSMISSIONS or not fields[_UNACKNOWLEDGED]:
            return ""
        return plain_address(looked_at.getpeername()[0])
    except (OSError, struct.error):
        return ""  # closed meanwhile, or never connected
    finally:
        looked_at.detach()


def plain_address(text: str) -> str:
    """Return an address as it is written everywhere: an IPv4 address in the dress of an IPv6 one becomes itself.

    Raises:
        ValueError: the text is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)

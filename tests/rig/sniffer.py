"""Listens on the rig's bridge, as anybody in the same network could. Run in the switch's network namespace.

Prints one JSON document when it is told to end: a list of [protocol, from, to, source port, destination port, bytes].
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
from collections import Counter

_ALL = 0x0003
_IPV4 = 0x0800
_NAMES = {6: "tcp", 17: "udp"}
Flow = tuple[str, str, str, int, int]


def flow_of(frame: bytes) -> Flow | None:
    """Return who talks to whom in an Ethernet frame; None for what is no IPv4 packet."""
    if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != _IPV4:
        return None
    header = (frame[14] & 15) * 4
    source, target = (socket.inet_ntoa(frame[start : start + 4]) for start in (26, 30))
    name = _NAMES.get(frame[23], str(frame[23]))
    ports = struct.unpack_from("!HH", frame, 14 + header) if name in _NAMES.values() else (0, 0)
    return name, source, target, ports[0], ports[1]


def listen() -> None:
    """Count until SIGTERM."""
    flows: Counter[Flow] = Counter()

    def end(_number: int, _frame: object) -> None:
        print(json.dumps([[*flow, count] for flow, count in flows.items()]), flush=True)
        sys.exit(0)

    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while True:
        frame = wire.recv(1 << 16)
        if (flow := flow_of(frame)) is not None:
            flows[flow] += len(frame)


if __name__ == "__main__":
    listen()

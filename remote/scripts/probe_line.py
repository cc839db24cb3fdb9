"""How two network probes talk: one connection with its deadlines, and whose turn it is to send data.

A part of ``probe.py``, which is sent with this text in the place of its import of it. Standard library only, Python 3.6
or newer.
"""

# ruff: noqa: UP006, UP035, UP041, UP045  the syntax and the exceptions of Python 3.6

import json
import socket
import struct
import threading
import time
from typing import Any, Callable, Dict, Optional

CHUNK = 1 << 16
WINDOW = 1 << 18
LEAST_BYTES = 1 << 18
MAX_HEADER = 4096
MORE, END = b"d", b"e"


class Stranger(Exception):
    """Whoever answered is not this run's probe."""


class Stopped(Exception):
    """Data stopped, or the time was over, after ``count`` bytes."""

    def __init__(self, count: int, why: str) -> None:
        super().__init__(f"{count} bytes arrived, then {why}")
        self.count = count
        self.why = why


class Closed(Exception):
    """The peer closed the connection in the middle."""


class Turns:
    """One exchange of data at a time on this host: pairs without a host in common go on side by side, undisturbed.

    Whoever dials takes the turn of its own host, then asks for that of the other one, which refuses when it is taken:
    nobody ever waits with a turn in hand, so nobody waits for ever. A turn lasts as long as its exchange, or ``hold``
    seconds when data stands still; after ``end`` everybody has one.
    """

    def __init__(self, end: float) -> None:
        self.end = end
        self.changed = threading.Condition()
        self.holder: Optional[object] = None
        self.until = 0.0

    def take(self, hold: float, wait: bool) -> Optional[object]:
        """Return a turn to give back; None when it is taken and ``wait`` is false."""
        with self.changed:
            while self.holder is not None:
                left = min(self.until, self.end) - time.monotonic()
                if left <= 0:
                    break
                if not wait:
                    return None
                self.changed.wait(left)
            self.holder = turn = object()
            self.until = time.monotonic() + hold
            return turn

    def give_back(self, turn: object) -> None:
        with self.changed:
            if self.holder is turn:
                self.holder = None
                self.changed.notify()


class Line:
    """One connection, given up after ``stall`` seconds without a byte, or ``transfer`` seconds altogether."""

    def __init__(self, connection: socket.socket, stall: float, transfer: float) -> None:
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.allow(stall, transfer)

    def allow(self, stall: float, transfer: float) -> None:
        """Begin the time anew."""
        self.stall = stall
        self.deadline = time.monotonic() + transfer

    def step(self, move: Callable[[Any], Any], what: Any, done: int) -> Any:
        """Send or receive some bytes; ``done`` have been moved before."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Stopped(done, "the time was over")
        self.connection.settimeout(min(left, self.stall))
        try:
            return move(what)
        except socket.timeout:
            raise Stopped(done, "the time was over" if left < self.stall else f"none for {self.stall:g} s") from None
        except OSError as error:
            raise Closed(str(error)) from None

    def send(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += self.step(self.connection.send, data[done : done + CHUNK], done)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.receive_some(min(count - len(data), CHUNK), len(data))
        return data

    def receive_some(self, most: int, done: int) -> bytes:
        part = self.step(self.connection.recv, most, done)  # type: bytes
        if not part:
            raise Closed(f"the peer closed after {done} bytes")
        return part

    def push(self, count: int, enough: float) -> int:
        """Send ``count`` bytes, or as many as pass in ``enough`` seconds, and return how many arrived.

        The peer tells of each chunk, for what is in buffers has not arrived; and no more is on its way than passes in a
        quarter of a second, so that a slow link is done soon after it has shown its rate.
        """
        began = time.monotonic()
        sent = told = 0
        data = MORE + bytes(CHUNK)
        try:
            while sent < count and not (told >= LEAST_BYTES and time.monotonic() - began >= enough):
                if sent - told >= max(WINDOW, 0.25 * told / max(time.monotonic() - began, 1e-6)):
                    told += CHUNK * len(self.receive_some(CHUNK, told))
                else:
                    self.send(data)
                    sent += CHUNK
            self.send(END)
            while told < sent:
                told += CHUNK * len(self.receive_some((sent - told) // CHUNK, told))
        except Stopped as stopped:
            raise Stopped(told + CHUNK * self.waiting(), stopped.why) from None
        return told

    def waiting(self) -> int:
        """Return how many bytes have come in and have not been read."""
        self.connection.setblocking(False)
        try:
            return len(self.connection.recv(CHUNK))
        except OSError:
            return 0

    def pull(self) -> int:
        """Receive what the peer pushes, tell it of each chunk, and return how many bytes came."""
        done = 0
        while True:
            try:
                if self.receive(1) == END:
                    return done
                self.receive(CHUNK)
            except Stopped as stopped:
                raise Stopped(done + stopped.count, stopped.why) from None
            done += CHUNK
            self.send(b"k")

    def send_header(self, header: Dict[str, Any]) -> None:
        data = json.dumps(header).encode()
        self.send(struct.pack("!I", len(data)) + data)

    def receive_header(self) -> Dict[str, Any]:
        (size,) = struct.unpack("!I", self.receive(4))
        if size > MAX_HEADER:
            raise Stranger("answered with something else")
        try:
            header = json.loads(self.receive(size).decode("utf-8", "replace"))
        except ValueError:
            raise Stranger("answered with something else") from None
        if not isinstance(header, dict):
            raise Stranger("answered with something else")
        return header


def hold(enough: float) -> float:
    """Return how long an exchange may keep its turn: both ways, and a moment for what is on the way."""
    return 2 * enough + 1

"""From the engine's log frames to whole lines, and how to go on after a lost connection. Pure.

The engine cuts lines into messages of 16 KiB (``daemon/logger/copier.go``), and it stamps every message. A message of
that size without a newline goes on in the next one; a shorter one ends its line even without a newline, for engine
20.10 with log driver ``local`` leaves it out behind a line that was cut.

Messages of one stream come in the order of their stamps; between standard output and standard error the order in the
log and the order of the stamps can differ. So a position holds a stamp and a count for each stream.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from typing import Final

from remote.runtime import LogLine

STREAM_NAMES: Final = {0: "stdout", 1: "stdout", 2: "stderr", 3: "stderr"}
MESSAGE_SIZE: Final = 16 << 10
MAX_LINE: Final = 1 << 20
"""Bytes of one line; a longer one is handed on in pieces, so that no remote output can fill the memory."""
OVERLAP_SECONDS: Final = 2
"""How far before the last stamp to ask again: covers messages that were logged behind one with a later stamp."""
STAMP_LENGTH: Final = 30
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
_POSITION: Final = re.compile(r"(?P<last>[12]);(?P<out>[^;]*);(?P<err>[^;]*);(?P<open>[^;]*)")
_MARK: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z)\*(\d{1,9})")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A message of one stream: its stamp and how many messages of the stream had that stamp up to it."""

    stamp: str = ""
    count: int = 0

    def __str__(self) -> str:
        return f"{self.stamp}*{self.count}" if self.stamp else ""


@dataclass(frozen=True, slots=True)
class Position:
    """The last line that was handed on: a mark for each stream, and which stream spoke last."""

    out: Mark = Mark()
    err: Mark = Mark()
    last: str = "stdout"
    open: Mark = Mark()
    """The oldest message of a line that had begun and not come to its end, on the other stream."""

    def __str__(self) -> str:
        return f"{1 if self.last == 'stdout' else 2};{self.out};{self.err};{self.open}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what ``str`` wrote.

        Raises:
            ValueError: it is something else.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError(f"not a log position: {text[:80]!r}")
        last = "stdout" if match["last"] == "1" else "stderr"
        return cls(_mark(match["out"]), _mark(match["err"]), last, _mark(match["open"]))

    @property
    def since(self) -> str:
        """The ``since`` parameter to ask with: seconds since the epoch with nanoseconds, a little before the line."""
        stamp = max(self.out.stamp, self.err.stamp)
        stamp = min(stamp, self.open.stamp or stamp)
        moment = datetime.datetime.fromisoformat(f"{stamp[:19]}+00:00")
        return f"{int(moment.timestamp()) - OVERLAP_SECONDS}.{stamp[20:29]}"


def _mark(text: str) -> Mark:
    if not text:
        return Mark()
    match = _MARK.fullmatch(text)
    if match is None:
        raise ValueError(f"not a mark of a log position: {text[:80]!r}")
    return Mark(match[1], int(match[2]))


@dataclass(slots=True)
class LineAssembler:
    """Joins messages to lines and drops what was handed on before position ``after``.

    After reconnecting, the engine repeats messages from a little before ``after``. Everything up to the message that
    ``after`` names is dropped; should that message be gone (the log was rotated), each stream's own mark decides.
    """

    after: Position | None = None
    message_size: int = MESSAGE_SIZE
    _live: dict[str, Mark] = field(default_factory=dict)
    """Last message seen on this connection."""
    _done: dict[str, Mark] = field(default_factory=dict)
    """Last message whose line was handed on, on this connection or before."""
    _parts: dict[str, bytearray] = field(default_factory=dict)
    _begun: dict[str, Mark] = field(default_factory=dict)
    """First message of a line that has not come to its end."""
    _catching_up: bool = False

    def __post_init__(self) -> None:
        if self.after is not None:
            self._done = {"stdout": self.after.out, "stderr": self.after.err}
            self._catching_up = True

    def feed(self, frames: list[tuple[int, bytes]]) -> list[LogLine]:
        """Take frames in the order they came and return the lines they complete."""
        lines = []
        for number, payload in frames:
            stream = STREAM_NAMES[number]
            stamp, content = _split(payload)
            before = self._live.get(stream, Mark())
            mark = Mark(stamp, before.count + 1 if stamp == before.stamp else 1)
            self._live[stream] = mark
            if self._catching_up and self._known(stream, mark):
                continue
            part = self._parts.setdefault(stream, bytearray())
            self._begun.setdefault(stream, mark)
            part += content
            if content.endswith(b"\n") or len(content) < self.message_size or len(part) > MAX_LINE:
                lines.append(self._line(stream))
        return lines

    def finish(self) -> list[LogLine]:
        """Return the lines that have not come to their end, once the log has ended."""
        return [self._line(stream) for stream in list(self._parts)]

    def _known(self, stream: str, mark: Mark) -> bool:
        """True when a line with this message was handed on before; notices when catching up is over."""
        assert self.after is not None
        handled = self.after.out if stream == "stdout" else self.after.err
        if stream == self.after.last and mark == handled:
            self._catching_up = False
            return True
        return mark <= handled

    def _line(self, stream: str) -> LogLine:
        text = self._parts.pop(stream).decode(errors="replace").removesuffix("\n")
        del self._begun[stream]
        self._done[stream] = self._live[stream]
        begun = min(self._begun.values(), default=Mark())
        position = Position(self._done.get("stdout", Mark()), self._done.get("stderr", Mark()), stream, begun)
        return LogLine(text, str(position), stream)


def _split(payload: bytes) -> tuple[str, bytes]:
    """Separate the stamp the engine puts before each message; a message without one keeps all its bytes."""
    if _STAMP.match(payload) and payload[STAMP_LENGTH : STAMP_LENGTH + 1] == b" ":
        return payload[:STAMP_LENGTH].decode(), payload[STAMP_LENGTH + 1 :]
    return "", payload

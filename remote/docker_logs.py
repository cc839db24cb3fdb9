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
from dataclasses import dataclass
from itertools import islice
from typing import Final

from remote.runtime import LogLine

STREAM_NAMES: Final = {0: "stdout", 1: "stdout", 2: "stderr", 3: "stderr"}
MESSAGE_SIZE: Final = 16 << 10
MAX_LINE: Final = 1 << 20
"""Bytes of one line; a longer one is handed on in pieces, so that no remote output can fill the memory."""
OVERLAP_SECONDS: Final = 2
"""How far before the last stamp to ask again: covers messages that were logged behind one with a later stamp."""
STAMP_LENGTH: Final = 30
_STAMPED: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
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
class _Stream:
    """What is known of standard output or of standard error."""

    name: str
    number: str
    """How a position calls it."""
    live: Mark = Mark()
    """Last message seen on this connection."""
    done: str = ""
    """Mark of the last message whose line was handed on, on this connection or before."""
    handled: Mark = Mark()
    """Mark of the last message whose line was handed on before this connection."""
    part: bytearray | None = None
    """What has come of a line that has not come to its end."""
    begun: Mark = Mark()
    """First message of that line."""


class LineAssembler:
    """Joins messages to lines and drops what was handed on before position ``after``.

    After reconnecting, the engine repeats messages from a little before ``after``. Everything up to the message that
    ``after`` names is dropped; should that message be gone (the log was rotated), each stream's own mark decides.
    """

    def __init__(self, after: Position | None = None, message_size: int = MESSAGE_SIZE) -> None:
        """Begin behind a position, or at the log's beginning; ``message_size`` is the engine's, in bytes."""
        self._message_size = message_size
        self._after = after
        self._catching_up = after is not None
        handled = after or Position()
        self._out = _Stream("stdout", "1", done=str(handled.out), handled=handled.out)
        self._err = _Stream("stderr", "2", done=str(handled.err), handled=handled.err)

    def feed(self, frames: list[tuple[int, bytes]]) -> list[LogLine]:
        """Take frames in the order they came and return the lines they complete."""
        lines: list[LogLine] = []
        at = 0
        while at < len(frames):
            if self._catching_up:
                at = self._skip_known(frames, at)
                if at == len(frames):
                    break
            if self._catching_up or self._stream(frames[at][0]).part is not None:
                at = self._take(frames, at, lines)
            elif (behind := self._take_whole_lines(frames, at, lines)) > at:
                at = behind
            else:
                at = self._take(frames, at, lines)
        return lines

    def finish(self) -> list[LogLine]:
        """Return the lines that have not come to their end, once the log has ended."""
        return [self._line(stream) for stream in (self._out, self._err) if stream.part is not None]

    def _stream(self, number: int) -> _Stream:
        return self._out if STREAM_NAMES[number] == "stdout" else self._err

    def _skip_known(self, frames: list[tuple[int, bytes]], at: int) -> int:
        """Pass over messages that are older than their stream's last known one; return where another one is.

        The engine repeats seconds of the log, a hundred thousand messages each.
        """
        oldest = {
            number: (self._out if name == "stdout" else self._err).handled.stamp.encode()
            for number, name in STREAM_NAMES.items()
        }
        begin = at
        for number, payload in islice(frames, at, None):
            if payload[:STAMP_LENGTH] >= oldest[number]:
                break
            at += 1
        if at > begin:
            # How many had one of these stamps is of no account: what has it is known, too.
            for number in {number for number, _ in frames[begin:at]}:
                self._stream(number).live = Mark()
        return at

    def _take_whole_lines(self, frames: list[tuple[int, bytes]], at: int, lines: list[LogLine]) -> int:
        """Hand on messages of one stream that are a line each, as nearly all are; return where the others begin.

        A hundred thousand may come in a second: nothing is made for a line but itself.
        """
        first = frames[at][0]
        stream = self._stream(first)
        other = self._err if stream is self._out else self._out
        before, behind = (f"{stream.number};", f";{other.done};{other.begun}")
        if stream is self._err:
            before, behind = (f"{stream.number};{other.done};", f";{other.begun}")
        stamp, count = stream.live.stamp, stream.live.count
        stamped, name, begin = _STAMPED.match, stream.name, at
        for number, payload in islice(frames, at, None):
            if number != first or payload[-1:] != b"\n" or not stamped(payload):
                break
            text = payload.decode(errors="replace")
            if text[:STAMP_LENGTH] == stamp:
                count += 1
            else:
                stamp, count = text[:STAMP_LENGTH], 1
            lines.append(LogLine(text[STAMP_LENGTH + 1 : -1], f"{before}{stamp}*{count}{behind}", name))
            at += 1
        if at > begin:
            stream.live = Mark(stamp, count)
            stream.done = str(stream.live)
        return at

    def _take(self, frames: list[tuple[int, bytes]], at: int, lines: list[LogLine]) -> int:
        """Take one message, whatever it is; return where the next one is."""
        number, payload = frames[at]
        stream = self._stream(number)
        stamp, content = _split(payload)
        mark = Mark(stamp, stream.live.count + 1 if stamp == stream.live.stamp else 1)
        stream.live = mark
        if self._catching_up and self._known(stream, mark):
            return at + 1
        if stream.part is None:
            stream.part, stream.begun = bytearray(), mark
        stream.part += content
        if content.endswith(b"\n") or len(content) < self._message_size or len(stream.part) > MAX_LINE:
            lines.append(self._line(stream))
        return at + 1

    def _known(self, stream: _Stream, mark: Mark) -> bool:
        """True when a line with this message was handed on before; notices when catching up is over."""
        assert self._after is not None
        if stream.name == self._after.last and mark == stream.handled:
            self._catching_up = False
            return True
        return mark <= stream.handled

    def _line(self, stream: _Stream) -> LogLine:
        assert stream.part is not None
        text = stream.part.decode(errors="replace").removesuffix("\n")
        stream.part, stream.begun, stream.done = None, Mark(), str(stream.live)
        other = self._err if stream is self._out else self._out
        return LogLine(text, f"{stream.number};{self._out.done};{self._err.done};{other.begun}", stream.name)


def _split(payload: bytes) -> tuple[str, bytes]:
    """Separate the stamp the engine puts before each message; a message without one keeps all its bytes."""
    if _STAMPED.match(payload):
        return payload[:STAMP_LENGTH].decode(), payload[STAMP_LENGTH + 1 :]
    return "", payload

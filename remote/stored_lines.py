"""How lines of a host's log are written down: in the recording, and in the text file for people. Pure.

A recording holds one JSON document a line. Lines of one stream that came together make one document,
``{"at", "host", "position", "count", "lines"}`` with the texts joined by newlines: escaping a thousand lines at once
costs a tenth of escaping each. A line on its own, or one with a newline in it, makes ``{"at", "host", "position",
"line"}``. ``stream`` is there where it is not standard output. Only the last line of a document has a position: a
document is read whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from remote.runtime import LogLine
from trainer.events import EVENT_TYPES

BLOCK_CHARACTERS: Final = 1 << 20
"""Length at which a document ends, so that reading one never needs much memory."""
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_EVENT: Final = re.compile(r'\{"ht":\d+,"kind":"([a-z]+)"')
_MEASUREMENTS: Final = frozenset(EVENT_TYPES) - {"output", "notice", "failed"}
_STEP: Final = '{"ht":1,"kind":"step",'
"""How most lines of a long run begin."""
_RELAYED: Final = re.compile(
    r'^\{"ht":1,"kind":"output","rank":-1,"seq":\d+,"time":[\d.]+,"stream":"\w+","text":"([ !#-\[\]-~]*)",'
    r'"source_rank":(\d+)\}$',
    re.MULTILINE,
)
"""A line of output that an agent relays, as ``trainer.events.encode`` writes it, with nothing in it to spell out."""


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line as a host sent it. Feeding these to a store again gives the state the run was in."""

    host: str
    text: str
    position: str
    """Resumes the host's log behind this line (see ``HostRuntime.logs``); empty inside a document of several lines."""
    stream: str = "stdout"


def written(host: str, lines: Sequence[LogLine], at: float) -> bytes:
    """Return the documents that hold the lines, which came at ``at``, in seconds since the epoch."""
    return b"".join(
        _document(host, block, at) for _, run in groupby(lines, attrgetter("stream")) for block in _blocks(list(run))
    )


def _blocks(lines: Sequence[LogLine]) -> Iterator[Sequence[LogLine]]:
    """Cut lines of one stream where one document has to end."""
    joined = "\n".join([line.text for line in lines])
    if len(joined) <= BLOCK_CHARACTERS and joined.count("\n") == len(lines) - 1:
        yield lines
        return
    block: list[LogLine] = []
    size = 0
    for line in lines:
        if block and ("\n" in line.text or size > BLOCK_CHARACTERS):
            yield block
            block, size = [], 0
        if "\n" in line.text:
            yield [line]
            continue
        block.append(line)
        size += len(line.text)
    if block:
        yield block


def _document(host: str, lines: Sequence[LogLine], at: float) -> bytes:
    last = lines[-1]
    record: dict[str, object] = {"at": at, "host": host, "position": last.position}
    if len(lines) == 1:
        record["line"] = last.text
    else:
        record["count"] = len(lines)
        record["lines"] = "\n".join([line.text for line in lines])
    if last.stream != "stdout":
        record["stream"] = last.stream
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Lines of one stream of one host that came together."""

    host: str
    texts: list[str]
    position: str
    """Resumes the host's log behind the last of them."""
    stream: str = "stdout"


def document_in(raw: bytes) -> dict[str, Any] | None:
    """Return a document of a recording, or None when it is damaged."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    match record:
        case {"host": str(), "position": str(), "count": int(count), "lines": str(joined)}:
            return record if joined.count("\n") + 1 == count else None
        case dict():
            return record
        case _:
            return None


def records_in(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the records that a document of a recording holds, one for each line of a log."""
    if (block := stored_block(document)) is None or "line" in document:
        yield document
        return
    common = {key: value for key, value in document.items() if key not in ("count", "lines")}
    *before, last = block.texts
    yield from (common | {"position": "", "line": text} for text in before)
    yield common | {"line": last}


def stored_block(document: Mapping[str, Any]) -> StoredBlock | None:
    """Return the lines that a document of a recording holds, or None when it holds none."""
    match document:
        case {"host": str(host), "position": str(position), "line": str(text)}:
            texts = [text]
        case {"host": str(host), "position": str(position), "count": int(), "lines": str(joined)}:
            texts = joined.split("\n")
        case _:
            return None
    stream = document.get("stream", "stdout")
    return StoredBlock(host, texts, position, stream if isinstance(stream, str) else "stdout")


def stored_line(record: Mapping[str, Any]) -> StoredLine | None:
    """Return the line that a record of a recording holds, or None when it holds none."""
    block = stored_block(record) if "line" in record else None
    return StoredLine(block.host, block.texts[0], block.position, block.stream) if block is not None else None


def readable(lines: Sequence[LogLine]) -> str:
    """Return what a person reads of lines in a text file, each with its newline; nothing of measurements.

    Control characters are spelled out: raw they could take over the terminal of ``cat``.
    """
    lines = [line for line in lines if not line.text.startswith(_STEP)]
    found = _RELAYED.findall("\n".join([line.text for line in lines])) if lines else []
    if len(found) == len(lines):  # a flood is all of this kind
        return "".join([f"[rank {rank}] {text}\n" for text, rank in found])
    said = (each for line in lines for each in _said(line.text))
    return "".join(_CONTROL_CHARACTERS.sub(lambda found: f"\\x{ord(found[0]):02x}", each) + "\n" for each in said)


def _said(text: str) -> list[str]:
    event = _EVENT.match(text)
    if event is None:
        return [text]
    if event[1] in _MEASUREMENTS:
        return []
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    match record:
        case {"kind": "output", "rank": -1, "source_rank": int(rank), "text": str(said)} if rank >= 0:
            return [f"[rank {rank}] {said}"]
        case {"kind": "output", "rank": int(rank), "text": str(said)}:
            return [f"[rank {rank}] {said}"]
        case {"kind": "notice", "rank": int(rank), "level": str(level), "text": str(said)}:
            return [f"[rank {rank}] {level}: {said}"]
        case {"kind": "failed", "rank": int(rank), "error": str(error), **rest}:
            trace = rest.get("traceback")
            lines = trace.splitlines() if isinstance(trace, str) else []
            return [f"[rank {rank}] failed: {error}", *(f"[rank {rank}] {each}" for each in lines)]
        case _:
            return [text]

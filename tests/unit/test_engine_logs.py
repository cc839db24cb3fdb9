"""Lines out of the engine's log messages, and going on behind a position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.docker_logs import MAX_LINE, MESSAGE_SIZE, LineAssembler, Mark, Position
from remote.runtime import LogLine

Message = tuple[int, bytes]
MINUTE = 1795405380
"""2026-11-23T03:43:00Z."""


def message(text: bytes, second: float, stream: int = 1) -> Message:
    stamp = f"2026-11-23T03:43:{int(second):02d}.{round(second % 1 * 1e9):09d}Z"
    return stream, stamp.encode() + b" " + text


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_lines_with_their_streams() -> None:
    assembler = LineAssembler()
    lines = assembler.feed([message(b"one\n", 1), message(b"error\n", 2, 2), message(b"\n", 3), message(b"a b \n", 4)])
    assert [(line.text, line.stream) for line in lines] == [
        ("one", "stdout"),
        ("error", "stderr"),
        ("", "stdout"),
        ("a b ", "stdout"),
    ]


def test_parts_of_a_long_line_are_joined_though_another_stream_speaks_between() -> None:
    assembler = LineAssembler()
    assert assembler.feed([message(b"a" * MESSAGE_SIZE, 1)]) == []
    assert texts(assembler.feed([message(b"meanwhile\n", 1.5, 2)])) == ["meanwhile"]
    assert texts(assembler.feed([message(b"b" * MESSAGE_SIZE, 1), message(b"c\n", 1)])) == [
        "a" * MESSAGE_SIZE + "b" * MESSAGE_SIZE + "c"
    ]


@pytest.mark.parametrize("last", [b"c\n", b"c"])
def test_a_short_message_ends_a_line_that_was_cut_even_without_a_newline(last: bytes) -> None:
    """Engine 20.10 leaves the newline out there."""
    parts = [message(b"a" * MESSAGE_SIZE, 1), message(last, 1), message(b"next\n", 2)]
    assert texts(LineAssembler().feed(parts)) == ["a" * MESSAGE_SIZE + "c", "next"]


@pytest.mark.parametrize("last", [b"\n", b""])
def test_a_line_as_long_as_a_message(last: bytes) -> None:
    parts = [message(b"a" * MESSAGE_SIZE, 1), message(last, 1), message(b"next\n", 2)]
    assert texts(LineAssembler().feed(parts)) == ["a" * MESSAGE_SIZE, "next"]


def test_a_character_split_between_parts_stays_whole() -> None:
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    parts = [message(b"a" * (MESSAGE_SIZE - 1) + first, 1), message(second + b"\n", 1)]
    assert texts(LineAssembler().feed(parts)) == ["a" * (MESSAGE_SIZE - 1) + "ä"]


def test_a_log_may_end_in_the_middle_of_a_line() -> None:
    assembler = LineAssembler()
    assert assembler.feed([message(b"a" * MESSAGE_SIZE, 1)]) == []
    assert texts(assembler.finish()) == ["a" * MESSAGE_SIZE]
    assert assembler.finish() == []


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    assembler = LineAssembler()
    lines = []
    for _ in range(200):
        lines += assembler.feed([message(b"x" * MESSAGE_SIZE, 1)])
    assert lines
    assert max(len(line.text) for line in lines) <= MAX_LINE + MESSAGE_SIZE
    assert sum(map(len, texts(lines + assembler.finish()))) == 200 * MESSAGE_SIZE


def test_asking_again_goes_back_a_little() -> None:
    position = Position(Mark("2026-11-23T03:43:15.918562356Z", 1), Mark("2026-11-23T03:43:10.000000000Z", 4))
    assert position.since == "1795405393.918562356"


def test_a_line_that_had_begun_is_asked_for_from_its_beginning() -> None:
    """The engine gives all parts of a line the stamp of the first, however late they come."""
    log = [message(b"a" * MESSAGE_SIZE, 1), message(b"much later\n", 30, 2), message(b"b\n", 1)]
    position = Position.parse(LineAssembler().feed(log[:2])[-1].position)
    assert float(position.since) <= MINUTE + 1
    assert texts(LineAssembler(position).feed(log)) == ["a" * MESSAGE_SIZE + "b"]


@pytest.mark.parametrize("text", ["", "12", "3;;;", "1;yesterday*1;;", "1;2026-11-23T03:43:15.918562356Z;;"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a (log position|mark)"):
        Position.parse(text)


def test_an_error_logged_behind_an_output_with_a_later_stamp_is_not_lost() -> None:
    """The engine stamps before it logs, so between the two streams the stamps may be out of order."""
    log = [message(b"out\n", 5.000002), message(b"err\n", 5.000001, 2)]
    first = LineAssembler().feed(log[:1])
    again = LineAssembler(Position.parse(first[-1].position))
    assert texts(again.feed(log)) == ["err"]


def test_when_the_log_was_rotated_everything_that_is_left_and_new_comes() -> None:
    log = [message(f"{number}\n".encode(), number) for number in range(10)]
    position = LineAssembler().feed(log[:4])[-1].position
    assert texts(LineAssembler(Position.parse(position)).feed(log[6:])) == ["6", "7", "8", "9"]


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.sampled_from([0.0, 0.0, 0.5, 3.0]),
        st.sampled_from([0.0, 0.7, 1.4]),
        st.sampled_from([b"x\n", b"y", b"part", b"\n"]),
    ),
    max_size=15,
)


@given(entries=ENTRIES, cut=st.integers(0, 15), filters_all=st.booleans())
def test_no_line_is_lost_or_repeated_wherever_the_connection_breaks(
    entries: list[tuple[int, float, float, bytes]], cut: int, filters_all: bool
) -> None:
    """Messages share stamps, and one stream's may lie a little before what the log already holds of the other.

    ``since`` is taken as engine 20.10 takes it, dropping every earlier message, or as later engines do, which drop
    only until the first one that is late enough.
    """
    now, last = 10.0, {1: 0.0, 2: 0.0}
    log: list[tuple[float, Message]] = []
    for stream, pause, lateness, text in entries:
        now += pause
        last[stream] = max(last[stream], now - lateness)
        log.append((last[stream], message(text, last[stream], stream)))
    size = len(b"part")
    whole = LineAssembler(message_size=size)
    expected = whole.feed([each for _, each in log]) + whole.finish()

    lines = LineAssembler(message_size=size).feed([each for _, each in log[:cut]])
    position = Position.parse(lines[-1].position) if lines else None
    since = float(position.since) - MINUTE if position else 0.0
    repeated = [index for index, (stamp, _) in enumerate(log) if stamp >= since - 1e-6]
    if not filters_all and repeated:
        repeated = list(range(repeated[0], len(log)))
    again = LineAssembler(position, message_size=size)
    lines += again.feed([log[index][1] for index in repeated]) + again.finish()
    assert lines == expected

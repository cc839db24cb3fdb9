"""Steps that are read many at once leave the same state as each line on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hetero_tui.ingest import Ingest
from hetero_tui.step_rows import STEP_START, StepRow, step_rows
from hetero_tui.store import Store
from remote.runtime import LogLine
from tests.unit.store_state import every_view
from trainer.events import MAX_EVENT_BYTES, Checkpoint, Event, Hello, Notice, Step, encode


def step(rank: int, seq: int, *, loss: float = 0.5, time: float | None = None) -> Step:
    return Step(
        rank=rank, seq=seq, time=1e9 + seq / 3 if time is None else time, step=seq, steps_total=900, share=8 + rank,
        global_batch=17, loss=loss, learning_rate=0.1, compute=0.05 + rank / 100, wait=0.01 * seq, duration=0.33,
    )  # fmt: skip


LINE = encode(step(0, 1))
ODD = (
    LINE.replace('"share":8', '"share":8.0'),
    LINE.replace('"loss":0.5', '"loss":null'),
    LINE.replace('"loss":0.5', '"loss":1e999'),
    LINE.replace('"rank":0', '"rank":99999'),
    LINE.replace("1000000000.3333334", "1e300"),
    LINE.replace('"kind":"step"', '"kind":"epoch"'),
    LINE + " " * MAX_EVENT_BYTES,
    LINE + "," + LINE,
    LINE[:-1],
    STEP_START + "[" * 2000,
    "plain \x1b[31mtext",
)


@st.composite
def logs(draw: st.DrawFn) -> list[str]:
    """What a host with two ranks may say: mostly steps in their order."""
    seq = {0: 1, 1: 1}
    said = [
        encode(Hello(rank=rank, seq=0, time=1e9, host="a", process_id=3)) for rank in draw(st.sets(st.integers(0, 1)))
    ]
    for rank, what, count in draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 80)), min_size=1, max_size=12)
    ):
        events: list[Event] = []
        if what == 0:
            seq[rank] += draw(st.integers(1, 3))
        elif what == 1:
            seq[rank] = max(1, seq[rank] - count)
        elif what == 2:
            said.append(draw(st.sampled_from(ODD)))
            continue
        elif what == 3:
            events = [
                Checkpoint(rank=rank, seq=seq[rank], time=1e9 + seq[rank], action="restored", step=seq[rank] // 2)
            ]
        elif what == 4:
            events = [Notice(rank=rank, seq=seq[rank], time=1e9 + seq[rank], text="paused", code="paused")]
        elif what == 5:
            events = [Hello(rank=rank, seq=0, time=2e9, host="a", process_id=4)]
            seq[rank] = 0
        else:
            events = [step(rank, seq[rank] + number, loss=1 / (seq[rank] + number + 1)) for number in range(count)]
        said += [encode(event) for event in events]
        seq[rank] += len(events)
    return said


class Clock:
    """Stands still until it is set."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@given(logs())
@example([LINE] * 10)
@example([encode(step(0, n)) for n in (1, 2, 3, 9, 9, 10, 4, 11, 12)])
@example([encode(step(0, n)) for n in (0, 1, 2, 3)] + list(ODD) * 2 + [encode(step(0, n)) for n in (4, 5, 6, 7)])
async def test_read_at_once_or_line_by_line_the_state_is_the_same(said: list[str]) -> None:
    clock = Clock()
    expected, together, in_pieces = (Store(clock=clock, wall_clock=lambda: 1e9 + 60) for _ in range(3))
    one_by_one = Ingest(expected)
    for text in said:
        one_by_one.feed_line("a", text)
    await Ingest(together).feed("a", [LogLine(text, "") for text in said])
    Ingest(in_pieces).feed_texts("a", said)
    assert together.version == expected.version == in_pieces.version
    clock.now += 7  # ages are told of since when
    assert every_view(together) == every_view(expected) == every_view(in_pieces)


def test_a_row_says_what_the_event_says() -> None:
    events = [step(number % 2, number) for number in range(9)]
    rows = step_rows([encode(event) for event in events])
    assert rows is not None
    assert [row.event() for row in rows] == events
    assert StepRow._fields == ("ht", "kind", *(spec.name for spec in fields(Step)))


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_step_as_it_is_written_is_left_to_be_read_by_itself(odd: str) -> None:
    if len(odd) > MAX_EVENT_BYTES:
        return
    is_row = '"loss":1e999' in odd or '"rank":99999' in odd
    assert (step_rows([LINE, odd, LINE]) is not None) == is_row


def divided() -> Iterator[list[str]]:
    """Lines that are as many documents as lines, but not one each."""
    whole = f"{LINE},{LINE}"
    for cut in (10, len(LINE), len(LINE) + 1, len(LINE) + 30):
        yield [whole[:cut], whole[cut:].removeprefix(",")]
    yield [LINE + ",[1", "2]"]
    yield [LINE + ',{"a":' + LINE, "1}"]


@pytest.mark.parametrize("texts", divided())
def test_documents_that_go_over_the_ends_of_lines_are_no_rows(texts: list[str]) -> None:
    rows = step_rows(texts)
    assert rows is None or texts == [LINE, LINE]

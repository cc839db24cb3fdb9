from __future__ import annotations

import asyncio
import itertools
import json
import tracemalloc
from collections.abc import Iterable
from contextlib import nullcontext

import pytest

from hetero_tui.ingest import BATCH_LINES, CLOCK_LINES, Ingest
from hetero_tui.output_room import BURST_LINES
from hetero_tui.store import Store
from remote.runtime import LogLine
from trainer.events import (
    Epoch,
    Event,
    EventError,
    Hello,
    Joined,
    Notice,
    Output,
    Step,
    decode,
    encode,
    from_mapping,
)


def lines(*texts: str) -> list[LogLine]:
    return [LogLine(text, str(number)) for number, text in enumerate(texts)]


async def test_events_and_plain_lines_find_their_way() -> None:
    store = Store()
    hello = encode(Hello(rank=0, seq=0, time=1.0, host="pc", device="cpu"))
    step = encode(Step(rank=0, seq=1, time=2.0, step=3, steps_total=9, share=4, global_batch=4, duration=1.0))
    await Ingest(store).feed("pc", lines(hello, "plain [rank0] \x1b[31mtext", step))
    assert store.ranks == (0,)
    assert store.cluster_view().step == 4
    assert store.log.tail(1)[0].text == "plain [rank0] text"


async def test_broken_events_are_counted_and_shown_never_raised() -> None:
    store = Store()
    broken = ('{"ht":1,"kind":"step","rank":"zero"}', '{"ht":1,"kind":"nope","rank":0}', '{"ht":1,', '{"ht":[[[[')
    await Ingest(store).feed("pc", lines(*broken))
    assert store.broken_events == 4
    assert store.cluster_view().broken_events == 4
    assert all("unreadable event" in record.text for record in store.events.tail(4))
    await Ingest(store).feed("pc", lines(*(broken * 100)))
    assert store.broken_events == 404
    assert len(store.events) == 20


async def test_a_deeply_nested_line_is_not_a_crash() -> None:
    store = Store()
    await Ingest(store).feed("pc", lines('{"ht":' + "[" * 100_000))
    assert store.broken_events == 1


async def test_a_flood_lets_others_run() -> None:
    store = Store()
    ticks = itertools.count()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    # A clock that stands still: only the number of lines decides.
    await Ingest(store, clock=lambda: 0.0).feed("pc", lines(*("line" for _ in range(10_000))))
    assert turns >= 10_000 // BATCH_LINES
    before = turns
    # A clock on which every line takes long: others have a turn each time it is looked at.
    await Ingest(store, clock=lambda: float(next(ticks))).feed("pc", lines(*("line" for _ in range(100))))
    assert turns - before >= 100 // CLOCK_LINES
    task.cancel()


async def test_a_flood_stays_within_bounds() -> None:
    store = Store(log_lines=5_000)
    ingest = Ingest(store)
    batch = lines(*(f"line {number} " + "x" * 80 for number in range(5_000)))
    await ingest.feed("pc", batch)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(19):
            await ingest.feed("pc", batch)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.log.next + store.skipped_lines >= 100_000
    assert store.skipped_lines > 0
    assert len(store.log) == 5_000
    assert after - before < 3_000_000


async def test_what_comes_too_fast_is_counted_and_said_and_nothing_is_called_lost() -> None:
    now = 100.0
    store = Store(clock=lambda: now)
    ingest = Ingest(store)

    def relayed(numbers: Iterable[int]) -> list[LogLine]:
        return lines(*(encode(Output(rank=-1, seq=n, time=5.0 + n, text=f"line {n}", source_rank=0)) for n in numbers))

    await ingest.feed("pc", relayed(range(BURST_LINES + 3_000)))
    assert store.log.next == BURST_LINES
    assert store.skipped_lines == 3_000
    assert store.lost_lines == 0
    now += 1.0
    await ingest.feed("pc", relayed(range(BURST_LINES + 3_010, BURST_LINES + 3_020)))
    assert store.lost_lines == 10
    tail = [record.text for record in store.log.tail(11)]
    assert tail[0].startswith("3000 lines came faster than can be shown")
    assert tail[-1] == f"line {BURST_LINES + 3_019}"
    # What is no output is never skipped.
    ingest.feed_line("pc", encode(Notice(rank=0, seq=0, time=9.0, text="read this")))
    assert store.events.tail(1)[0].text == "read this"


@pytest.mark.parametrize(
    "event",
    [
        Step(rank=1, seq=2, time=3.5, step=4, share=8, global_batch=16, loss=0.5, learning_rate=0.1, duration=0.2),
        Step(rank=1, seq=2, time=3.5),
        Joined(rank=0, seq=1, time=2.0, seconds=0.25, world_size=4, generation=2),
        Notice(rank=0, seq=1, time=2.0, level="error", text="read this"),
    ],
)
def test_an_event_as_it_is_written_reads_like_one_with_its_fields_in_another_order(event: Event) -> None:
    text = encode(event)
    turned = json.dumps(dict(reversed(json.loads(text).items())))
    assert repr(decode(text)) == repr(from_mapping(json.loads(turned))) == repr(event)


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ('"rank":1', '"rank":1.0', True),
        ('"rank":1', '"rank":true', True),
        ('"step":4', '"step":"4"', True),
        ('"duration":0.2', '"duration":null', False),
        ('"duration":0.2', '"duration":1', False),
        ('"kind":"step"', '"kind":"epoch"', False),
    ],
)
def test_a_value_of_another_type_is_converted_or_refused(before: str, after: str, *, refused: bool) -> None:
    step = Step(rank=1, seq=2, time=3.5, step=4, share=8, global_batch=16, loss=0.5, learning_rate=0.1, duration=0.2)
    text = encode(step).replace(before, after)
    assert after in text
    with pytest.raises(EventError) if refused else nullcontext():
        event = decode(text)
        assert isinstance(event, Step | Epoch)
        assert isinstance(event, Epoch) or isinstance(event.duration, float)

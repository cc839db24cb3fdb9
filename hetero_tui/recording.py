"""What a run's store takes in, kept so that it can be played back to exactly the same state.

A store changes by its inputs and by its clock only. Every input goes to the run's folder with the time the store saw:
the lines of the hosts by ``Ingest``, everything else by :class:`RecordedStore`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from hetero_tui.ingest import Ingest
from hetero_tui.step_rows import StepRow
from hetero_tui.store import Store
from hetero_tui.tensorboard import TensorBoardWriter
from remote.run_dir import RunDir, RunDirError
from remote.stored_lines import stored_block, stored_line
from trainer.events import Event

LATEST: Final = 1e11
"""Seconds since the epoch that no clock shows: a record that says more is damaged."""
PIECE_LINES: Final = 200
TURN_SECONDS: Final = 0.02
"""How long the past is read before others have a turn."""
Keep = Callable[[dict[str, object]], None]
"""Takes one record to where it is kept."""


class Observer(Protocol):
    """Wants to see every event that is new, such as the writer of TensorBoard files."""

    def observe(self, host: str, event: Event | StepRow) -> None:
        """Take in one event of a rank on ``host``."""
        ...


class RunClock:
    """Seconds since the epoch that never go back, not even from one process that watches a run to the next.

    The time of day is read once; from then on the monotonic clock counts, so a step of the time of day changes no rate.
    """

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall_clock() - monotonic()
        self._held: float | None = None

    def __call__(self) -> float:
        """Return the time; while it is held, always the same."""
        return self._monotonic() + self._offset if self._held is None else self._held

    def not_before(self, at: float) -> None:
        """Go on from ``at`` when that is later than now."""
        self._offset += max(0.0, at - self())

    def stop_at(self, at: float) -> None:
        """Let the time stand still at ``at`` for good."""
        self._held = at

    @contextmanager
    def held(self, at: float | None = None) -> Iterator[float]:
        """Let the time stand still, at ``at`` or now, so that an input and its record have the same."""
        if self._held is not None:
            yield self._held
            return
        self._held = self() if at is None else at
        try:
            yield self._held
        finally:
            self._held = None


class RecordedStore(Store):
    """A store that also keeps what is not a line of a host: what was expected, launched, sent, noted and marked."""

    def __init__(self, clock: RunClock, keep: Keep, observer: Observer | None = None) -> None:
        """``keep`` is given each record; ``observer`` sees each event that is no repetition."""
        super().__init__(clock=clock, wall_clock=clock)
        self.run_clock = clock
        self._keep = keep
        self._observer = observer
        self._is_replaying = False

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """While the past is played back, nothing is kept again and nobody is told."""
        self._is_replaying = True
        try:
            yield
        finally:
            self._is_replaying = False

    def _record(self, at: float, did: str, **values: object) -> None:
        if not self._is_replaying:
            self._keep({"at": at, "did": did} | values)

    def expect(self, host: str, devices: Mapping[int, str]) -> None:
        with self.run_clock.held() as at:
            self._record(at, "expect", host=host, devices=[[rank, device] for rank, device in devices.items()])
            super().expect(host, devices)

    def note_launch(self, host: str, phase: str) -> None:
        with self.run_clock.held() as at:
            self._record(at, "launch", host=host, phase=phase)
            super().note_launch(host, phase)

    def note_control(self, message: Mapping[str, object]) -> None:
        with self.run_clock.held() as at:
            self._record(at, "control", message=dict(message))
            super().note_control(message)

    def note(self, text: str, level: str = "info", host: str = "") -> None:
        with self.run_clock.held() as at:
            self._record(at, "note", text=text, level=level, host=host)
            super().note(text, level, host)

    def mark(self, rank: int | None = None) -> None:
        with self.run_clock.held() as at:
            self._record(at, "mark", rank=rank)
            super().mark(rank)

    def feed_steps(self, host: str, rows: Sequence[StepRow]) -> int:
        count = super().feed_steps(host, rows)
        if self._observer is not None and not self._is_replaying:
            for row in rows[:count]:
                self._observer.observe(host, row)
        return count

    def feed(self, host: str, event: Event) -> None:
        refused = self.duplicate_lines + self.ignored_events
        super().feed(host, event)
        is_new = self.duplicate_lines + self.ignored_events == refused
        if self._observer is not None and not self._is_replaying and is_new:
            self._observer.observe(host, event)


def apply_record(store: Store, ingest: Ingest, record: Mapping[str, Any]) -> None:
    """Let the store take in one record again. A record of a kind this version does not know changes nothing."""
    line = stored_line(record)
    if line is not None:
        ingest.feed_line(line.host, line.text, line.stream)
        return
    match record:
        case {"did": "expect", "host": str(host), "devices": list(devices)}:
            pairs = [pair for pair in devices if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int)]
            store.expect(host, {rank: str(device) for rank, device in pairs})
        case {"did": "launch", "host": str(host), "phase": str(phase)}:
            store.note_launch(host, phase)
        case {"did": "control", "message": dict(message)}:
            store.note_control(message)
        case {"did": "note", "text": str(text), "level": str(level), "host": str(host)}:
            store.note(text, level, host)
        case {"did": "mark", "rank": int() | None as rank}:
            store.mark(rank)
        case _:
            pass


def record_time(record: Mapping[str, Any], before: float) -> float:
    """Return when a record came: never before the one ahead of it, whatever the record says."""
    at = record.get("at")
    return max(before, float(at)) if isinstance(at, (int, float)) and 0 <= at < LATEST else before


async def take_up(
    store: RecordedStore,
    ingest: Ingest,
    documents: Iterable[Mapping[str, Any]],
    *,
    report: Callable[[int], None] = lambda _lines: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Bring a store to where a recording ends, from where it then goes on; others have a turn meanwhile.

    Args:
        store: takes it in, and keeps nothing of it again.
        ingest: feeds the store.
        documents: of the recording, or its single records.
        report: told how many lines were taken in, whenever others have had a turn.
        clock: returns seconds; it decides when to let others run.
    """
    at, lines, began = 0.0, 0, clock()
    for document in documents:
        at = record_time(document, at)
        for taken in _portions(store, ingest, document, at):
            lines += taken
            if clock() - began > TURN_SECONDS:
                report(lines)
                await asyncio.sleep(0)
                began = clock()
    store.run_clock.not_before(at)


def _portions(store: RecordedStore, ingest: Ingest, document: Mapping[str, Any], at: float) -> Iterator[int]:
    """Take in a document piece by piece, and yield how many lines each piece had."""
    block = stored_block(document)
    if block is None:
        with store.replaying(), store.run_clock.held(at):
            apply_record(store, ingest, document)
        yield 0
        return
    for begin in range(0, len(block.texts), PIECE_LINES):
        piece = block.texts[begin : begin + PIECE_LINES]
        with store.replaying(), store.run_clock.held(at):
            ingest.feed_texts(block.host, piece, block.stream)
        yield len(piece)


def recorded_store(run_dir: RunDir, *, readonly: bool = False) -> tuple[RecordedStore, Ingest]:
    """Return an empty store and what feeds it; all it takes in goes to the run's folder, nothing with ``readonly``.

    Beside the recording, TensorBoard files are written.
    """

    def keep(record: dict[str, object]) -> None:
        # While another instance watches the same run, it is the one that keeps what happens.
        with suppress(RunDirError):
            run_dir.append_record(record)

    clock = RunClock()
    store = RecordedStore(
        clock, _keep_nothing if readonly else keep, None if readonly else TensorBoardWriter(run_dir.path)
    )
    return store, Ingest(store, keep=None if readonly else run_dir.append, held=clock.held)


def _keep_nothing(_record: dict[str, object]) -> None:
    pass

"""What must hold whatever happened. Pure: lines in, violations out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from trainer.events import EventError, Step, decode

LOSS_JUMP: Final = 1.0
"""How far the loss of one step may lie above the mean of the ten before it: batches are small and differ."""
_MARK: Final = '{"ht":'


def every_line_once(host: str, stored: Sequence[str], own: Sequence[str]) -> list[str]:
    """Compare what this program kept of a host with what the host keeps itself: a prefix of it, line by line."""
    for number, (kept, written) in enumerate(zip(stored, own, strict=False)):
        if kept != written:
            return [f"{host}: line {number} is kept as {kept[:160]!r}, the host wrote {written[:160]!r}"]
    if len(stored) > len(own) > 0:
        return [f"{host}: {len(stored)} lines are kept, the host wrote {len(own)}; next {stored[len(own)][:160]!r}"]
    return []


def sequences_without_gap(host: str, lines: Sequence[str]) -> list[str]:
    """Every rank's events are numbered 0, 1, 2, …; no number is missing and none comes twice."""
    expected: dict[int, int] = {}
    found = []
    for line in lines:
        try:
            event = decode(line)
        except EventError as error:
            found.append(f"{host}: unreadable event ({error}): {line[:160]!r}")
            continue
        if event is None:
            if line.startswith(_MARK):
                found.append(f"{host}: half an event: {line[:160]!r}")
            continue
        wanted = expected.get(event.rank, 0)
        if event.seq != wanted:
            found.append(f"{host}: rank {event.rank} has event {event.seq} where {wanted} belongs ({event.kind})")
        expected[event.rank] = event.seq + 1
    return found


def step_in(line: str) -> Step | None:
    """Return the step a line tells of; None for every other line, broken ones included."""
    try:
        event = decode(line)
    except EventError:
        return None
    return event if isinstance(event, Step) else None


def loss_is_continuous(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """The steps of the survivors go on one by one; all ranks agree on a step's loss; it makes no jump."""
    losses: dict[int, float] = {}
    found = []
    for host, own in lines.items():
        for line in own:
            event = step_in(line)
            if event is None:
                continue
            if not math.isfinite(event.loss):
                found.append(f"{host}: loss of step {event.step} is {event.loss}")
            known = losses.setdefault(event.step, event.loss)
            if known != event.loss:
                found.append(f"{host}: loss of step {event.step} is {event.loss}, another rank said {known}")
    steps = sorted(losses)
    missing = sorted(set(range(steps[0], steps[-1] + 1)) - losses.keys()) if steps else []
    if missing:
        found.append(f"no rank told of steps {missing[:5]}")
    for at in range(10, len(steps)):
        before = [losses[step] for step in steps[at - 10 : at]]
        if losses[steps[at]] > sum(before) / len(before) + LOSS_JUMP:
            found.append(f"the loss jumps to {losses[steps[at]]:.3f} at step {steps[at]}, before: {before}")
    return found

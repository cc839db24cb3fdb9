"""Steps as rows: a long past holds little else, and reading each like any other event would be most of the work."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple

from trainer.events import Step

STEP_START: Final = '{"ht":1,"kind":"step",'
"""How a step begins, as ``trainer.events.encode`` writes it."""


class StepRow(NamedTuple):
    """What a line of a step says, in the order in which it says it; see ``trainer.events.Step``."""

    ht: int
    kind: str
    rank: int
    seq: int
    time: float
    step: int
    epoch: int
    steps_total: int
    share: int
    global_batch: int
    loss: float
    learning_rate: float
    compute: float
    data: float
    wait: float
    communication: float
    duration: float

    def event(self) -> Step:
        """Return the same as an event."""
        values: dict[str, Any] = dict(zip(_NAMES[2:], self[2:], strict=True))
        return Step(**values)


_NAMES: Final = StepRow._fields
_TYPES: Final = (int, str, *({"int": int, "float": float}[str(spec.type)] for spec in fields(Step)))
_FURTHEST: Final = 1e11
"""Seconds since the epoch that no clock shows."""


def step_rows(texts: Sequence[str]) -> list[StepRow] | None:
    """Read lines that begin like steps all at once; None unless each is a step as it is written by this version.

    Joined they are one JSON document. Text that would divide it otherwise than by lines is no row of plain values.
    """
    try:
        documents = json.loads(f"[{','.join(texts)}]")
    except (ValueError, RecursionError):
        return None
    rows = []
    for document in documents:
        if type(document) is not dict or tuple(document) != _NAMES:
            return None
        values = document.values()
        if tuple(map(type, values)) != _TYPES:
            return None
        row = StepRow._make(values)
        if row.kind != Step.kind or not math.fabs(row.time) < _FURTHEST:
            return None
        rows.append(row)
    return rows if len(rows) == len(texts) else None

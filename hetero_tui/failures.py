"""Failed ranks: the likely cause first, with what it means and what to do; what follows from it folded away."""

from __future__ import annotations

import re
from typing import Final

from hetero_tui.sanitize import clean, clean_block
from hetero_tui.views import FailureRecord
from remote.decode_errors import decode, decode_exit
from trainer.events import Failed

FAILURE_RECORDS: Final = 64
_CONSEQUENCE: Final = re.compile(
    r"connection (?:reset|closed|refused)|broken pipe|timed? ?out waiting|peer|socket closed|remote process exited"
    r"|rank \d+ (?:left|is gone|failed)|store .*(?:closed|gone)|ncclRemoteError",
    re.IGNORECASE,
)
_OWN: Final = re.compile(r"rank \d+ on \S+ (?:was ended|ended with)")
"""What an agent says of a rank that died without a word: its own end, whatever else the line holds."""


def failure_record(host: str, rank: int, event: Failed) -> FailureRecord:
    """Return a failure with what is known about errors like it."""
    error = clean(event.error)
    decoded = decode(f"{event.error}\n{event.traceback}")
    if decoded is None and event.exit_code:
        decoded = decode_exit(event.exit_code)
    consequence = decoded.is_consequence if decoded else bool(_CONSEQUENCE.search(error))
    return FailureRecord(
        event.time,
        host,
        rank,
        error,
        clean_block(event.traceback),
        event.exit_code,
        event.step,
        consequence and _OWN.match(error) is None,
        clean(decoded.cause) if decoded else "",
        clean(decoded.next_step) if decoded else "",
    )


class Failures:
    """The failures of one run, bounded."""

    def __init__(self) -> None:
        self._records: list[FailureRecord] = []

    def add(self, record: FailureRecord) -> None:
        """Keep one, while there is room; the first ones matter."""
        if len(self._records) < FAILURE_RECORDS:
            self._records.append(record)

    @property
    def ordered(self) -> tuple[FailureRecord, ...]:
        """The likely cause first: own errors before lost peers, then by time."""
        return tuple(sorted(self._records, key=lambda each: (each.consequence, each.time, each.rank)))

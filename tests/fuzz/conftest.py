from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.fuzz.hostile import EXAMPLES

HANG_SECONDS = 120.0 + EXAMPLES / 10
"""A target needs a second or two for its inputs; one that takes so long hangs on one of them."""


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that hangs where it hangs, for an input that never ends tells of no deadline that it missed."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {HANG_SECONDS:.0f} s: an input hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)

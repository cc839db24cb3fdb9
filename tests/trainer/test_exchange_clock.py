"""The exchange clock: work of one's own is counted, waiting for others is not."""

from __future__ import annotations

import time

from trainer.exchange_clock import ExchangeClock


def _work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_waiting_in_the_exchange_is_not_counted() -> None:
    clock = ExchangeClock()
    clock.begin()
    _work(0.03)
    clock.computed()
    time.sleep(0.2)
    assert clock.exchanged() < 0.1


def test_work_counts_as_long_as_it_takes_this_rank() -> None:
    clock = ExchangeClock()
    clock.begin()
    # Held down: half of the time the processor is not ours.
    _work(0.05)
    time.sleep(0.05)
    clock.computed()
    _work(0.05)
    assert clock.exchanged() >= 0.09

"""Asking many hosts at once without letting those that are gone hold up the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

LOOK_SECONDS: Final = 0.2


async def gather_soon(
    asked: Mapping[str, Coroutine[Any, Any, _T]],
    *,
    patience: float,
    at_most: float = math.inf,
    is_held_up: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, _T], dict[str, Exception]]:
    """Wait for all; from the first answer on, which shows that this side works, only ``patience`` longer.

    Args:
        asked: what to wait for, by host name. What is late is cancelled.
        patience: seconds that the others get once one has answered.
        at_most: seconds to wait even if nobody answers.
        is_held_up: whether somebody else, such as a person who is asked, is the reason; the patience begins again then.

    Returns:
        The answers, and why the others gave none: ``TimeoutError`` for those that were late.
    """
    loop = asyncio.get_running_loop()
    tasks = {name: asyncio.ensure_future(each) for name, each in asked.items()}
    deadline = loop.time() + at_most
    pending = set(tasks.values())
    try:
        while pending:
            left = deadline - loop.time()
            if left <= 0 and not is_held_up():
                break
            if left <= 0:
                deadline, left = loop.time() + patience, LOOK_SECONDS
            wait = None if math.isinf(left) else left
            done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done if not task.cancelled()):
                deadline = min(deadline, loop.time() + patience)
    finally:
        for task in tasks.values():
            task.cancel()
        outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
    answers: dict[str, _T] = {}
    errors: dict[str, Exception] = {}
    for name, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, asyncio.CancelledError):
            errors[name] = TimeoutError(f"no answer though others had answered {patience:g} s before")
        elif isinstance(outcome, Exception):
            errors[name] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers[name] = outcome
    return answers, errors

"""Threads in which an engine's blocking client is asked, and that nobody waits for when the program ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class RequestThreads(Executor):
    """Runs a few blocking requests at a time for one engine.

    A request cannot be called back. Python waits at its end for the threads of a ``ThreadPoolExecutor``, so one frozen
    engine on this machine would keep a program that has long given it up from ending; these threads end with it.
    """

    def __init__(self, name: str, count: int) -> None:
        """``count`` requests run at a time; ``name`` is what debuggers show."""
        self._name = name
        self._free = threading.Semaphore(count)

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Start a request and return what will hold its result."""
        answer: Future[_T] = Future()

        def ask() -> None:
            with self._free:
                if not answer.set_running_or_notify_cancel():
                    return
                try:
                    answer.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
                    answer.set_exception(error)

        threading.Thread(target=ask, name=self._name, daemon=True).start()
        return answer

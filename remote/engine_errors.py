"""What an engine says when it refuses, as an error that says what to do; and how its blocking client is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import requests
from docker.errors import APIError, DockerException

from remote.decode_errors import decode_engine
from remote.errors import EngineError
from trainer.errors import UNFIT

_T = TypeVar("_T")


async def in_thread(executor: Executor, host: str, what: str, request: Callable[[], _T]) -> _T:
    """Call the blocking client in a thread of the engine's own.

    Raises:
        EngineError: the engine refused or did not answer.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, request)
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        raise engine_error(host, what, _explanation(error)) from error
    except UNFIT as error:
        # The client reads what it needs of an answer and trusts that it is there.
        said = f"something that is no answer to it ({type(error).__name__}: {error})"
        raise engine_error(host, what, said) from error


def engine_error(host: str, asked: str, said: str) -> EngineError:
    """Return an error that says what was asked, what the engine answered, and what to do about it."""
    decoded = decode_engine(said)
    if decoded is None:
        return EngineError(f"`{asked}`: the engine said: {said}", host=host, next_step="docker info on that host")
    return EngineError(f"{decoded.cause}. `{asked}`: the engine said: {said}", host=host, next_step=decoded.next_step)


def _explanation(error: Exception) -> str:
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation).strip()
    if isinstance(error, requests.exceptions.Timeout):
        return f"nothing within the time limit ({error})"
    return str(error).strip() or type(error).__name__

"""What hosts and engines answer is read as a whole, or refused with an error that names the host."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from remote.errors import CommandFailed, ConnectionDropped, RemoteError
from remote.text import printable
from trainer.errors import UNFIT

MAX_LINE: Final = 1 << 20
"""Bytes of one JSON message; more cannot come from an engine in good order, and must not fill the memory."""
MAX_DOCUMENT: Final = 64 << 20


@contextmanager
def understood(host: str, what: str, error: type[RemoteError] = CommandFailed) -> Iterator[None]:
    """Read an answer inside; should it have another shape than expected, the host is told to be at fault.

    Args:
        host: inventory name of who answered.
        what: what was asked, such as ``docker inspect``.
        error: class of the error.

    Raises:
        RemoteError: of that class; ``__cause__`` is what the reader stumbled over.
    """
    try:
        yield
    except UNFIT as reason:
        said = printable(f"{type(reason).__name__}: {reason}", 200)
        message = f"its answer to `{printable(what, 200)}` cannot be understood ({said})"
        raise error(
            message, host=host, next_step="see what that host runs there: it is no release known here"
        ) from reason


async def json_lines(host: str, what: str, body: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """Yield the JSON values of an answer, one a line, as they come.

    Raises:
        CommandFailed: a line is no JSON, or is longer than ``MAX_LINE``.
        ConnectionDropped: the answer ends within a line.
    """
    rest = b""
    async for chunk in body:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line.strip():
                yield _value(host, what, line)
        if len(rest) > MAX_LINE:
            raise CommandFailed(f"its answer to `{what}` has a line of more than {MAX_LINE} bytes", host=host)
    if rest.strip():
        try:
            yield _value(host, what, rest)
        except CommandFailed as error:
            raise ConnectionDropped(f"its answer to `{what}` broke off in a message", host=host) from error


async def json_document(host: str, what: str, body: AsyncIterator[bytes]) -> Any:
    """Return the one JSON value of an answer.

    Raises:
        CommandFailed: it is no JSON, or longer than ``MAX_DOCUMENT``.
    """
    said = bytearray()
    async for chunk in body:
        said += chunk
        if len(said) > MAX_DOCUMENT:
            raise CommandFailed(f"its answer to `{what}` has more than {MAX_DOCUMENT} bytes", host=host)
    return _value(host, what, bytes(said))


def _value(host: str, what: str, text: bytes) -> Any:
    with understood(host, what):
        return json.loads(text)

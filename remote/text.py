"""Remote text made fit for a message of one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from remote.errors import RemoteError

LINE_LENGTH: Final = 300


def one_line(error: BaseException) -> str:
    """Return the first line of what an error says, without control characters."""
    text = error.message if isinstance(error, RemoteError) else str(error) or type(error).__name__
    return printable(text.splitlines()[0] if text else type(error).__name__)


def printable(text: str, length: int = LINE_LENGTH) -> str:
    """Return remote text fit for a message: control characters could rewrite a terminal."""
    return "".join(each if each.isprintable() else "�" for each in text[:length])


def named(reasons: Mapping[str, str]) -> str:
    """Return hosts in one line, each with what it is about."""
    return "; ".join(f"{host}: {reason}" for host, reason in reasons.items())

"""Reads what is on the screen, not what is in a buffer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot

SECONDS = 30.0


def painted(app: App[Any]) -> list[str]:
    """Return the screen's lines as they are painted, dialogs included."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


def text(app: App[Any]) -> str:
    """Return the whole screen."""
    return "\n".join(painted(app))


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Let the app run until the condition holds; what is on the screen is the message when it never does."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        await pilot.pause(0.01)
    raise AssertionError(f"never came true; the screen shows:\n{text(pilot.app)}")


async def shows(pilot: Pilot[Any], *pieces: str) -> None:
    """Wait until all pieces of text are on the screen."""
    await until(pilot, lambda: all(piece in text(pilot.app) for piece in pieces))

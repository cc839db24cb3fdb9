"""Takes all pictures of a screen from one app: every size in every theme, compared with those that are stored."""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from pytest_textual_snapshot import (  # type: ignore[import-untyped]
    PseudoApp,
    PseudoConsole,
    SVGImageExtension,
    node_to_report_path,
)
from rich.console import ConsoleDimensions
from syrupy.assertion import SnapshotAssertion
from textual.geometry import Size
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input

from hetero_tui.app import HeteroApp
from hetero_tui.screens.base import LiveScreen
from hetero_tui.theme import UNICODE
from hetero_tui.widgets import lines
from tests.pilot.picture import Picture, differences, picture

SIZES: Final = ((80, 24), (120, 35), (160, 45))
THEMES: Final = ("textual-dark", "textual-light")
SECONDS: Final = 30.0
STILL_ROUNDS: Final = 4
STILL_SECONDS: Final = 0.3
"""A picture that is not the stored one is taken when it has not changed for so many rounds and so long."""
LEAST_CONTRAST: Final = 3.0
"""Of any text, also where it is dim, and of bars: the least that WCAG 2.2 asks anywhere (1.4.3 and 1.4.11)."""

Drive = Callable[[Pilot[Any]], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """A screen in one state."""

    name: str
    screen: type[Screen[Any]]
    """What is in front."""
    app: Callable[[], HeteroApp]
    drive: Drive
    """Brings the app from its start to that state, whatever its size."""
    resized: Drive | None = None
    """Done at every size, where the state belongs to a size."""
    themes: Sequence[str] = THEMES
    sizes: Sequence[tuple[int, int]] = SIZES
    toasts: bool = False
    """Notices are shown; elsewhere they would come and go."""


class Album:
    """One test's pictures."""

    def __init__(self, snapshot: SnapshotAssertion, node: pytest.Function) -> None:
        self._snapshot = snapshot.use_extension(SVGImageExtension)
        self._node = node
        self.wrong: list[str] = []
        """What is not as it is stored."""
        self.faint: set[str] = set()
        """Text with too little contrast."""

    async def take(self, scene: Scene) -> None:
        """Take and compare all pictures of a scene."""
        app = scene.app()
        async with app.run_test(size=scene.sizes[0], notifications=scene.toasts) as pilot:
            await scene.drive(pilot)
            # A new theme costs a hundred times what a new size does.
            for theme in scene.themes:
                app.theme = theme
                for width, height in scene.sizes:
                    await pilot.resize_terminal(width, height)
                    if scene.resized is not None:
                        await scene.resized(pilot)
                    assert isinstance(app.screen, scene.screen), app.screen
                    name = f"{width}x{height}-{theme}"
                    taken = await self._settled(pilot, Size(width, height), self._stored(name))
                    self._compare(name, taken.svg())
                    self.faint |= {f"{name}: {each}" for each in taken.faint(LEAST_CONTRAST)}

    def _stored(self, name: str) -> str:
        path = Path(self._snapshot.extension.get_location(test_location=self._snapshot.test_location, index=name))
        return path.read_text("utf-8") if path.is_file() else ""

    async def _settled(self, pilot: Pilot[Any], size: Size, stored: str) -> Picture:
        """Return the picture once it is the stored one, or does not change any more."""
        started = time.monotonic()
        last: Picture | None = None
        still = 0
        while time.monotonic() - started < SECONDS:
            for screen in pilot.app.screen_stack:
                if isinstance(screen, LiveScreen):
                    screen.pull()
                for field in screen.query(Input):
                    field.cursor_blink = False
            await pilot.pause(0)
            taken = picture(pilot.app)
            if any(screen.size != size for screen in pilot.app.screen_stack):
                continue
            if taken.svg() == stored:
                return taken
            still = still + 1 if taken == last else 0
            last = taken
            if still >= STILL_ROUNDS and time.monotonic() - started > STILL_SECONDS:
                return taken
        raise AssertionError("the screen does not come to rest")

    def _compare(self, name: str, taken: str) -> None:
        stored = self._stored(name)
        same = self._snapshot(name=name) == taken
        if not same:
            told = "\n".join(differences(stored, taken)) if stored else "is not stored yet"
            self.wrong.append(f"{name}:\n{told}")
        self._report(name, stored, taken, same=same)

    def _report(self, name: str, stored: str, taken: str, *, same: bool) -> None:
        """Hand the pictures to the plugin that writes ``snapshot_report.html``."""
        path, line, test = self._node.reportinfo()
        console = PseudoApp(PseudoConsole(False, ConsoleDimensions(80, 24)))
        about = inspect.getdoc(self._node.function) or ""
        data = (same, stored, taken, console, path, line, f"{test} {name}", about, "", bool(stored))
        report = node_to_report_path(self._node)
        report.with_name(f"{report.name}_{name}").write_bytes(pickle.dumps(data))


@pytest.fixture
def album(snapshot: SnapshotAssertion, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Album:
    """An album for the test. Spinners stand still, and notices stay once they are there."""
    monkeypatch.setattr(lines, "UNICODE", replace(UNICODE, spinner=UNICODE.spinner[:1]))
    notify = HeteroApp.notify

    def stays(self: HeteroApp, *arguments: Any, **values: Any) -> None:
        notify(self, *arguments, **{**values, "timeout": 3600})

    monkeypatch.setattr(HeteroApp, "notify", stays)
    assert isinstance(request.node, pytest.Function)
    return Album(snapshot, request.node)

"""Steps that bring the app to the states of which pictures are taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual.pilot import Pilot
from textual.screen import Screen

from hetero_tui.app import HeteroApp
from hetero_tui.checklist import Place
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.monitor import TABS, MonitorScreen
from hetero_tui.widgets.checklist_grid import ChecklistGrid
from tests.pilot.album import Drive
from tests.pilot.fake_session import RUN_ID, FakeSession
from tests.pilot.painted import until
from tests.pilot.test_checklist import answered
from tests.pilot.test_flow import make


def app(session: Callable[[], FakeSession], **values: Any) -> Callable[[], HeteroApp]:
    """Return what makes an app on a session of its own."""
    return lambda: HeteroApp(session(), **values)


def checklist(**values: Any) -> Callable[[], HeteroApp]:
    """Return what makes an app that checks a scripted cluster."""
    return app(partial(make, **values))


def busy_run(*, balanced: bool = True, **values: Any) -> FakeSession:
    """A run that was balanced once, seen at step 60."""
    session = make(**{"simulated": True, **values})
    session.run_id = RUN_ID
    for rank in range(len(session.fake_hosts)):
        session.hello(rank)
    session.join()
    session.steps(12)
    if balanced:
        session.balance("measured speeds differ by a factor of 6.4")
    session.steps(48)
    session.output(2, "UserWarning: [rank2] slow disk", "stderr")
    return session


def monitor(**values: Any) -> Callable[[], HeteroApp]:
    """Return what makes an app that watches a scripted run."""
    return app(partial(busy_run, **values), start="monitor")


async def checked(pilot: Pilot[Any]) -> None:
    """Wait for all answers."""
    await until(pilot, lambda: len(pilot.app.screen_stack) > 1)
    screen = pilot.app.screen_stack[1]
    assert isinstance(screen, ChecklistScreen)
    session = screen.session
    assert isinstance(session, FakeSession)
    await until(pilot, lambda: answered(screen, session))


async def in_front(pilot: Pilot[Any], kind: type[Screen[Any]]) -> None:
    """Wait until a screen is in front and has its panes."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind) and pilot.app.screen.is_mounted)


async def watching(pilot: Pilot[Any]) -> None:
    """Wait for the monitor."""
    await in_front(pilot, MonitorScreen)


def then(first: Drive, *keys: str, opens: type[Screen[Any]] | None = None) -> Drive:
    """Return the first steps, with keys pressed after them; ``opens`` is waited for."""

    async def drive(pilot: Pilot[Any]) -> None:
        await first(pilot)
        await pilot.press(*keys)
        if opens is not None:
            await in_front(pilot, opens)

    return drive


def at(check: str, host: str) -> Drive:
    """Return the steps to a cell of the checklist."""

    async def drive(pilot: Pilot[Any]) -> None:
        await checked(pilot)
        pilot.app.screen.query_one(ChecklistGrid).select(Place(check, host))

    return drive


def tab(name: str) -> Drive:
    """Return the steps to a tab of the monitor."""

    async def drive(pilot: Pilot[Any]) -> None:
        await watching(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, MonitorScreen)
        screen.action_tab(TABS.index(name))

    return drive

"""Every screen as it is drawn, at three sizes, with time standing still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from hetero_tui.app import HeteroApp
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.dialogs import Choice
from hetero_tui.screens.launch import LaunchScreen
from hetero_tui.screens.monitor import TABS, MonitorScreen
from hetero_tui.screens.plan import PlanScreen
from tests.pilot.fake_session import RUN_ID, FakeSession, earlier_run
from tests.pilot.painted import until
from tests.pilot.test_flow import make

SIZES = [(80, 24), (120, 35), (160, 45)]
Compare = Callable[..., bool]
Drive = Callable[[Pilot[Any]], Awaitable[None]]


def busy_run(**values: Any) -> FakeSession:
    """A run that was balanced once, seen at step 60."""
    session = make(simulated=True, **values)
    session.run_id = RUN_ID
    for rank in range(4):
        session.hello(rank)
    session.join()
    session.steps(12)
    session.balance("measured speeds differ by a factor of 6.4")
    session.steps(48)
    session.output(2, "UserWarning: [rank2] slow disk", "stderr")
    return session


async def checked(pilot: Pilot[Any]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, ChecklistScreen)
    await until(pilot, lambda: len(screen.state.results) == 46 and not screen.state.running)
    screen.pull()
    await pilot.pause()


async def on_monitor(pilot: Pilot[Any]) -> MonitorScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen))
    screen = pilot.app.screen
    assert isinstance(screen, MonitorScreen)
    await pilot.pause()
    screen.pull()
    await pilot.pause()
    return screen


@pytest.mark.parametrize("size", SIZES)
def test_checklist(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert snap_compare(HeteroApp(make(failing=True)), terminal_size=size, run_before=checked)


@pytest.mark.parametrize("size", SIZES)
def test_plan(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await checked(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen))
        await pilot.pause()

    assert snap_compare(HeteroApp(make(simulated=True)), terminal_size=size, run_before=drive)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tab", TABS)
def test_monitor(snap_compare: Compare, tab: str, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        screen = await on_monitor(pilot)
        screen.action_tab(TABS.index(tab))
        await pilot.pause()
        screen.pull()
        await pilot.pause()

    assert snap_compare(HeteroApp(busy_run(), start="monitor"), terminal_size=size, run_before=drive)


@pytest.mark.parametrize("size", SIZES)
def test_help(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await on_monitor(pilot)
        await pilot.press("question_mark")
        await pilot.pause()

    assert snap_compare(HeteroApp(busy_run(), start="monitor"), terminal_size=size, run_before=drive)


def test_launch_that_failed(snap_compare: Compare) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await checked(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, LaunchScreen))
        screen = pilot.app.screen
        assert isinstance(screen, LaunchScreen)
        await until(pilot, lambda: screen.error is not None)
        # Spinners of hosts that were under way would turn from one paint to the next.
        screen.painting = False
        table = screen.query_one("#launch-table")
        table._frame = 0  # type: ignore[attr-defined]
        table.refresh()
        await pilot.pause()

    assert snap_compare(HeteroApp(make(launch_fails="laptop")), terminal_size=(80, 24), run_before=drive)


@pytest.mark.parametrize("key", ["x", "q", "s"])
def test_questions(snap_compare: Compare, key: str) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await on_monitor(pilot)
        await pilot.press(key)
        await pilot.pause()

    assert snap_compare(HeteroApp(busy_run(), start="monitor"), terminal_size=(80, 24), run_before=drive)


def test_earlier_run(snap_compare: Compare) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        screen = pilot.app.screen_stack[1]
        assert isinstance(screen, ChecklistScreen)
        await until(pilot, lambda: len(screen.state.results) == 46 and not screen.state.running)
        screen.query_one("#summary").refresh()
        screen.query_one("#grid").refresh()
        await pilot.pause()

    assert snap_compare(HeteroApp(make(earlier=earlier_run())), terminal_size=(80, 24), run_before=drive)


OVERVIEWS = [("overview", theme) for theme in ("ansi-dark", "high-contrast", "colour-blind")]


@pytest.mark.parametrize(("tab", "theme"), [*((tab, "textual-light") for tab in TABS), *OVERVIEWS])
def test_themes(snap_compare: Compare, tab: str, theme: str) -> None:
    app = HeteroApp(busy_run(), start="monitor")
    app.theme = theme

    async def drive(pilot: Pilot[Any]) -> None:
        screen = await on_monitor(pilot)
        screen.action_tab(TABS.index(tab))
        await pilot.pause()
        screen.pull()
        await pilot.pause()

    assert snap_compare(app, terminal_size=(120, 35), run_before=drive)


def test_ascii(snap_compare: Compare) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await on_monitor(pilot)

    assert snap_compare(
        HeteroApp(busy_run(), start="monitor", ascii_only=True), terminal_size=(120, 35), run_before=drive
    )

"""The checklist's other screens as they are drawn, at three sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from hetero_tui.app import HeteroApp
from hetero_tui.checklist import Place
from hetero_tui.screens.matrix import MatrixScreen
from hetero_tui.screens.password import AskPassword
from hetero_tui.screens.prediction import PredictionScreen
from hetero_tui.widgets.checklist_grid import ChecklistGrid
from hetero_tui.widgets.matrix_grid import MatrixGrid
from tests.pilot.painted import shows, until
from tests.pilot.test_checklist import answered, many
from tests.pilot.test_flow import make

SIZES = [(80, 24), (120, 35), (160, 45)]
Compare = Callable[..., bool]


async def settled(pilot: Pilot[Any]) -> None:
    screen = pilot.app.screen
    await until(pilot, lambda: answered(screen, screen.session))  # type: ignore[arg-type, attr-defined]
    screen.pull()  # type: ignore[attr-defined]
    await pilot.pause()


@pytest.mark.parametrize("size", SIZES)
def test_matrix(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MatrixScreen))
        pilot.app.screen.query_one(MatrixGrid).put_cursor(1, 3)
        await shows(pilot, "workstation → old-server")

    assert snap_compare(HeteroApp(make()), terminal_size=size, run_before=drive)


@pytest.mark.parametrize("size", SIZES)
def test_prediction(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, PredictionScreen))
        await shows(pilot, "all hosts, as configured")

    assert snap_compare(HeteroApp(make(simulated=True)), terminal_size=size, run_before=drive)


@pytest.mark.parametrize(("count", "size"), [(16, (80, 24)), (64, (160, 45))])
def test_many_hosts(snap_compare: Compare, count: int, size: tuple[int, int]) -> None:
    assert snap_compare(HeteroApp(many(count)), terminal_size=size, run_before=settled)


def test_password(snap_compare: Compare) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        pilot.app.screen.query_one(ChecklistGrid).select(Place("engine", "laptop"))
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskPassword))
        pilot.app.screen.query_one("Input").cursor_blink = False  # type: ignore[attr-defined]
        await pilot.pause()

    assert snap_compare(HeteroApp(make(failing=True)), terminal_size=(80, 24), run_before=drive)

"""Pictures for the documentation, taken from a real run of the demo: ``python -m docs.screens`` (``make screens``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from textual.pilot import Pilot

from hetero_tui.app import HeteroApp
from hetero_tui.demo import demo_session
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.monitor import MonitorScreen

FOLDER: Final = Path(__file__).parent / "images"
SIZE: Final = (132, 38)
ENOUGH_STEPS: Final = 100
PATIENCE: Final = 300.0


async def main() -> None:
    """Run the demo on a terminal in memory and keep what it shows."""
    FOLDER.mkdir(exist_ok=True)
    async with asyncio.timeout(PATIENCE), demo_session() as session:
        app = HeteroApp(session, auto_launch=True)
        app.theme = "textual-dark"
        async with app.run_test(size=SIZE) as pilot:
            await _until(pilot, lambda: isinstance(app.screen, ChecklistScreen) and len(session.results) > 40)
            _keep(app, "checklist")
            await _until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            await _until(pilot, lambda: session.store.cluster_view().step >= ENOUGH_STEPS // 2)
            await session.control({"command": "simulate", "samples_per_second": 200}, frozenset({"gaming-pc"}))
            await _until(pilot, lambda: session.store.cluster_view().step >= ENOUGH_STEPS)
            _keep(app, "monitor")
            await pilot.press("2")
            await pilot.pause(1.0)
            _keep(app, "balance")


async def _until(pilot: Pilot[int], condition: Callable[[], bool]) -> None:
    while not condition():
        await pilot.pause(0.2)


def _keep(app: HeteroApp, name: str) -> None:
    path = FOLDER / f"{name}.svg"
    path.write_text(app.export_screenshot(title="hetero-tui demo"), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    asyncio.run(main())

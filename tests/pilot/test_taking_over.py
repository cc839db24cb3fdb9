"""A past that takes long to read: how far it is, and the way out of it."""

from __future__ import annotations

import asyncio
from typing import Any

from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.monitor import MonitorScreen
from hetero_tui.screens.taking_over import TakingOver
from hetero_tui.session import PastRead
from tests.pilot.fake_session import RUN_ID, FakeSession, FrozenClock, earlier_run
from tests.pilot.painted import shows, until
from tests.pilot.test_flow import running


class LongPast(FakeSession):
    """Its run has millions of lines."""

    def __init__(self) -> None:
        clock = FrozenClock()
        super().__init__(clock=clock, wall_clock=clock.wall)
        self.earlier = earlier_run()
        self.past = PastRead(4_300_000, 0.43)
        self.may_end = asyncio.Event()
        self.given_up = False

    async def attach(self, run_id: str) -> None:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        await super().attach(run_id)


def is_shown(app: Any) -> bool:
    return isinstance(app.screen, TakingOver)


async def test_a_long_past_is_shown_while_it_is_read() -> None:
    session = LongPast()
    async with running(session, start="monitor") as (app, pilot):
        await until(pilot, lambda: is_shown(app))
        await shows(pilot, f"Reading the past of run {RUN_ID}", "43% of the recording read", "4 300 000 lines")
        session.past = PastRead(8_100_000, 0.81)
        await shows(pilot, "81% of the recording read")
        session.may_end.set()
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await shows(pilot, "training", "gaming-pc")
        assert not any(isinstance(screen, TakingOver) for screen in app.screen_stack)


async def test_who_gives_up_is_back_at_the_checklist() -> None:
    session = LongPast()
    async with running(session, start="monitor") as (app, pilot):
        await until(pilot, lambda: is_shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ChecklistScreen))
        await until(pilot, lambda: session.given_up)
        assert session.run_id == ""

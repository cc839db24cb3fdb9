"""After a run's end in the app: resume with or without a host, fetch again, give up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hetero_tui.screens.dialogs import Choice, ErrorDialog
from hetero_tui.screens.plan import PlanScreen
from hetero_tui.session import LaunchProgress
from remote.errors import UserError
from remote.progress import HostStatus
from remote.resume import Resume
from remote.runtime import StoredCheckpoint
from tests.pilot.fake_session import FakeSession, FrozenClock
from tests.pilot.painted import shows, until
from tests.pilot.test_flow import monitoring

CHECKPOINT = StoredCheckpoint(Path("step-00000040.pt"), 40, "0" * 64, 1000)


@dataclass
class Resumable(FakeSession):
    """A session whose run can be taken up again."""

    kept: Mapping[str, str] = field(default_factory=dict)
    has_checkpoint: bool = True
    resumed: list[str] = field(default_factory=list)
    left_out: list[frozenset[str]] = field(default_factory=list)
    given_up: list[bool] = field(default_factory=list)

    def resume(self, run_id: str = "") -> Resume:
        if not self.has_checkpoint:
            raise UserError("there is no good checkpoint")
        self.resumed.append(run_id)
        return Resume(run_id, CHECKPOINT, "goes on from step 40")

    def leave_out(self, hosts: Collection[str]) -> None:
        self.left_out.append(frozenset(hosts))

    async def stop(self, report: Callable[[LaunchProgress], None], *, discard: bool = False) -> None:
        self.given_up.append(discard)


def make(**values: object) -> Resumable:
    clock = FrozenClock()
    return Resumable(clock=clock, wall_clock=clock.wall, **values)  # type: ignore[arg-type]


def end_badly(session: Resumable) -> None:
    for rank in range(len(session.fake_hosts)):
        session.fail(rank, "RuntimeError: out of memory")
    session.ended.set()


@pytest.mark.parametrize(("key", "left_out"), [("enter", frozenset({"laptop"})), ("down", frozenset())])
async def test_a_failed_run_is_resumed_with_or_without_the_lost_host(key: str, left_out: frozenset[str]) -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _):
        session.hosts["laptop"] = HostStatus("laptop", "lost", "no answer")
        end_badly(session)
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await shows(pilot, "Resume from the newest checkpoint without laptop")
        await pilot.press(*([key] if key != "enter" else []), "enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        assert session.left_out == [left_out]
        assert session.resumed == [session.run_id]


async def test_without_a_checkpoint_the_reason_is_told() -> None:
    session = make(has_checkpoint=False)
    async with monitoring(session) as (app, pilot, _):
        end_badly(session)
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("enter")
        await shows(pilot, "there is no good checkpoint")


@pytest.mark.parametrize(("presses", "discard"), [(0, False), (1, True)])
async def test_results_that_are_not_home_are_fetched_again_or_given_up(presses: int, discard: bool) -> None:
    session = make(kept={"laptop": "disk full"})
    async with monitoring(session) as (app, pilot, _):
        session.finish()
        session.ended.set()
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press(*["down"] * presses, "enter")
        await until(pilot, lambda: session.given_up == [discard])

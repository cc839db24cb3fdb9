"""From a red cell to the same data on every host, with keys; the folders and what goes between them are real."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from hetero_tui.app import HeteroApp
from hetero_tui.checklist import Place
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.data import DataScreen
from hetero_tui.session import CheckInfo
from hetero_tui.widgets.checklist_grid import ChecklistGrid
from remote.checks.model import CheckProgress, CheckResult, Finding, Fix, Verdict
from remote.dataset_sync import PIECE, Dataset
from remote.local import LocalRunner
from remote.runner import Completed
from tests.pilot.fake_session import CHECKS, HOSTS, FakeSession
from tests.pilot.painted import shows, until

DATA = CheckInfo("data", "Data set", "blocks", "cluster", group="Job")


class Lacking(FakeSession):
    """Its data check says no until its folders are the same."""

    @property
    def checks(self) -> tuple[CheckInfo, ...]:
        return (*CHECKS, DATA)

    async def run_checks(
        self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None
    ) -> AsyncIterator[CheckProgress]:
        async for each in super().run_checks(only, hosts):
            yield each
        if only is None or "data" in only:
            fix = Fix("bring it", ("rsync -a somewhere",), HOSTS[0].name, brings_data=True)
            same = (await self.preflight.look_at_data()).is_same
            yield CheckResult("data", "", Finding(*((Verdict.OK, "same") if same else (Verdict.FAIL, "no", "", fix))))


class Held(LocalRunner):
    """Takes the second piece of a file once it is let."""

    pieces = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.let = asyncio.Event()

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        if "dataset.sh append" in command:
            self.pieces += 1
            if self.pieces == 2:
                await self.let.wait()
        return await super().run(command, input=input, timeout=timeout)


def _laid_out(folder: Path) -> tuple[Lacking, Held]:
    session = Lacking()
    names = [host.name for host in HOSTS]
    held = Held(names[-1])
    (folder / names[0]).mkdir()
    (folder / names[0] / "big.bin").write_bytes(os.urandom(PIECE + 1000))
    runners = {name: LocalRunner(name) for name in names} | {names[-1]: held}
    for name in names[1:-1]:
        os.link(folder / names[0] / "big.bin", _made(folder / name) / "big.bin")
    session.preflight.dataset = Dataset({name: f"{folder}/{name}" for name in names}, runners, names[0])
    return session, held


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _red(pilot: Pilot[Any]) -> ChecklistScreen:
    screen = pilot.app.screen
    assert isinstance(screen, ChecklistScreen)
    await until(pilot, lambda: Place("data", "") in screen.state.results)
    screen.query_one(ChecklistGrid).select(Place("data", ""))
    return screen


async def test_what_is_missing_is_shown_brought_cancelled_and_gone_on_with(tmp_path: Path) -> None:
    session, held = _laid_out(tmp_path)
    app = HeteroApp(session)
    async with app.run_test(size=(160, 40)) as pilot:
        checklist = await _red(pilot)
        await shows(pilot, "F shows what would be brought")
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, DataScreen))
        await shows(pilot, "1 file, 16.8 MB in", "lacks 1 file (big.bin), 16.8 MB", "has the same")
        assert not (tmp_path / HOSTS[-1].name).exists(), "looking changes nothing"
        await pilot.press("b")
        await shows(pilot, "16.8 MB of 16.8 MB")
        await pilot.press("escape")
        assert isinstance(app.screen, DataScreen), "not while data is on its way"
        await pilot.press("x")
        await shows(pilot, "Cancelled. What has arrived is kept there")
        assert not (tmp_path / HOSTS[-1].name / "big.bin").exists()
        await pilot.press("c")
        await shows(pilot, "a transfer did not end, and goes on where it was")
        held.let.set()
        before = held.pieces
        await pilot.press("b")
        await until(pilot, lambda: (tmp_path / HOSTS[-1].name / "big.bin").exists())
        assert held.pieces == before + 1, "the first piece is not sent again"
        screen = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: not screen.running)
        session.checked.clear()
        await pilot.press("escape")
        await until(pilot, lambda: session.checked == [(frozenset({"data"}), None)])
        await until(pilot, lambda: checklist.state.results[Place("data", "")].finding.verdict is Verdict.OK)


async def test_readonly_offers_no_bringing(tmp_path: Path) -> None:
    session, _ = _laid_out(tmp_path)
    app = HeteroApp(session, readonly=True)
    async with app.run_test(size=(160, 40)) as pilot:
        checklist = await _red(pilot)
        await shows(pilot, "(y copies)")
        await pilot.press("F")
        assert app.screen is checklist

"""The checklist as a person uses it: folding, filtering, mending, the network pair by pair, and the prediction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hetero_tui.app import HeteroApp
from hetero_tui.checklist import Place
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.dialogs import Confirm, ErrorDialog
from hetero_tui.screens.matrix import MatrixScreen
from hetero_tui.screens.password import AskPassword
from hetero_tui.screens.prediction import PredictionScreen
from hetero_tui.widgets.checklist_grid import ChecklistGrid
from hetero_tui.widgets.matrix_grid import MatrixGrid
from remote.checks.model import Verdict
from tests.pilot.fake_preflight import PASSWORD
from tests.pilot.fake_session import HOSTS, FakeHost, FakeSession
from tests.pilot.painted import shows, text, until
from tests.pilot.test_flow import make


@asynccontextmanager
async def opened(
    session: FakeSession, size: tuple[int, int] = (200, 45), **options: Any
) -> AsyncIterator[tuple[ChecklistScreen, Pilot[Any]]]:
    """The checklist once everything has answered."""
    app = HeteroApp(session, **options)
    async with app.run_test(size=size) as pilot:
        screen = app.screen
        assert isinstance(screen, ChecklistScreen)
        await until(pilot, lambda: answered(screen, session))
        yield screen, pilot


def answered(screen: ChecklistScreen, session: FakeSession) -> bool:
    cells = sum(1 if check.scope == "cluster" else len(session.fake_hosts) for check in session.checks)
    return len(screen.state.results) == cells and not screen.state.running


def many(count: int) -> FakeSession:
    hosts = [HOSTS[index % len(HOSTS)] for index in range(count)]
    named = [FakeHost(f"node{index + 1:02}", host.speed, host.device) for index, host in enumerate(hosts)]
    return make(fake_hosts=named, global_batch=32 * count)


async def test_groups_fold_and_unfold_and_keep_the_cursor() -> None:
    session = make()
    async with opened(session) as (screen, pilot):
        grid = screen.query_one(ChecklistGrid)
        assert "▾ Hosts (3)" in text(pilot.app)
        grid.select(Place("clock", "laptop"))
        await pilot.press("space")
        await shows(pilot, "▸ Hosts (3)")
        assert "Clock agreement" not in text(pilot.app).split("│")[0]
        assert grid.group is not None
        assert grid.group.group == "Hosts"
        await shows(pilot, "! 1 warn")
        await pilot.press("space")
        await shows(pilot, "▾ Hosts (3)", "Clock agreement")
        await pilot.press("z")
        await shows(pilot, "▸ Hosts (3)", "▸ Network (4)")
        grid.select(Place("ports", "laptop"))
        await shows(pilot, "▾ Network (4)", "Every pair can connect")
        assert grid.place == Place("ports", "laptop")


async def test_a_filter_shows_what_has_its_words_and_says_how_many() -> None:
    async with opened(make(failing=True)) as (screen, pilot):
        await pilot.press("slash", *"unknown")
        grid = screen.query_one(ChecklistGrid)
        await until(pilot, lambda: grid.shown == 1)
        await shows(pilot, "Large packets pass")
        assert "SSH login" not in text(pilot.app)
        await pilot.press("enter")
        assert grid.has_focus
        await pilot.press("escape")
        await until(pilot, lambda: grid.shown == len(screen.session.checks))
        assert screen.query_one(Input).value == ""


async def test_a_fix_with_a_password_is_shown_run_and_the_check_asked_again() -> None:
    session = make(failing=True)
    async with opened(session) as (screen, pilot):
        screen.query_one(ChecklistGrid).select(Place("engine", "laptop"))
        await shows(pilot, "F runs it through sudo")
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskPassword))
        await shows(pilot, "Run this fix on laptop?", "$ sudo usermod -aG docker anna", "logs in there anew")
        await pilot.press(*PASSWORD.replace(" ", "_").split("_")[0])
        assert "open" not in text(pilot.app)
        session.checked.clear()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ErrorDialog))
        await shows(pilot, "sudo did not take the password. Nothing was run.")
        assert session.checked == []
        await pilot.press("escape", "F")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskPassword))
        pilot.app.screen.query_one(Input).value = PASSWORD
        await pilot.press("enter")
        await until(pilot, lambda: bool(session.checked) and answered(screen, session))
        assert session.checked == [(frozenset({"engine", "gpu-container", "image", "versions"}), frozenset({"laptop"}))]
        assert screen.state.results[Place("engine", "laptop")].finding.verdict is Verdict.OK
        assert PASSWORD not in text(pilot.app)
        assert [given for _, given in session.preflight.runs] == ["open", PASSWORD]


async def test_a_fix_is_not_run_without_a_yes_and_what_failed_is_shown() -> None:
    session = make(failing=True)
    session.preflight.fails = "timedatectl: [no] bus"
    async with opened(session) as (screen, pilot):
        grid = screen.query_one(ChecklistGrid)
        session.preflight._session.fake_hosts = [HOSTS[3], *HOSTS[:3]]  # the first host's sudo asks for nothing
        grid.select(Place("clock", "old-server"))
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await shows(pilot, "On old-server, as anna, with sudo, which asks for no password")
        await pilot.press("n")
        assert session.preflight.runs == []
        await pilot.press("F")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(pilot.app.screen, ErrorDialog))
        await shows(pilot, "A command exited 1 and said:", "timedatectl: [no] bus")


async def test_readonly_runs_no_fix_and_measures_nothing() -> None:
    session = make(failing=True)
    async with opened(session, readonly=True) as (screen, pilot):
        screen.query_one(ChecklistGrid).select(Place("engine", "laptop"))
        await shows(pilot, "y copies")
        await pilot.press("F", "p", "m")
        await shows(pilot, "No prediction yet")
        assert session.preflight.runs == []
        assert not session.preflight.measured


async def test_the_network_is_shown_pair_by_pair() -> None:
    async with opened(make()) as (_, pilot):
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MatrixScreen))
        await shows(pilot, "gaming-pc → workstation", "no translation", "880 Mbit/s there, 896 back")
        grid = pilot.app.screen.query_one(MatrixGrid)
        grid.put_cursor(1, 3)
        await shows(pilot, "workstation → old-server", "no answer: a firewall drops", "192.168.1.7, not 10.0.0.4")
        await pilot.press("t")
        assert grid.pair == ("old-server", "workstation")
        await pilot.press("o")
        await shows(pilot, "cells show: rate")
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, ChecklistScreen)


async def test_the_prediction_is_measured_first_and_says_what_is_best() -> None:
    session = make()
    async with opened(session) as (_, pilot):
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, PredictionScreen))
        await shows(pilot, "No prediction yet", "has not been measured yet")
        await pilot.press("m")
        await shows(pilot, "all hosts, as configured", "without old-server", "gaming-pc alone", "(by a script)")
        await shows(pilot, "network probe of this checklist", "leave out")


@pytest.mark.parametrize(("count", "size"), [(16, (80, 24)), (64, (160, 45))])
async def test_many_hosts_fit_without_scrolling(count: int, size: tuple[int, int]) -> None:
    session = many(count)
    async with opened(session, size) as (screen, pilot):
        grid = screen.query_one(ChecklistGrid)
        layout = grid.grid_layout()
        assert layout.title + layout.cell * count <= grid.scrollable_content_region.width
        assert layout.title >= 24
        grid.select(Place("clock", f"node{count:02}"))
        await shows(pilot, f"node{count:02}", "Clock agreement")
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MatrixScreen))
        matrix = pilot.app.screen.query_one(MatrixGrid)
        matrix.put_cursor(count - 1, count - 2)
        await shows(pilot, f"node{count:02} → node{count - 1:02}")

"""Keys through all screens, with a scripted cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from hetero_tui.app import HeteroApp
from hetero_tui.commands import RunCommands
from hetero_tui.messages import Attached, LaunchEnded, RunsFound
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.dialogs import Choice, Confirm, ErrorDialog
from hetero_tui.screens.help import HelpScreen
from hetero_tui.screens.launch import LaunchScreen
from hetero_tui.screens.monitor import MonitorScreen
from hetero_tui.screens.plan import PlanScreen
from hetero_tui.views import RunState
from remote.checks.model import Verdict
from tests.pilot.fake_session import RUN_ID, FakeSession, FrozenClock, earlier_run
from tests.pilot.painted import shows, text, until


def make(**values: Any) -> FakeSession:
    clock = FrozenClock()
    return FakeSession(clock=clock, wall_clock=clock.wall, **values)


@asynccontextmanager
async def running(
    session: FakeSession, size: tuple[int, int] = (120, 35), **values: Any
) -> AsyncIterator[tuple[HeteroApp, Pilot[int]]]:
    app = HeteroApp(session, **values)
    async with app.run_test(size=size) as pilot:
        yield app, pilot


@asynccontextmanager
async def monitoring(
    session: FakeSession, size: tuple[int, int] = (120, 35), **values: Any
) -> AsyncIterator[tuple[HeteroApp, Pilot[int], MonitorScreen]]:
    session.run_id = RUN_ID
    for rank in range(len(session.fake_hosts)):
        session.hello(rank)
    session.join()
    session.steps(40)
    async with running(session, size, start="monitor", **values) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await shows(pilot, "training", "gaming-pc")
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        yield app, pilot, screen


async def checked(app: HeteroApp, pilot: Pilot[int]) -> ChecklistScreen:
    screen = app.screen
    assert isinstance(screen, ChecklistScreen)
    await until(pilot, lambda: len(screen.state.results) == 46 and not screen.state.running)
    screen.pull()
    await pilot.pause()
    return screen


async def test_the_checklist_runs_by_itself_and_goes_to_the_first_failure() -> None:
    session = make(failing=True)
    async with running(session) as (app, pilot):
        screen = await checked(app, pilot)
        assert session.connects == 1
        await shows(pilot, "✖ fail", "Docker Engine · laptop", "sudo usermod -aG docker anna", "permission denied")
        assert screen.state.counts()[Verdict.FAIL] == 1
        assert "4/4 hosts connected" in text(app)


class LastWord(Screen[None]):
    """Says that a run was found when it is closed."""

    def on_unmount(self) -> None:
        self.app.post_message(RunsFound(()))
        self.app.post_message(Attached())
        self.app.post_message(LaunchEnded())


async def test_what_is_told_while_the_app_closes_opens_nothing() -> None:
    session = make()
    async with running(session) as (app, pilot):
        app.push_screen(LastWord())
        await until(pilot, lambda: isinstance(app.screen, LastWord))
    assert app.screen_stack == []
    assert not app.watching


async def test_one_check_or_all_run_again() -> None:
    session = make(failing=True)
    async with running(session) as (app, pilot):
        await checked(app, pilot)
        session.failing = False
        await pilot.press("r")
        await until(pilot, lambda: session.checked[-1] == (frozenset({"engine"}), frozenset({"laptop"})))
        screen = await checked(app, pilot)
        assert Verdict.FAIL not in screen.state.counts()
        await pilot.press("R")
        await until(pilot, lambda: session.checked[-1] == (None, None) and len(session.checked) == 3)
        assert session.connects == 2


async def test_failing_first_and_copying_the_fix() -> None:
    async with running(make(failing=True)) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("exclamation_mark")
        await shows(pilot, "Docker Engine · laptop")
        lines = text(app).splitlines()
        assert next(line for line in lines[3:] if line.strip()).startswith(" Docker Engine")
        await pilot.press("y")
        assert app.clipboard == "sudo usermod -aG docker anna"


async def test_from_checklist_to_monitor() -> None:
    session = make()
    async with running(session) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await shows(pilot, "4 ranks on 4 hosts", "python3 -m trainer", "gloo, because laptop has no CUDA device")
        assert "MASTER_PORT=29500" not in text(app)
        await pilot.press("e")
        await shows(pilot, "MASTER_PORT=29500", "/data/cifar -> /data")
        assert not session.run_id
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        session.join()
        session.steps(20)
        await shows(pilot, "samples/s (10 s)", "● training", "gaming-pc", "step 20/2 000")


async def test_a_failing_check_asks_before_the_launch() -> None:
    session = make(failing=True)
    async with running(session) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await shows(pilot, "'engine' fails on laptop")
        await pilot.press("n")
        assert not session.run_id
        await pilot.press("enter", "y")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))


async def test_a_failed_launch_says_why_and_leads_back() -> None:
    session = make(launch_fails="workstation")
    async with running(session) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await shows(pilot, "Launch failed", "could not select device driver", "install the NVIDIA container toolkit")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ChecklistScreen))
        assert session.store.cluster_view().state.ended
        session.launch_fails = ""
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))


async def test_a_plan_that_can_not_be_made_is_a_message() -> None:
    async with running(make(plan_fails="laptop has no usable device")) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await shows(pilot, "laptop has no usable device", "mend cluster.toml")
        await pilot.press("escape")
        assert isinstance(app.screen, ChecklistScreen)


async def test_auto_launch_goes_on_when_nothing_fails() -> None:
    async with running(make(simulated=True), auto_launch=True) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await shows(pilot, "SIMULATED SPEEDS")


async def test_auto_launch_stops_at_a_failure() -> None:
    session = make(failing=True)
    async with running(session, auto_launch=True) as (app, pilot):
        await checked(app, pilot)
        assert isinstance(app.screen, ChecklistScreen)
        assert not session.run_id


@pytest.mark.parametrize(("key", "accepted"), [("y", True), ("n", False), ("escape", False), ("enter", False)])
async def test_an_unknown_host_key_is_shown_and_decided_by_a_person(key: str, accepted: bool) -> None:
    session = make(unknown_key="laptop")
    async with running(session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await shows(pilot, "SHA256:p5xKz0o4mJ7T0P2rXx2q9mC1m0yZ6QJ3h1q3S0Q2k9E", "ssh-keygen -lf", "known_hosts")
        assert session.key_accepted is None
        await pilot.press(key)
        await until(pilot, lambda: session.key_accepted is accepted)
        await checked(app, pilot)


async def test_a_host_that_can_not_be_reached_is_named_with_the_reason() -> None:
    async with running(make(unreachable=frozenset({"laptop"}))) as (app, pilot):
        screen = await checked(app, pilot)
        await pilot.press("right", "right")
        await shows(pilot, "no answer on port 22 within 5 s", "3/4 hosts connected")
        assert screen.state.counts()[Verdict.UNKNOWN] >= 11


async def test_an_earlier_run_can_be_taken_over() -> None:
    session = make(earlier=earlier_run())
    async with running(session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await shows(pilot, RUN_ID, "running on 4 of 4 hosts")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        assert session.run_id == RUN_ID
        await shows(pilot, "step 40/2 000")


async def test_an_earlier_run_can_be_left_alone() -> None:
    session = make(earlier=earlier_run())
    async with running(session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("escape")
        await checked(app, pilot)
        assert not session.run_id


async def test_tabs_by_number_and_logs_of_a_rank() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, screen):
        for key, piece in (
            ("2", "shares fit speeds"),
            ("3", "Learning rate"),
            ("4", "Log of all ranks"),
            ("5", "joined a group of 4"),
            ("1", "Cluster · now"),
        ):
            await pilot.press(key)
            await shows(pilot, piece)
        session.output(1, "only from the workstation")
        await pilot.press("down", "enter")
        await shows(pilot, "Log of rank 1", "only from the workstation")
        assert "step 0 loss" not in text(app)
        await pilot.press("escape")
        await shows(pilot, "Log of all ranks", "step 0 loss")
        assert screen.tab == "logs"


async def test_freezing_the_screen_never_stops_consuming() -> None:
    session = make()
    async with monitoring(session) as (_app, pilot, _screen):
        await pilot.press("space")
        await shows(pilot, "SCREEN PAUSED", "Unfreeze")
        session.steps(10)
        await pilot.pause(0.25)
        await shows(pilot, "step 40/2 000")
        assert session.store.cluster_view().step == 50
        await pilot.press("space")
        await shows(pilot, "step 50/2 000")


async def test_what_a_person_can_do_to_a_run() -> None:
    session = make(simulated=True)
    async with monitoring(session) as (app, pilot, _screen):
        await pilot.press("p")
        await until(pilot, lambda: session.controls[-1:] == [({"command": "pause"}, None)])
        await shows(pilot, "‖ paused", "Resume")
        await pilot.press("p")
        await until(pilot, lambda: session.controls[-1] == ({"command": "resume"}, None))
        await pilot.press("c")
        await until(pilot, lambda: session.controls[-1] == ({"command": "checkpoint"}, None))
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("enter")
        await until(pilot, lambda: session.controls[-1] == ({"command": "policy", "policy": "equal"}, None))
        await pilot.press("down", "down", "s")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await shows(pilot, "Simulated speed of laptop")
        await pilot.press("down", "enter")
        slow = ({"command": "simulate", "samples_per_second": 22.5}, frozenset({"laptop"}))
        await until(pilot, lambda: session.controls[-1] == slow)


async def test_a_host_is_excluded_after_a_question_with_its_cost_and_admitted_without_one() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, screen):
        assert screen.cursor_host == "gaming-pc"
        await pilot.press("down", "e")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await shows(pilot, "Exclude workstation?", "Rank 1 on workstation", "Predicted: it costs", "warm spare")
        await pilot.press("n")
        await pilot.press("e", "y")
        await until(pilot, lambda: len(session.controls) == 1)
        message, hosts = session.controls[0]
        assert (message["command"], message["host"], hosts) == ("exclude", "workstation", None)
        assert message["by"]
        session.steps(1)
        await shows(pilot, "⊘ excluded", "Admit", "workstation excluded by")
        await pilot.press("e")
        await until(pilot, lambda: len(session.controls) == 2)
        assert session.controls[1][0]["command"] == "admit"
        session.steps(1)
        await until(pilot, lambda: "⊘ excluded" not in text(app))


async def test_the_last_host_that_computes_is_not_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _screen):
        for host in ("workstation", "laptop", "old-server"):
            session.exclude(host, admit=False, by="anna")
        session.steps(1)
        assert {title for title, *_ in _entries(app)} >= {"Exclude host gaming-pc", "Admit host laptop"}
        told: list[str] = []
        monkeypatch.setattr(app, "notify", lambda text, **_options: told.append(text))
        await pilot.press("e")
        await until(pilot, lambda: told == ["gaming-pc cannot be excluded: no other host is left to compute"])
        assert not isinstance(app.screen, Confirm)
        assert session.controls == []
        app.readonly = True
        assert not [title for title, *_ in _entries(app) if title.startswith(("Exclude", "Admit"))]
        await pilot.press("down", "e")
        assert session.controls == []


def _entries(app: HeteroApp) -> list[tuple[str, str, Callable[[], object]]]:
    return list(RunCommands(app.screen)._entries())


async def test_stopping_names_its_target_and_asks() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _screen):
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await shows(pilot, f"Stop run {RUN_ID}?", "on 4 hosts: gaming-pc,", "laptop, old-server.")
        await pilot.press("n")
        assert not session.ended.is_set()
        await pilot.press("x", "y")
        await until(pilot, lambda: session.store.cluster_view().state is RunState.STOPPED)
        await shows(pilot, "■ stopped")
        await pilot.press("x")
        assert not isinstance(app.screen, Confirm)


async def test_quitting_says_that_training_goes_on() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _screen):
        await pilot.press("q")
        await shows(pilot, "Training goes on without this program. Run hetero-tui again to reattach.")
        await pilot.press("n")
        assert not session.closed
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: session.closed)
    assert not session.stop_asked
    assert app.return_value == 0


async def test_without_a_run_q_leaves_at_once() -> None:
    session = make()
    async with running(session) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("q")
        await until(pilot, lambda: session.closed)
    assert app.return_value == 0


async def test_help_explains_the_focused_pane() -> None:
    async with monitoring(make()) as (app, pilot, _screen):
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await shows(pilot, "One row a rank", "1 to 5 change the tab")
        await pilot.press("escape")
        assert isinstance(app.screen, MonitorScreen)


async def test_readonly_changes_nothing() -> None:
    session = make()
    async with monitoring(session, readonly=True) as (app, pilot, screen):
        for key in ("p", "x", "b", "c", "s"):
            await pilot.press(key)
            assert app.screen is screen
        assert not session.controls
        assert "Stop" not in text(app)
    session = make()
    async with running(session, readonly=True) as (app, pilot):
        await checked(app, pilot)
        await pilot.press("enter")
        assert isinstance(app.screen, ChecklistScreen)


async def test_a_failed_run_shows_the_first_failure_first() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _screen):
        session.fail(0, "RuntimeError: Connection closed by peer")
        session.fail(2, "torch.OutOfMemoryError: CUDA [out] of memory", "Traceback\n  File 'x.py' [rank2]")
        for rank in (1, 3):
            session.fail(rank, "RuntimeError: Connection reset by peer")
        session.ended.set()
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await shows(pilot, "Rank 2 on laptop failed first at step 40 (exit code 1)", "CUDA [out] of memory", "[rank2]")
        await pilot.press("escape")
        await shows(pilot, "✖ failed")
        await pilot.press("q")
        await until(pilot, lambda: session.closed)
    assert (app.return_value, app.return_code) == (1, 1)


async def test_an_unexpected_error_in_a_worker_is_a_dialog_not_a_crash() -> None:
    session = make()

    async def broken(*_: object) -> None:
        raise ValueError("[/dev/nvidia0] \x1b[2Jbroken")

    session.connect = broken  # type: ignore[assignment,method-assign]
    async with running(session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await shows(pilot, "ValueError: [/dev/nvidia0] broken")
        await pilot.press("escape")
        assert isinstance(app.screen, ChecklistScreen)


async def test_the_palette_knows_ranks_and_hosts() -> None:
    session = make()
    async with monitoring(session) as (_app, pilot, screen):
        session.output(2, "from the laptop")
        await pilot.press("ctrl+p")
        await pilot.press(*"log of rank 2")
        await shows(pilot, "Log of rank 2 on laptop")
        await pilot.press("enter")
        await until(pilot, lambda: screen.is_current and screen.tab == "logs")
        await shows(pilot, "Log of rank 2", "from the laptop")


def test_the_app_loads_neither_torch_nor_ssh_nor_docker() -> None:
    code = (
        "import sys, hetero_tui.app; print([m for m in ('torch', 'numpy', 'asyncssh', 'docker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"

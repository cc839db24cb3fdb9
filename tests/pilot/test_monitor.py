"""The monitor's figures, charts, log and events, as they are painted; one app start for several looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_tui.app import HeteroApp, binding_ids
from hetero_tui.screens.dialogs import Ask, ErrorDialog
from hetero_tui.screens.jump import JumpScreen
from hetero_tui.screens.monitor import MonitorScreen
from hetero_tui.settings import load_settings
from hetero_tui.widgets import log_export
from hetero_tui.widgets.charts_pane import ChartsPane
from hetero_tui.widgets.log_chips import LogChips
from hetero_tui.widgets.log_pane import LogPane
from hetero_tui.widgets.rank_table import RankTable
from remote.errors import UserError
from tests.pilot.fake_session import FakeHost
from tests.pilot.painted import painted, shows, text, until
from tests.pilot.test_flow import make, monitoring, running


async def test_the_balance_tab_names_the_straggler_its_cause_its_cost_and_a_life_without_it() -> None:
    session = make()
    async with monitoring(session, (120, 35)) as (app, pilot, screen):
        await pilot.press("2")
        # Equal shares: the slowest device makes everybody wait.
        await shows(pilot, "! rank 3 on old-server: slow device", "costs", "What if", "without old-server", "Imbalance")
        row = next(line for line in painted(app) if "without old-server" in line)
        assert "+" not in row.rsplit("old-server", 1)[1] or "%" in row
        session.balance("measured")
        session.event_seconds += 20
        session.steps(60)
        screen.pull()
        await shows(pilot, "no rank makes the others wait")


def test_the_footer_may_ask_for_the_host_before_there_are_panes() -> None:
    assert MonitorScreen(make()).cursor_host == ""


async def test_charts_zoom_and_show_the_values_of_all_ranks_at_the_cursor() -> None:
    async with monitoring(make(), (160, 45)) as (app, pilot, screen):
        await pilot.press("3")
        await shows(pilot, "Loss · now", "Learning rate", "Step time by rank", "the newest step", "step 0")
        await pilot.press("left", "left")
        await shows(pilot, "Data + compute · step 3", "Loss · step 3")
        rows = [line for line in painted(app) if " ms" in line or " s " in line]
        assert sum("gaming-pc" in row or "old-server" in row for row in rows) >= 2
        await pilot.press("plus", "plus")
        await until(pilot, lambda: "step 0" not in text(app))
        await pilot.press("0")
        await shows(pilot, "the newest step", "step 0")
        assert screen.focused is screen.query_one(ChartsPane)


async def test_the_log_levels_marks_matches_and_takes_the_whole_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = make()
    async with monitoring(session, (120, 35)) as (app, pilot, _screen):
        for number in range(30):
            session.output(number % 4, f"plain line {number}")
        session.output(2, "ValueError: something broke: an error")
        session.output(1, "UserWarning: slow disk")
        await pilot.press("4", "v")
        await shows(pilot, "[warnings]", "2 of 37 lines", "ValueError", "UserWarning")
        assert "plain line" not in text(app)
        await pilot.press("v")
        await shows(pilot, "[errors]", "ValueError")
        assert "UserWarning" not in text(app)
        await pilot.press("v", "slash", *"line 2", "enter", "h")
        await shows(pilot, "marked: line 2", "plain line 5", "plain line 29")
        await pilot.press("N")
        await shows(pilot, "FOLLOW OFF")
        await pilot.press("z")
        await until(pilot, lambda: "hetero-tui" not in painted(app)[0])
        await pilot.press("z", "right_square_bracket")
        await shows(pilot, "Log of rank 0", "hetero-tui")
        await pilot.press("y")
        await until(pilot, lambda: (tmp_path / "hetero-tui" / "copied.txt").exists())
        assert "plain line" in (tmp_path / "hetero-tui" / "copied.txt").read_text("utf-8")


async def test_level_and_rank_of_the_log_are_chosen_by_mouse() -> None:
    session = make()
    async with monitoring(session, (120, 35)) as (app, pilot, screen):
        for number in range(8):
            session.output(number % 4, f"plain line {number}")
        session.output(2, "ValueError: something broke: an error")
        await pilot.press("4")
        await shows(pilot, " level [all] warnings  errors  rank [all] 0  1  2  3 ", "plain line 1")
        row = next(line for line in painted(app) if " rank [all]" in line)
        chips = screen.query_one("#logs", LogPane).query_one(LogChips)
        await pilot.click(chips, offset=(row.index(" 2 "), 0))
        await shows(pilot, "rank  all  0  1 [2] 3 ", "Log of rank 2", "plain line 2", "ValueError")
        assert "plain line 1" not in text(app)
        await pilot.click(chips, offset=(row.index("errors"), 0))
        await shows(pilot, "level  all  warnings [errors]", "ValueError")
        assert "plain line 2" not in text(app)


async def test_of_many_ranks_the_chips_next_to_the_chosen_one_are_shown() -> None:
    session = make(
        fake_hosts=[FakeHost("gaming-pc", 90.0), *(FakeHost(f"node{number:03}", 50.0) for number in range(1, 64))]
    )
    async with monitoring(session, (80, 24)) as (app, pilot, _screen):
        await pilot.press("4")
        await shows(pilot, "rank [all] 0  1  2 ", " … ")
        await pilot.press(*["left_square_bracket"] * 30)
        await shows(pilot, " …  ", " 33 [34] 35 ")
        assert not any(len(line.rstrip()) > 80 for line in painted(app))


async def test_failures_say_what_they_mean_and_fold_what_followed() -> None:
    session = make()
    async with monitoring(session, (100, 30)) as (app, pilot, _screen):
        session.fail(0, "RuntimeError: Connection closed by peer")
        session.fail(2, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        await pilot.press("5")
        await shows(pilot, "rank 2 on laptop failed first", "means:", "next:", "followed from it: rank 0 lost a peer")
        session.fail(1, "RuntimeError: Connection reset by peer")
        session.fail(3, "RuntimeError: Connection reset by peer")
        session.ended.set()
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await shows(pilot, "That means:", "Followed from it: rank 0, 1, 3 lost a peer.")


async def test_ranks_are_filtered_by_host_and_words_and_sorted_anew() -> None:
    hosts = [FakeHost("gaming-pc", 256.0), FakeHost("laptop", 45.0, "cpu"), FakeHost("server", 40.0, "cpu")]
    session = make(fake_hosts=hosts)
    async with monitoring(session) as (app, pilot, screen):
        table = screen.query_one(RankTable)
        await pilot.press("down", "d")
        await shows(pilot, "1 of 3 ranks match 'laptop'")
        assert screen.cursor_host == "laptop"
        await pilot.press("escape", "slash")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"!cpu", "enter")
        await shows(pilot, "1 of 3 ranks match '!cpu'")
        await pilot.press("escape")
        app.show_host("server")
        await shows(pilot, "1 of 3 ranks match 'server'")
        await pilot.press("escape", "ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, JumpScreen))
        await pilot.press("a")
        await until(pilot, lambda: app.screen is screen)
        assert screen.focused is table


async def test_a_persons_own_theme_and_keys(tmp_path: Path) -> None:
    folder = tmp_path / "hetero-tui"
    folder.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load_settings(environ).keys == {}
    config = folder / "config.toml"
    config.write_text('theme = "colour-blind"\n[keys]\nmonitor.charts = "f9"\n', encoding="utf-8")
    session = make()
    async with monitoring(session, settings=load_settings(environ)) as (app, pilot, screen):
        assert app.theme == "colour-blind"
        await pilot.press("f9")
        assert screen.tab == "charts"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('theme = "colour-blnd"', "there is no theme 'colour-blnd'; did you mean 'colour-blind'?"),
        ('[keys]\n"monitor.puase" = "f5"', "did you mean 'monitor.pause'?"),
        ("keys = 3", "keys must be a table"),
        ("[keys]\nlog.follow = 7", "keys.log.follow must be a key in quotes"),
        ("colour = true", "there is no key 'colour'"),
        ("theme = ", "cannot be read"),
    ],
)
def test_mistakes_in_the_settings_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "hetero-tui").mkdir()
    (tmp_path / "hetero-tui" / "config.toml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        HeteroApp(make(), settings=load_settings({"XDG_CONFIG_HOME": str(tmp_path)}))
    assert told in str(caught.value)
    assert "config.toml" in str(caught.value)


def test_every_binding_that_a_person_sees_has_an_id() -> None:
    ids = binding_ids()
    assert {"monitor.pause", "log.follow", "ranks.sort", "charts.zoom_in", "app.quit"} <= ids


def test_the_pager_is_the_persons_own() -> None:
    assert log_export.pager_command({"PAGER": "less -R +G"}) == ["less", "-R", "+G"]
    with pytest.raises(ValueError, match="quot"):
        log_export.pager_command({"PAGER": "less 'x"})


async def test_readonly_offers_nothing_that_changes_the_run_in_the_palette() -> None:
    async with running(make(), readonly=True) as (app, _pilot):
        assert not any(app.control.offers(action) for action in ("pause_run", "stop_run", "checkpoint", "policy"))

"""What is really painted: the newest line, hostile text, a thousand ranks, every size, ASCII only."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection

from hetero_tui.app import HeteroApp
from hetero_tui.screens.monitor import TABS, MonitorScreen
from hetero_tui.views import LogRecord
from hetero_tui.widgets.line_chart import nice_range, plot
from hetero_tui.widgets.log_pane import log_entry
from hetero_tui.widgets.rank_table import RankTable
from hetero_tui.widgets.ring_log import RingLog
from hetero_tui.windows import Point, Ring
from tests.pilot.fake_session import FakeHost, FakeSession
from tests.pilot.painted import painted, shows, text, until
from tests.pilot.test_flow import checked, make, monitoring, running


class LogApp(App[None]):
    """One log pane over one ring."""

    def __init__(self, capacity: int = 1000) -> None:
        super().__init__()
        self.ring: Ring[LogRecord] = Ring(capacity)
        self.painted_lines = 0

    def compose(self) -> ComposeResult:
        app = self

        class Counted(RingLog[LogRecord]):
            def render_line(self, y: int) -> Any:
                app.painted_lines += 1
                return super().render_line(y)

        yield Counted(lambda: self.ring, log_entry, mark=lambda: self.ring.append(LogRecord(0, "", -1, "", "mark")))

    @property
    def log_pane(self) -> RingLog[LogRecord]:
        return self.query_one(RingLog)

    def feed(self, *lines: str) -> None:
        for line in lines:
            self.ring.append(LogRecord(0.0, "pc", 0, line))


async def settle(app: LogApp, pilot: Pilot[None]) -> None:
    app.log_pane.pull()
    await pilot.pause()


async def test_the_newest_line_is_on_screen_at_and_beyond_the_cap() -> None:
    app = LogApp(capacity=100)
    async with app.run_test(size=(60, 12)) as pilot:
        for batch in range(30):
            app.feed(*(f"line {batch * 10 + number}" for number in range(10)))
            await settle(app, pilot)
            shown = painted(app)
            assert f"line {batch * 10 + 9}" in shown[-1] or batch == 0
            assert any(f"line {batch * 10 + 9} " in f"{line} " for line in shown)


async def test_what_replaces_the_whole_screen_is_painted_every_other_time_and_the_last_line_is_never_left_out() -> None:
    app = LogApp(capacity=5_000)
    async with app.run_test(size=(60, 12)) as pilot:
        newest = []
        for batch in range(6):
            app.feed(*(f"line {batch * 100 + number}" for number in range(100)))
            await settle(app, pilot)
            newest.append(painted(app)[-1].split()[-1])
        assert newest == ["99", "199", "199", "399", "399", "599"], "the first one laid the pane out"
        app.feed(*(f"line {number}" for number in range(600, 700)))
        await settle(app, pilot)
        await settle(app, pilot)
        assert "line 699" in painted(app)[-1]
        app.log_pane.focus()
        app.feed(*(f"line {number}" for number in range(700, 800)))
        await pilot.press("m")
        assert "mark" in painted(app)[-1], "what somebody asks for is done at once"


async def test_holding_keeps_the_place_while_old_lines_are_dropped() -> None:
    app = LogApp(capacity=100)
    async with app.run_test(size=(60, 12)) as pilot:
        app.log_pane.focus()
        app.feed(*(f"line {number}" for number in range(100)))
        await settle(app, pilot)
        await pilot.press("up", "up", "up")
        await until(pilot, lambda: not app.log_pane.follow)
        top = painted(app)[0]
        app.feed(*(f"line {number}" for number in range(100, 150)))
        await settle(app, pilot)
        assert painted(app)[0] == top
        assert app.log_pane.new_since_hold > 0
        app.feed(*(f"line {number}" for number in range(150, 400)))
        await settle(app, pilot)
        assert "line 300" in painted(app)[0]  # the place itself was dropped: the oldest line that is left
        await pilot.press("f")
        assert "line 399" in painted(app)[-1]
        app.feed("the next one")
        await settle(app, pilot)
        assert "the next one" in painted(app)[-1]


async def test_scrolling_to_the_end_follows_again() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.log_pane.focus()
        app.feed(*(f"line {number}" for number in range(100)))
        await settle(app, pilot)
        await pilot.press("home")
        assert "line 0" in painted(app)[0]
        await until(pilot, lambda: not app.log_pane.follow)
        await pilot.press("end")
        await until(pilot, lambda: app.log_pane.follow)
        assert "line 99" in painted(app)[-1]


async def test_a_filter_shows_what_matches_and_can_be_inverted() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.feed(*(f"line {number} {'loss' if number % 10 == 0 else 'text'}" for number in range(100)))
        await settle(app, pilot)
        app.log_pane.set_filter("LOSS$")
        await settle(app, pilot)
        assert app.log_pane.shown == 10
        app.feed("one more loss", "and more text")
        await settle(app, pilot)
        assert app.log_pane.shown == 11
        assert "one more loss" in painted(app)[10]
        app.log_pane.set_filter("!loss")
        await settle(app, pilot)
        assert app.log_pane.shown == 91
        app.log_pane.set_filter("[not a regular expression")
        await settle(app, pilot)
        assert app.log_pane.shown == 0
        app.log_pane.set_filter("")
        await settle(app, pilot)
        assert app.log_pane.shown == 102


async def test_wrapping_marks_and_times() -> None:
    app = LogApp()
    async with app.run_test(size=(40, 12)) as pilot:
        app.log_pane.focus()
        app.feed("start " + "x" * 50 + " finish")
        await settle(app, pilot)
        assert "finish" not in text(app)
        await pilot.press("w")
        assert "finish" in text(app)
        await pilot.press("t")
        assert "00:00:00" in text(app)
        await pilot.press("m")
        assert "── mark" in text(app)
        assert "---- mark" in app.log_pane.all_text(), "also in what is saved and paged"


async def test_selected_text_is_copied_without_borders() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.feed("alpha beta", "gamma delta", "epsilon")
        await settle(app, pilot)
        prefix = len("   0 pc  ")
        app.screen.selections = {app.log_pane: Selection(Offset(prefix + 6, 0), Offset(prefix + 5, 1))}
        assert app.screen.get_selected_text() == "beta\n   0 pc  gamma"
        app.log_pane.focus()
        await pilot.press("y")
        assert app.clipboard == "beta\n   0 pc  gamma"


async def test_dragging_the_mouse_selects_lines() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.feed("alpha beta", "gamma delta", "epsilon")
        await settle(app, pilot)
        prefix = len("   0 pc  ")
        await pilot.mouse_down(RingLog, offset=(prefix, 0))
        await pilot.hover(RingLog, offset=(prefix + 5, 1))
        await pilot.mouse_up(RingLog, offset=(prefix + 5, 1))
        await pilot.pause()
        assert app.screen.get_selected_text() in ("alpha beta\n   0 pc  gamma", "alpha beta\n   0 pc  gamma ")


async def test_the_view_can_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = LogApp()
    async with app.run_test(size=(60, 12), notifications=True) as pilot:
        app.feed(*(f"line {number}" for number in range(100)))
        await settle(app, pilot)
        app.log_pane.set_filter("line 4")
        app.log_pane.focus()
        await pilot.press("ctrl+s")
        (saved,) = tmp_path.glob("hetero-tui-log-*.txt")
        assert saved.read_text().splitlines()[:2] == ["   0 pc  line 4", "   0 pc  line 40"]
        await shows(pilot, "11 lines saved")


async def test_a_flood_paints_a_bounded_number_of_lines_and_keeps_bounded_memory() -> None:
    app = LogApp(capacity=10_000)
    async with app.run_test(size=(120, 40)) as pilot:
        app.feed(*("x" * 100 for _ in range(10_000)))
        await settle(app, pilot)
        tracemalloc.start()
        app.painted_lines = 0
        for batch in range(20):
            app.feed(*(f"line {batch} {number} " + "x" * 80 for number in range(5_000)))
            await settle(app, pilot)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert app.ring.next == 110_000
        assert app.painted_lines <= 20 * 40 * 6
        assert used < 14_000_000  # all 100 000 lines would take more than 25 MB
        assert "line 19 4999" in painted(app)[-1]


HOSTILE = {
    "an escape sequence": ("\x1b[2J\x1b[Hwiped", "wiped"),
    "a clipboard write": ("\x1b]52;c;ZXZpbA==\x07copied", "copied"),
    "an 8 bit sequence": ("\x9b31mred", "red"),
    "a rank prefix": ("[rank0]: step=1", "[rank0]: step=1"),
    "broken markup": ("[/dev/nvidia0] [bold", "[/dev/nvidia0] [bold"),
    "a progress bar": ("10%\r20%\r30%", "30%"),
    "invalid UTF-8": (b"caf\xe9 \xff".decode("utf-8", "replace"), "caf\ufffd \ufffd"),
    "wide characters": ("\u4e16\u754c ok", "\u4e16\u754c ok"),
    "a megabyte": ("A" * 1_000_000, "AAAA"),
}


async def test_hostile_lines_are_harmless() -> None:
    session = make()
    async with monitoring(session) as (app, pilot, _screen):
        await pilot.press("4")
        for raw, shown in HOSTILE.values():
            session.output(0, raw)
            session.ingest.feed_line("gaming-pc", raw)
            await shows(pilot, shown)
            assert all(line.isprintable() for line in painted(app)), shown
            for _wrapped in (True, False):
                await pilot.press("w")
                await shows(pilot, "following")
                assert all(line.isprintable() for line in painted(app)), shown


SIZES = [(30, 8), (60, 20), (80, 24), (80, 45), (100, 30), (120, 35), (160, 45), (240, 60)]


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_shows_every_tab(size: tuple[int, int]) -> None:
    async with monitoring(make(), size) as (app, pilot, screen):
        for index, name in enumerate(TABS):
            screen.action_tab(index)
            screen.pull()
            await pilot.pause()
            lines = painted(app)
            assert len(lines) == size[1]
            assert all(len(line) == size[0] for line in lines)
            assert "hetero-tui" in lines[0]
            assert "training" in lines[0] or size[0] < 60
            assert "samples/s" in lines[2]
            body = [line for line in lines[4:-1] if line.strip()]
            assert body, f"{name} is empty at {size}"
            if name == "overview":
                assert any("gaming-pc" in line for line in body)


async def test_every_size_shows_the_checklist() -> None:
    async with running(make(failing=True), SIZES[0]) as (app, pilot):
        await checked(app, pilot)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: len(painted(app)) == size[1])  # type: ignore[misc]
            await shows(pilot, "✖", "Docker Engine")


async def test_many_hosts_shrink_to_glyphs_and_scroll_sideways() -> None:
    hosts = [FakeHost(f"node{number:03}", 100.0) for number in range(40)]
    async with running(make(fake_hosts=hosts), (80, 24)) as (app, pilot):
        await until(pilot, lambda: "ready: enter reviews" in text(app))
        # Three lines of digits, read downwards, name the columns; what all names begin with is left out.
        assert [line.split()[-1] for line in painted(app)[2:5]] == ["0", "3", "0"]
        row = next(line for line in painted(app) if line.startswith("  SSH login"))
        assert row.count("✔") >= 30
        await pilot.press(*["right"] * 39)
        await shows(pilot, "SSH login · node039")
        assert [line.split()[-1] for line in painted(app)[2:5]] == ["0", "3", "9"]
        assert any(line.startswith("  SSH login") for line in painted(app))


async def test_a_thousand_ranks() -> None:
    hosts = [FakeHost(f"node{number:04}", 50.0 + number % 7) for number in range(1024)]
    session = make(fake_hosts=hosts, global_batch=16_384)
    session.run_id = "run"
    for rank in range(1024):
        session.hello(rank)
    session.join()
    session.steps(3)
    async with running(session, (120, 35), start="monitor") as (app, pilot):
        await shows(pilot, "node0000", "1024/1024 ranks")
        await pilot.press("end")
        await shows(pilot, "node1023")
        await pilot.press("o", "o", "o", "home")
        assert isinstance(app.screen, MonitorScreen)
        await pilot.press("enter")
        await shows(pilot, "Log of rank")


async def test_a_key_right_behind_new_rows_reaches_the_last_of_them() -> None:
    hosts = [FakeHost(f"node{number:04}", 50.0) for number in range(64)]
    session = make(fake_hosts=hosts)
    session.run_id = "run"
    session.hello(0)
    async with running(session, (120, 35), start="monitor") as (app, pilot):
        # The checklist, which is there first, names the hosts too.
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        await shows(pilot, "node0000")
        for rank in range(1, 64):
            session.hello(rank)
        table = app.screen.query_one(RankTable)
        table.pull()
        table.action_edge(1)
        await shows(pilot, "node0063")


async def test_the_cursor_stays_on_its_rank_when_the_order_changes() -> None:
    async with monitoring(make()) as (app, pilot, screen):
        await pilot.press("down", "down")
        assert screen.cursor_host == "laptop"
        await pilot.press("o", "o", "o")
        assert screen.cursor_host == "laptop"
        await pilot.press("O")
        assert screen.cursor_host == "laptop"
        assert "samples/s" in text(app)


async def test_ascii_only_paints_nothing_else() -> None:
    session = make(simulated=True)
    async with monitoring(session, (120, 35), ascii_only=True) as (app, pilot, screen):
        session.output(0, "r\u00e9sum\u00e9 \u4e16\u754c")
        for key in ("1", "2", "3", "4", "5", "question_mark", "q", "x", "b", "ctrl+p"):
            await pilot.press(key)
            if not key.isdecimal():
                await until(pilot, lambda: app.screen is not screen)
            await pilot.pause(0.15)
            beyond = {character for line in painted(app) for character in line if not character.isascii()}
            assert not beyond, key
            assert all(len(line) == 120 for line in painted(app)), key
            if not key.isdecimal():
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is screen)


async def test_ascii_only_checklist() -> None:
    async with running(make(failing=True), (120, 35), ascii_only=True) as (app, pilot):
        await checked(app, pilot)
        assert text(app).isascii()
        assert "x fail" in text(app)


async def test_every_theme_paints() -> None:
    async with monitoring(make()) as (app, pilot, screen):
        for theme in ("textual-light", "ansi-dark", "ansi-light", "nord", "textual-dark"):
            app.theme = theme
            await pilot.pause()
            for key in ("2", "3", "4", "5", "1", "question_mark"):
                await pilot.press(key)
            await shows(pilot, "Keys and panes")
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)


async def test_no_color_keeps_words_and_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(make(failing=True)) as (app, pilot):
        await checked(app, pilot)
        await shows(pilot, "✖ fail", "! warn", "? unknown", "– skip", "✔ ok")


async def test_an_idle_monitor_paints_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make()
    async with monitoring(session) as (_app, _pilot, screen):
        count = 0

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def refresh(*arguments: Any, **values: Any) -> Any:
                nonlocal count
                count += 1
                return original(*arguments, **values)

            return refresh

        for widget in screen.query(".live"):
            monkeypatch.setattr(widget, "refresh", counted(widget.refresh))
        for _ in range(50):
            screen.pull()
        assert count <= 2


def test_a_chart_has_round_ends_and_holds_its_values() -> None:
    assert nice_range(0.31, 2.74, zero_based=False) == (0.0, 3.0)
    assert nice_range(480.0, 508.0, zero_based=True) == (0.0, 600.0)
    assert nice_range(5.0, 5.0, zero_based=False)[1] > 5.0
    cells = plot([Point(0, 0.0, 0.0, 0.0), Point(9, 1.0, 1.0, 1.0)], 10, 4, 0.0, 1.0)
    assert cells[3][0]
    assert cells[0][9]
    assert not cells[0][0]
    assert not cells[3][9]
    assert all(any(row[column] for row in cells) for column in range(10))


def test_a_chart_of_one_point_is_a_line() -> None:
    cells = plot([Point(3, 0.5, 0.5, 0.5)], 8, 3, 0.0, 1.0)
    assert all(any(row[column] for row in cells) for column in range(8))


async def test_the_app_does_not_end_on_a_changed_window_size() -> None:
    async with monitoring(make()) as (app, pilot, _screen):
        for size in ((200, 60), (20, 5), (80, 24), (1, 1), (120, 35)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        await shows(pilot, "gaming-pc")
        assert isinstance(app, HeteroApp)
        assert isinstance(app.session, FakeSession)

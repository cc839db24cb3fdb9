"""The run, live: who computes, who waits, how the shares move, loss, logs and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.geometry import Size
from textual.strip import Strip
from textual.widgets import ContentSwitcher

from hetero_tui.formats import percent, rate
from hetero_tui.messages import RankChosen
from hetero_tui.screens.base import LiveScreen
from hetero_tui.views import EFFICIENCY_DEFINITION, RankState, RunState
from hetero_tui.widgets.charts_pane import ChartsPane
from hetero_tui.widgets.diagnosis_lines import StragglerLines, WhatIfTable
from hetero_tui.widgets.failure_lines import FailureLines
from hetero_tui.widgets.header_bar import HeaderBar
from hetero_tui.widgets.heat_map import HeatMap
from hetero_tui.widgets.key_footer import KeyFooter
from hetero_tui.widgets.line_chart import LineChart
from hetero_tui.widgets.lines import LineView
from hetero_tui.widgets.log_pane import LogPane
from hetero_tui.widgets.rank_table import RankTable
from hetero_tui.widgets.share_bars import Rebalances, ShareBars
from hetero_tui.widgets.tab_strip import TabStrip
from hetero_tui.widgets.vitals import Vitals

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

TABS: Final = ("overview", "balance", "charts", "logs", "events")


class EfficiencyLines(LineView):
    """The efficiency, its three factors and its definition."""

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(id="efficiency")
        self._session = session
        self._seen = -1

    def pull(self) -> None:
        """Repaint when something came in."""
        if self._session.store.version != self._seen:
            self._seen = self._session.store.version
            self.refresh()

    def on_resize(self) -> None:
        """Never scroll."""
        self.virtual_size = Size(self.size.width, 3)

    def render_line(self, y: int) -> Strip:
        """Draw one of three lines."""
        width = self.size.width
        view = self._session.store.cluster_view()
        efficiency = view.efficiency
        line = self.line("header" if y == 0 else "")
        dot = f" {self.glyphs.dot} "
        if y == 0:
            total = percent(efficiency.total, 1) if efficiency else "–"
            line.add(" Efficiency ", self.tone("bold")).add(f"{total} of ideal", self.tone("accent"))
            if efficiency:
                ideal = f"{rate(view.samples_per_second)} of {rate(efficiency.ideal_samples_per_second)} samples/s"
                line.add(f"{dot}{ideal}", self.tone("dim"))
        elif y == 1 and efficiency:
            balance, jitter = percent(efficiency.balance, 1), percent(efficiency.jitter, 1)
            rest = percent(efficiency.communication, 1)
            names = ("shares fit speeds", "steady steps", "communication and rest")
            if width < 96:
                names = ("balance", "steadiness", "communication")
            for index, (name, value) in enumerate(zip(names, (balance, jitter, rest), strict=True)):
                line.add(" × " if index else " = ", self.tone("dim")).add(f"{name} ").add(value, self.tone("bold"))
        elif y == 2:
            line.add(f" {EFFICIENCY_DEFINITION}" if width >= 90 else " samples/s ÷ sum of speeds while computing, 10 s")
            return line.strip(width).apply_style(self.tone("dim"))
        return line.strip(width)


class MonitorScreen(LiveScreen):
    """Five tabs over one run."""

    TITLE = "Monitor"
    HELP = (
        "1 to 5 change the tab. Space pauses the screen, never the training. p pauses the training. "
        "e excludes the host under the cursor, or admits it again: an excluded host computes nothing and stays ready. "
        "Quitting never stops training."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"tab({number - 1})", name.title(), show=False, id=f"monitor.{name}")
            for number, name in enumerate(TABS, 1)
        ),
        Binding("space", "freeze(True)", "Freeze", id="monitor.freeze"),
        Binding("space", "freeze(False)", "Unfreeze", id="monitor.unfreeze"),
        Binding("p", "app.run('pause_run')", "Pause", id="monitor.pause"),
        Binding("p", "app.run('resume_run')", "Resume", id="monitor.resume"),
        Binding("s", "app.run('slow_host')", "Slow", id="monitor.slow"),
        Binding("b", "app.run('policy')", "Policy", id="monitor.policy"),
        Binding("e", "app.run('exclude_host')", "Exclude host", show=False, id="monitor.exclude"),
        Binding("e", "app.run('admit_host')", "Admit", id="monitor.admit"),
        Binding("c", "app.run('checkpoint')", "Checkpoint", show=False, id="monitor.checkpoint"),
        Binding("x", "app.run('stop_run')", "Stop", id="monitor.stop"),
        Binding("C", "checklist", "Checklist", id="monitor.checklist_after"),
        Binding("C", "app.show_checklist", "Checklist", show=False, id="monitor.checklist"),
    ]

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(session)
        self._failures = 0
        self._footer_follows: tuple[RunState, bool] | None = None

    def compose(self) -> ComposeResult:
        """Header, figures, tabs, footer."""
        yield self.header()
        yield Vitals(self.session)
        yield TabStrip(tuple(name.title() for name in TABS))
        with ContentSwitcher(initial="overview", id="switcher"):
            with Container(id="overview"):
                with Horizontal(id="overview-top"):
                    with Vertical(id="overview-left"):
                        yield RankTable(self.session)
                        yield ShareBars(self.session, id="overview-shares")
                        yield Rebalances(self.session, id="overview-rebalances")
                    with Vertical(id="overview-right"):
                        yield LineChart("Loss", lambda: self.session.store.loss_history, id="overview-loss")
                        yield LineChart(
                            "Cluster",
                            lambda: self.session.store.throughput_history,
                            unit=" samples/s",
                            zero_based=True,
                            tone="series-1",
                            id="overview-throughput",
                        )
                yield LogPane(self.session, "log", id="overview-log")
            with VerticalScroll(id="balance", can_focus=False):
                yield EfficiencyLines(self.session)
                yield StragglerLines(self.session)
                with Horizontal(id="balance-top"):
                    yield ShareBars(self.session, id="balance-shares")
                    yield HeatMap(self.session)
                with Horizontal(id="balance-bottom"):
                    yield LineChart(
                        "Imbalance",
                        lambda: self.session.store.imbalance_history,
                        zero_based=True,
                        tone="series-2",
                        id="imbalance",
                    )
                    yield WhatIfTable(self.session)
                yield Rebalances(self.session)
            yield ChartsPane(self.session)
            yield LogPane(self.session, "log", id="logs", chips=True)
            with Vertical(id="events"):
                yield FailureLines(self.session)
                yield LogPane(self.session, "events", id="events-pane")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Start on the table."""
        super().on_mount()
        self.query_one(RankTable).focus()

    @property
    def tab(self) -> str:
        """Name of the visible tab."""
        return self.query_one(ContentSwitcher).current or TABS[0]

    def action_tab(self, index: int) -> None:
        """Show a tab and put the focus where the keys are useful."""
        self.query_one(TabStrip).active = index
        self.query_one(ContentSwitcher).current = TABS[index]
        pane = self.query_one(f"#{TABS[index]}")
        # At once: a key that was typed right behind the tab's number is meant for the tab.
        if isinstance(pane, LogPane):
            self.set_focus(pane.log_view)
        elif TABS[index] == "events":
            self.set_focus(pane.query_one(LogPane).log_view)
        elif isinstance(pane, ChartsPane):
            self.set_focus(pane)
        else:
            self.set_focus(pane.query("RankTable, ShareBars").first())
        self.call_after_refresh(self.pull)

    @on(TabStrip.Chosen)
    def tab_chosen(self, message: TabStrip.Chosen) -> None:
        """Show the tab that was clicked."""
        self.action_tab(message.index)

    @on(RankChosen)
    def rank_chosen(self, message: RankChosen) -> None:
        """Show the log of the rank."""
        self.show_log(message.rank)

    def show_host(self, host: str) -> None:
        """Show the ranks of one host."""
        self.action_tab(TABS.index("overview"))
        self.query_one(RankTable).set_filter(host)

    def show_log(self, rank: int | None, host: str = "") -> None:
        """Go to the logs of one rank, one host, or all."""
        self.action_tab(TABS.index("logs"))
        self.query_one("#logs", LogPane).show_rank(rank, host)

    @property
    def cursor_host(self) -> str:
        """Host of the rank under the cursor; empty without ranks, and before the panes are there."""
        for table in self.query(RankTable):
            if (rank := table.cursor_rank) is not None:
                return self.session.store.rank_view(rank).host
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the one of two opposites that makes sense."""
        if action == "freeze":
            return parameters == (self.painting,)
        if action == "checklist":
            # The way back is in the footer when nothing else is left to do here.
            return self.session.store.cluster_view().state.ended
        return True

    async def action_checklist(self) -> None:
        """Go back to the checklist."""
        await self.run_action("app.show_checklist")

    def action_freeze(self, frozen: bool) -> None:
        """Pause or resume painting; lines and events keep coming in."""
        self.painting = not frozen
        self.query_one(HeaderBar).frozen = frozen
        self.refresh_bindings()
        self.pull()

    def tick(self) -> None:
        """Also tell of new failures and keep the footer true to the state of the run and of the cursor's rank."""
        super().tick()
        store = self.session.store
        rank = self.query_one(RankTable).cursor_rank
        is_excluded = rank is not None and store.rank_view(rank).state is RankState.EXCLUDED
        follows = (store.cluster_view().state, is_excluded)
        if follows != self._footer_follows:
            self._footer_follows = follows
            self.refresh_bindings()
        failures = store.failures
        if len(failures) > self._failures:
            first = failures[0]
            self._failures = len(failures)
            text = f"rank {first.rank} on {first.host}: {first.error}"
            self.notify(text[:300], title="A rank failed", severity="error", timeout=10, markup=False)

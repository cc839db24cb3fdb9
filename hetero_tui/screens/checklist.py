"""The setup checklist: runs by itself, shows what is wrong, why, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.strip import Strip
from textual.widgets import Input, Static

from hetero_tui.checklist import ORDER, ChecklistState, Place, affected
from hetero_tui.messages import CheckMoved, ChecksEnded, OperationFailed
from hetero_tui.sanitize import clean, clean_block
from hetero_tui.screens.base import LiveScreen
from hetero_tui.screens.check_detail import check_detail, group_detail
from hetero_tui.screens.fixing import FixEnded, Fixing, tell
from hetero_tui.session import PreparingSession
from hetero_tui.theme import VERDICT_TONES
from hetero_tui.widgets.checklist_grid import ChecklistGrid
from hetero_tui.widgets.key_footer import KeyFooter
from hetero_tui.widgets.lines import LineView
from remote.checks.model import Fix, Verdict
from remote.fixes import FixPlan, Way

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

BESIDE: Final = 16
"""Up to this many hosts the detail stands beside the grid where there is room; with more the grid needs the width."""


class ChecklistSummary(LineView):
    """One line: how many cells have answered, how many are ok, warn, fail, unknown, and what to do next."""

    def __init__(self, session: SessionProtocol, state: ChecklistState) -> None:
        super().__init__(id="summary")
        self._session = session
        self._state = state
        self._cells = 0
        self._seen: object = None

    def pull(self) -> None:
        """Repaint when a check moved."""
        connected = sum(status.phase == "connected" for status in self._session.hosts.values())
        seen = (self._state.version, connected)
        if seen != self._seen:
            self._seen = seen
            checks, hosts = self._session.checks, len(self._session.hosts)
            self._cells = sum(1 if check.scope == "cluster" else hosts for check in checks)
            self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the line."""
        width = self.size.width
        counts = self._state.counts()
        hosts = self._session.hosts.values()
        connected = sum(status.phase == "connected" for status in hosts)
        line = self.line().add(f" {connected}/{len(hosts)} hosts connected", self.tone("dim"))
        if self._state.running:
            answered, total = sum(counts.values()), max(self._cells, 1)
            bar = 10 if width >= 100 else 5
            filled = min(bar, bar * answered // total)
            line.add("   ").add(self.glyphs.compute * filled, self.tone("accent"))
            line.add(self.glyphs.wait * (bar - filled), self.tone("dim"))
            line.add(f" {answered}/{total} answered, {len(self._state.running)} running", self.tone("bold"))
        for verdict in reversed(ORDER):
            if counts[verdict]:
                piece = f"   {self.glyphs.verdicts[verdict]} {counts[verdict]} {verdict.value}"
                if line.width + cell_len(piece) <= width:
                    line.add(piece, self.tone(VERDICT_TONES[verdict]))
        if self._state.running or not counts:
            hint = ""
        elif counts[Verdict.FAIL]:
            hint = "   mend what fails (F runs a fix), then R"
        else:
            hint = "   ready: enter reviews the plan"
        for shown in (hint, "   mend what fails, then R" if counts[Verdict.FAIL] else ""):
            if line.width + len(shown) <= width:
                line.add(shown, self.tone("bold"))
                break
        return line.strip(width)


class ChecklistScreen(LiveScreen):
    """Grid and detail of the cell under the cursor."""

    TITLE = "Setup checklist"
    HELP = "Every host is checked for what makes training fail or hang. Nothing on a host is changed by a check."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "app.review_plan", "Launch…", id="checklist.launch"),
        Binding("r", "rerun_one", "Re-run", id="checklist.rerun"),
        Binding("R", "rerun_all", "Re-run all", show=False, id="checklist.rerun_all"),
        Binding("F", "run_fix", "Run fix", id="checklist.fix"),
        Binding("y", "copy_fix", "Copy fix", show=False, id="checklist.copy"),
        Binding("exclamation_mark", "failing_first", "Failing", key_display="!", id="checklist.failing"),
        Binding("slash", "filter", "Filter", key_display="/", id="checklist.filter"),
        Binding("m", "matrix", "Network", id="checklist.matrix"),
        Binding("p", "prediction", "Worth?", id="checklist.prediction"),
        Binding("escape", "clear_filter", "Clear filter", show=False, id="checklist.clear"),
        Binding("i", "app.show_images", "Images", show=False, id="checklist.images"),
        Binding("M", "app.show_monitor", "Monitor", id="checklist.monitor"),
    ]

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(session)
        self.state = ChecklistState()
        self._preflight = session.preflight if isinstance(session, PreparingSession) else None
        self._fixing = Fixing(self, self._preflight) if self._preflight is not None else None

    def compose(self) -> ComposeResult:
        """Header, summary, grid beside or above the detail, footer."""
        yield self.header()
        yield ChecklistSummary(self.session, self.state)
        yield Input(
            placeholder="filter: words of a check, a host, an answer; !word leaves out",
            id="checklist-filter",
            compact=True,
            select_on_focus=False,
        )
        many = len(self.session.inventory.hosts) > BESIDE
        with Container(id="checklist-body", classes="-many" if many else ""):
            yield ChecklistGrid(self.session, self.state)
            with VerticalScroll(id="detail", can_focus=True):
                yield Static(id="detail-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Start on the grid."""
        super().on_mount()
        self.query_one(ChecklistGrid).focus()
        self.show_detail(self.query_one(ChecklistGrid).place)

    def run_checks(self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None) -> None:
        """Run the checklist, or a part of it, in the background."""
        self.state.forget(
            place
            for place in tuple(self.state.results)
            if (only is None or place.check_id in only) and (hosts is None or place.host in hosts or not place.host)
        )
        self.run_worker(self._run(only, hosts), group="checks", exclusive=True, exit_on_error=False)

    async def _run(self, only: frozenset[str] | None, hosts: frozenset[str] | None) -> None:
        try:
            async for progress in self.session.run_checks(only, hosts):
                self.post_message(CheckMoved(progress))
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.post_message(OperationFailed("The checklist could not be run", error))
        self.post_message(ChecksEnded())

    @on(CheckMoved)
    def check_moved(self, message: CheckMoved) -> None:
        """Take in what a check did."""
        self.state.feed(message.progress)
        place = self.query_one(ChecklistGrid).place
        if place == Place(message.progress.check_id, message.progress.host):
            self.show_detail(place)

    @on(ChecksEnded)
    def checks_ended(self) -> None:
        """Everything has answered: go to the first failure."""
        self.state.ended()
        grid = self.query_one(ChecklistGrid)
        grid.sort_rows()
        failing = self.first_failure()
        current = self.state.results.get(grid.place) if grid.place else None
        if failing is not None and (current is None or current.finding.verdict is not Verdict.FAIL):
            grid.select(failing)
        self.show_detail(grid.place)
        self.hetero.checks_done(ok=failing is None and bool(self.state.results))

    def first_failure(self) -> Place | None:
        """Return the first failing cell in the order of the checklist."""
        hosts = ["", *(host.name for host in self.session.inventory.hosts)]
        for check in self.session.checks:
            for host in hosts:
                result = self.state.results.get(Place(check.id, host))
                if result is not None and result.finding.verdict is Verdict.FAIL:
                    return Place(check.id, host)
        return None

    @on(ChecklistGrid.CursorMoved)
    def cursor_moved(self, message: ChecklistGrid.CursorMoved) -> None:
        """Show the detail of the cell."""
        self.show_detail(message.place)

    def show_detail(self, place: Place | None) -> None:
        """Show why, the evidence and the fix."""
        text = self.query_one("#detail-text", Static)
        group = self.query_one(ChecklistGrid).group
        glyphs = self.hetero.glyphs.verdicts
        if place is not None:
            check = next(each for each in self.session.checks if each.id == place.check_id)
            plan = self._fix_plan(place)
            text.update(check_detail(check, place, self.state, self.session.hosts.get(place.host), plan, glyphs))
        elif group is not None:
            text.update(group_detail(group, self.state, tuple(self.session.hosts), glyphs))
        else:
            text.update(Content("No check passes the filter." if self.session.checks else "No checks."))
        self.query_one("#detail", VerticalScroll).scroll_home(animate=False)

    def _fix(self, place: Place | None) -> Fix | None:
        result = self.state.results.get(place) if place else None
        return result.finding.fix if result else None

    def _fix_plan(self, place: Place | None) -> FixPlan | None:
        fix = self._fix(place)
        if fix is None or self._preflight is None or self.hetero.readonly:
            return None
        return self._preflight.plan_fix(fix)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer only what this session can do; nothing that changes a host with ``readonly``."""
        match action:
            case "run_fix":
                return self._preflight is not None and not self.hetero.readonly
            case "matrix" | "prediction":
                return self._preflight is not None
            case _:
                return True

    def action_run_fix(self) -> None:
        """Show what the fix would run, and run it after a yes."""
        place = self.query_one(ChecklistGrid).place
        plan = self._fix_plan(place)
        if place is None or plan is None or self._fixing is None:
            self.notify("This cell has no fix to run", markup=False)
            return
        if plan.way is Way.BRING:
            self._show_data(place)
            return
        self._fixing.begin(place, plan)

    def _show_data(self, place: Place) -> None:
        """Show what the hosts lack of the data set, and let it be brought from there."""
        from hetero_tui.screens.data import DataScreen

        if self._preflight is not None:
            again = affected(self.session.checks, place.check_id)
            self.app.push_screen(DataScreen(self.session, self._preflight, lambda: self.run_checks(again)))

    @on(FixEnded)
    def fix_ended(self, message: FixEnded) -> None:
        """Say how it went, and ask again what the fix concerns."""
        checks = affected(self.session.checks, message.place.check_id)
        hosts = frozenset({message.place.host, message.plan.host} - {""})
        tell(self, message, lambda: self.run_checks(checks, hosts if message.place.host else None))

    def action_matrix(self) -> None:
        """Show the network between the hosts."""
        from hetero_tui.screens.matrix import MatrixScreen

        if self._preflight is not None:
            self.app.push_screen(MatrixScreen(self.session, self._preflight, self._probe_network))

    def _probe_network(self) -> None:
        sources = frozenset(check.id for check in self.session.checks if check.is_source)
        concerned = frozenset(each for source in sources for each in affected(self.session.checks, source))
        self.run_checks(concerned or None)

    def action_prediction(self) -> None:
        """Show what the cluster is predicted to do."""
        from hetero_tui.screens.prediction import PredictionScreen

        if self._preflight is not None:
            self.app.push_screen(PredictionScreen(self.session, self._preflight))

    def action_filter(self) -> None:
        """Type a filter."""
        field = self.query_one("#checklist-filter", Input)
        field.add_class("-shown")
        field.focus()

    def action_clear_filter(self) -> None:
        """Show everything again."""
        field = self.query_one("#checklist-filter", Input)
        field.value = ""
        field.remove_class("-shown")
        self.query_one(ChecklistGrid).focus()

    @on(Input.Changed, "#checklist-filter")
    def filter_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        grid = self.query_one(ChecklistGrid)
        grid.set_filter(event.value)
        event.input.border_title = f"{grid.shown} of {len(self.session.checks)}"

    @on(Input.Submitted, "#checklist-filter")
    def filter_done(self, event: Input.Submitted) -> None:
        """Go on in the grid; an empty filter disappears."""
        if not event.value:
            event.input.remove_class("-shown")
        self.query_one(ChecklistGrid).focus()

    def action_rerun_one(self) -> None:
        """Run the check under the cursor again, on its host."""
        place = self.query_one(ChecklistGrid).place
        if place is not None:
            self.run_checks(frozenset({place.check_id}), frozenset({place.host}) if place.host else None)

    def action_rerun_all(self) -> None:
        """Connect again where needed and run everything."""
        self.hetero.connect_and_check()

    def action_failing_first(self) -> None:
        """Put failing rows on top, or go back."""
        grid = self.query_one(ChecklistGrid)
        grid.set_failing_first(not grid.failing_first)

    def action_copy_fix(self) -> None:
        """Copy the commands of the fix, or its text."""
        fix = self._fix(self.query_one(ChecklistGrid).place)
        if fix is None:
            self.notify("This cell has no fix to copy", markup=False)
            return
        text = "\n".join(clean(command) for command in fix.commands) or clean_block(fix.text)
        self.app.copy_to_clipboard(text)
        self.notify(f"Sent to the terminal's clipboard (OSC 52): {text.splitlines()[0][:60]}", markup=False)

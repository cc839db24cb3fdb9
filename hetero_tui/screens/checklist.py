"""The setup checklist: runs by itself, shows what is wrong, why, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.strip import Strip
from textual.widgets import Footer, Static

from hetero_tui.checklist import ChecklistState, Place
from hetero_tui.messages import CheckMoved, ChecksEnded, OperationFailed
from hetero_tui.sanitize import clean, clean_block
from hetero_tui.screens.base import LiveScreen
from hetero_tui.theme import VERDICT_TONES
from hetero_tui.widgets.checklist_grid import ORDER, ChecklistGrid
from hetero_tui.widgets.lines import LineView
from remote.checks.model import CheckResult, Verdict

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


class ChecklistSummary(LineView):
    """One line: how many cells are ok, warn, fail, unknown, and what to do next."""

    def __init__(self, session: SessionProtocol, state: ChecklistState) -> None:
        super().__init__(id="summary")
        self._session = session
        self._state = state
        self._seen: object = None

    def pull(self) -> None:
        """Repaint when a check moved."""
        connected = sum(status.phase == "connected" for status in self._session.hosts.values())
        seen = (self._state.version, connected)
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the line."""
        width = self.size.width
        counts = self._state.counts()
        hosts = self._session.hosts.values()
        connected = sum(status.phase == "connected" for status in hosts)
        line = self.line().add(f" {connected}/{len(hosts)} hosts connected", self.tone("dim"))
        for verdict in reversed(ORDER):
            if counts[verdict]:
                piece = f"   {self.glyphs.verdicts[verdict]} {counts[verdict]} {verdict.value}"
                if line.width + cell_len(piece) <= width:
                    line.add(piece, self.tone(VERDICT_TONES[verdict]))
        if self._state.running:
            hint = f"   {len(self._state.running)} running"
        elif counts[Verdict.FAIL]:
            hint = "   mend what fails, then R"
        elif counts:
            hint = "   ready: enter reviews the plan"
        else:
            hint = ""
        if line.width + len(hint) <= width:
            line.add(hint, self.tone("bold"))
        return line.strip(width)


class ChecklistScreen(LiveScreen):
    """Grid and detail of the cell under the cursor."""

    TITLE = "Setup checklist"
    HELP = "Every host is checked for what makes training fail or hang. Nothing on a host is changed by a check."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "app.review_plan", "Launch…", id="checklist.launch"),
        Binding("r", "rerun_one", "Re-run", id="checklist.rerun"),
        Binding("R", "rerun_all", "Re-run all", id="checklist.rerun_all"),
        Binding("exclamation_mark", "failing_first", "Failing first", key_display="!", id="checklist.failing"),
        Binding("y", "copy_fix", "Copy fix", id="checklist.copy"),
        Binding("i", "app.show_images", "Images", show=False, id="checklist.images"),
        Binding("M", "app.show_monitor", "Monitor", id="checklist.monitor"),
    ]

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(session)
        self.state = ChecklistState()
        self._shown_detail: object = None

    def compose(self) -> ComposeResult:
        """Header, summary, grid beside or above the detail, footer."""
        yield self.header()
        yield ChecklistSummary(self.session, self.state)
        with Container(id="checklist-body"):
            yield ChecklistGrid(self.session, self.state)
            with VerticalScroll(id="detail", can_focus=True):
                yield Static(id="detail-text")
        yield Footer(compact=True, show_command_palette=False)

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
        if grid.failing_first:
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
        if place is None:
            self.query_one("#detail-text", Static).update(Content("No checks."))
            return
        result = self.state.results.get(place)
        self.query_one("#detail-text", Static).update(self._detail(place, result))
        self.query_one("#detail", VerticalScroll).scroll_home(animate=False)

    def _detail(self, place: Place, result: CheckResult | None) -> Content:
        check = next(each for each in self.session.checks if each.id == place.check_id)
        where = place.host or "whole cluster"
        pieces: list[Content | str | tuple[str, str]] = [(check.title, "bold"), f" · {where}\n"]
        status = self.session.hosts.get(place.host)
        if status is not None and status.phase in ("failed", "lost"):
            pieces += [("Not connected: ", "bold $text-error"), clean_block(status.detail), "\n"]
        if result is None:
            running = place in self.state.running
            needs = f"\nNeeds: {', '.join(check.needs)}" if check.needs else ""
            pieces.append("Running…" if running else f"Not run yet.{needs}")
            return Content.assemble(*pieces)
        finding = result.finding
        colour = {"ok": "$text-success", "warn": "$text-warning", "fail": "$text-error", "unknown": "$text-warning"}
        glyph = self.hetero.glyphs.verdicts[finding.verdict]
        style = f"bold {colour.get(finding.verdict.value, '$text-muted')}"
        pieces += [(f"{glyph} {finding.verdict.value}", style), f"  {clean(finding.reason)}\n"]
        if finding.fix is not None:
            fix = finding.fix
            place_text = f" on {fix.host}" if fix.host else ""
            root = ", needs root" if fix.needs_root else ""
            pieces += [("\nFix", "bold"), f"{place_text}{root} (y copies)\n{clean_block(fix.text)}\n"]
            pieces += [(f"  {clean(command)}\n", "$text-accent") for command in fix.commands]
        if finding.evidence:
            pieces += [("\nEvidence\n", "bold"), (clean_block(finding.evidence), "$text-muted"), "\n"]
        if result.seconds:
            pieces.append((f"\nanswered in {result.seconds:.2f} s", "$text-muted"))
        return Content.assemble(*pieces)

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
        place = self.query_one(ChecklistGrid).place
        result = self.state.results.get(place) if place else None
        fix = result.finding.fix if result else None
        if fix is None:
            self.notify("This cell has no fix to copy", markup=False)
            return
        text = "\n".join(clean(command) for command in fix.commands) or clean_block(fix.text)
        self.app.copy_to_clipboard(text)
        self.notify(f"Sent to the terminal's clipboard (OSC 52): {text.splitlines()[0][:60]}", markup=False)

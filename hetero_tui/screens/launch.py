"""The launch as it goes: one row a host, and the reason where it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.strip import Strip
from textual.widgets import Static

from hetero_tui.messages import LaunchEnded, LaunchMoved
from hetero_tui.sanitize import clean, clean_block
from hetero_tui.screens.base import LiveScreen
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.key_footer import KeyFooter
from hetero_tui.widgets.lines import LineView, fit
from hetero_tui.widgets.log_pane import LogPane
from remote.checks.model import Verdict
from remote.progress import LaunchProgress

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

PHASES: Final = ("creating", "created", "starting", "importing", "ready", "go", "training")
WORDS: Final = {
    "creating": "creating the container",
    "created": "created",
    "starting": "starting",
    "importing": "importing torch",
    "ready": "ready, waits for the others",
    "go": "go given, joining",
    "training": "training",
    "failed": "failed",
    "stopped": "stopped",
}


class LaunchTable(LineView, can_focus=True):
    """Hosts with their phase, as a bar and in words."""

    PACE = 0.1

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(id="launch-table")
        self._session = session
        self.progress: dict[str, LaunchProgress] = {}
        self._frame = 0

    def pull(self) -> None:
        """Turn the spinners."""
        if any(each.phase not in ("training", "failed", "stopped") for each in self.progress.values()):
            self._frame += 1
            self.refresh()

    def moved(self, progress: LaunchProgress) -> None:
        """Take in one host's progress."""
        self.progress[progress.host] = progress
        self.virtual_size = Size(self.size.width, len(self._session.inventory.hosts) + 1)
        self.refresh()

    def taken_back(self) -> None:
        """Show that whatever had begun has been stopped again; nothing is under way any more."""
        for each in tuple(self.progress.values()):
            if each.phase != "failed":
                self.moved(LaunchProgress(each.host, "stopped"))

    def render_line(self, y: int) -> Strip:
        """Draw the heading or a host."""
        width = self.scrollable_content_region.width
        hosts = self._session.inventory.hosts
        if y == 0:
            done = sum(each.phase == "training" for each in self.progress.values())
            return self.line("header").add(f" Launch · {done}/{len(hosts)} hosts train", self.tone("bold")).strip(width)
        index = round(self.scroll_y) + y - 1
        if index >= len(hosts):
            return self.line().strip(width)
        name = hosts[index].name
        progress = self.progress.get(name)
        line = self.line().add(" ")
        if progress is None:
            line.add(f"{self.glyphs.pending} ", self.tone("dim")).cell(name, 16, self.tone("bold"))
            return line.add(" waiting", self.tone("dim")).strip(width)
        if progress.phase in ("failed", "stopped"):
            failed = progress.phase == "failed"
            glyph = self.glyphs.verdicts[Verdict.FAIL if failed else Verdict.SKIP]
            tone, fraction = self.tone("fail" if failed else "dim"), 0.0
        else:
            fraction = (PHASES.index(progress.phase) + 1) / len(PHASES)
            tone = self.tone("ok" if fraction == 1 else "accent")
            spinner = self.glyphs.spinner[self._frame % len(self.glyphs.spinner)]
            glyph = self.glyphs.verdicts[Verdict.OK] if fraction == 1 else spinner
        line.add(f"{glyph} ", tone).cell(name, 16, self.tone("bold")).add(" ")
        line.add(bar(fraction, 14 if width >= 70 else 7, self.glyphs), tone + self.tone("track"))
        line.add(f" {WORDS[progress.phase]}", tone)
        detail = clean(progress.detail, 400)
        if detail and width - line.width > 8:
            line.add(fit(f"  {detail}", width - line.width), self.tone("dim"))
        return line.strip(width)


class LaunchScreen(LiveScreen):
    """Runs nothing itself: the app's launch worker tells it what happens."""

    TITLE = "Launch"
    HELP = "All hosts are brought up first; only when every rank is ready they are told to go."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="launch.back"),
        Binding("y", "copy", "Copy error", id="launch.copy"),
    ]

    def __init__(self, session: SessionProtocol) -> None:
        super().__init__(session)
        self.error: BaseException | None = None
        self.running = True

    def compose(self) -> ComposeResult:
        """Hosts, the error when there is one, and what the ranks say meanwhile."""
        yield self.header()
        yield LaunchTable(self.session)
        with VerticalScroll(id="launch-error", can_focus=True):
            yield Static(id="launch-error-text")
        yield LogPane(self.session, "log", id="launch-log")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Give the table a line for each host."""
        super().on_mount()
        self.query_one(LaunchTable).styles.height = min(18, len(self.session.inventory.hosts) + 1)
        self.query_one(LogPane).log_view.focus()

    @on(LaunchMoved)
    def launch_moved(self, message: LaunchMoved) -> None:
        """Show where the host is."""
        self.query_one(LaunchTable).moved(message.progress)

    @on(LaunchEnded)
    def launch_ended(self, message: LaunchEnded) -> None:
        """Show the reason of a failure; success leads on to the monitor."""
        self.running = False
        self.error = message.error
        self.refresh_bindings()
        if message.error is None:
            return
        text = Content.assemble(("Launch failed. ", "bold $text-error"), clean_block(str(message.error)))
        self.query_one("#launch-error-text", Static).update(text)
        self.query_one(LaunchTable).taken_back()
        self.query_one("#launch-error").add_class("-shown")
        self.query_one("#launch-error").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer what makes sense in this moment."""
        if action == "leave":
            return not self.running
        if action == "copy":
            return self.error is not None
        return True

    def action_leave(self) -> None:
        """Go back to the checklist."""
        self.app.pop_screen()

    def action_copy(self) -> None:
        """Copy the error."""
        self.app.copy_to_clipboard(clean_block(str(self.error)))
        self.notify("Sent to the terminal's clipboard (OSC 52)", markup=False)

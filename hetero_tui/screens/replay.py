"""The monitor on a recording: the same panes, a line that says so, and keys for speed, pause and position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widgets import Input, Label

from hetero_tui.formats import duration
from hetero_tui.screens.monitor import TABS, MonitorScreen
from hetero_tui.widgets.lines import LineView

if TYPE_CHECKING:
    from hetero_tui.playback import Playback
    from hetero_tui.replay import ReplaySession

KEYS: Final = ("space play/pause", "[ ] 10 s", "{ } 1 min", "< > speed", ": step")


class ReplayBar(LineView):
    """One line: that this is a replay, how fast, where."""

    DEFAULT_CSS = "ReplayBar { height: 1; overflow: hidden hidden; }"

    def __init__(self, playback: Playback) -> None:
        super().__init__(id="replay")
        self._playback = playback

    def pull(self) -> None:
        """The position moves all the time."""
        self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the line; what does not fit is left out from the right."""
        playback = self._playback
        if playback.seeking:
            state = "seeking"
        elif playback.paused:
            state = "paused"
        elif playback.at_end:
            state = "at the end"
        else:
            state = "as fast as possible" if math.isinf(playback.speed) else f"{playback.speed:g}× speed"
        whole = playback.end - playback.begin
        where = f" {duration(min(whole, max(0.0, playback.now() - playback.begin)))} of {duration(whole)} "
        line = self.line("header").add(" REPLAY ", self.tone("badge")).add(f" {state} ", self.tone("bold")).add(where)
        for key in KEYS:
            if line.width + len(key) + 3 > self.size.width:
                break
            line.add(f" {self.glyphs.dot} {key}", self.tone("dim"))
        return line.strip(self.size.width)


class StepQuestion(ModalScreen[int | None]):
    """Asks for a step."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="step.cancel")]

    def compose(self) -> ComposeResult:
        """A number and how to answer."""
        with Vertical(classes="dialog"):
            yield Label(Content("Go to step"), classes="dialog-title")
            yield Input(type="integer", placeholder="optimizer step")
            yield Label(Content("enter go · esc cancel"), classes="dialog-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with the number."""
        self.dismiss(int(event.value) if event.value.isdecimal() else None)

    def action_leave(self) -> None:
        """Answer nothing."""
        self.dismiss(None)


class ReplayScreen(MonitorScreen):
    """The monitor's tabs over a recording."""

    TITLE = "Replay"
    HELP = (
        "This is a recording: nothing here touches a host. Space plays and pauses, [ and ] go 10 seconds back and on, "
        "{ and } a minute, < and > change the speed, : goes to a step. 1 to 5 change the tab."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "play", "Play/pause", id="replay.play"),
        Binding("left_square_bracket", "seek(-10)", "10 s back", key_display="[", show=False, id="replay.back"),
        Binding("right_square_bracket", "seek(10)", "10 s on", key_display="]", show=False, id="replay.on"),
        Binding("left_curly_bracket", "seek(-60)", "1 min back", key_display="{", show=False, id="replay.far_back"),
        Binding("right_curly_bracket", "seek(60)", "1 min on", key_display="}", show=False, id="replay.far_on"),
        Binding("less_than_sign", "speed(-1)", "Slower", key_display="<", id="replay.slower"),
        Binding("greater_than_sign", "speed(1)", "Faster", key_display=">", id="replay.faster"),
        Binding("colon", "step", "Go to step", key_display=":", id="replay.step"),
    ]

    def __init__(self, session: ReplaySession, *, tab: int = 0) -> None:
        """``tab`` is the index of the tab shown first."""
        super().__init__(session)
        self._playback = session.playback
        self._replay = session
        self._generation = session.playback.generation
        self._first_tab = tab

    def compose(self) -> ComposeResult:
        """The monitor below the line about the replay."""
        yield ReplayBar(self._playback)
        yield from super().compose()

    def on_mount(self) -> None:
        """Show the tab that was open before going back."""
        super().on_mount()
        if self._first_tab:
            self.call_after_refresh(self.action_tab, self._first_tab)
        self.set_interval(0.1, self._renew)

    def _renew(self) -> None:
        # Going back begins with an empty store; panes that count lines of the old one must not go on counting.
        if self._playback.generation != self._generation and self.app.screen is self:
            self._generation = self._playback.generation
            self.app.switch_screen(ReplayScreen(self._replay, tab=TABS.index(self.tab)))

    def action_play(self) -> None:
        """Pause, or go on; at the end begin anew."""
        if self._playback.at_end and not self._playback.paused:
            self._playback.seek(self._playback.begin)
        else:
            self._playback.toggle_pause()

    def action_seek(self, seconds: float) -> None:
        """Go back or on."""
        self._playback.seek(self._playback.now() + seconds)

    def action_speed(self, by: int) -> None:
        """Go faster or slower."""
        self._playback.shift_speed(by)

    def action_step(self) -> None:
        """Ask for a step and go there."""

        def answered(step: int | None) -> None:
            if step is not None:
                self._playback.seek_step(step)

        self.app.push_screen(StepQuestion(), answered)

"""The app: which screen follows which, and the workers that talk to the session. Quitting never stops training."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Coroutine, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.filter import LineFilter
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.worker import Worker, WorkerState

from hetero_tui import screens
from hetero_tui.commands import RunCommands
from hetero_tui.contact import Contact
from hetero_tui.messages import (
    Attached,
    Connected,
    LaunchEnded,
    LaunchMoved,
    OperationFailed,
    RunEnded,
    RunsFound,
)
from hetero_tui.run_control import RunControl
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.dialogs import Confirm, ErrorDialog
from hetero_tui.screens.questions import failure_text, launch_anyway_question, quit_question
from hetero_tui.session import ImageSession
from hetero_tui.theme import AsciiFilter, Glyphs, default_theme
from hetero_tui.themes import OWN_THEMES, muted
from hetero_tui.views import RunState
from hetero_tui.widgets.lines import glyphs_of

if TYPE_CHECKING:
    from hetero_tui.screens.launch import LaunchScreen
    from hetero_tui.screens.monitor import MonitorScreen
    from hetero_tui.session import LaunchProgress, SessionProtocol
    from hetero_tui.settings import Settings
    from remote.plan import LaunchPlan

CLOSE_SECONDS: Final = 5.0
HANG_UP_SECONDS: Final = 15.0
"""How long leaving may take after the terminal has gone."""


def binding_ids() -> frozenset[str]:
    """Return the id of every key binding of the program, for the person's own keys."""
    for module in iter_modules(screens.__path__):
        import_module(f"{screens.__name__}.{module.name}")
    found: set[str] = set()
    waiting: list[type[DOMNode]] = [DOMNode]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("hetero_tui."):
            found |= {each.id for each in kind.BINDINGS if isinstance(each, Binding) and each.id}
    return frozenset(found)


class HeteroApp(App[int]):
    """Connect, check, plan, launch, watch. Everything on the hosts goes through the session."""

    # Screens behind the first are imported when they are opened: the first frame does not wait for them.

    TITLE = "hetero-tui"
    CSS_PATH = "hetero.tcss"
    COMMANDS = {RunCommands}  # noqa: RUF012
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-tiny"),
        (60, "-narrow"),
        (100, "-normal"),
        (140, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-short"),
        (30, "-medium"),
        (42, "-tall"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", key_display="?", id="app.help"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+o", "jump", "Jump", show=False, id="app.jump"),
        Binding("ctrl+z", "suspend_process", "To the shell; fg comes back", show=False, id="app.suspend"),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True, id="app.quit_anywhere"),
    ]

    def __init__(
        self,
        session: SessionProtocol,
        *,
        start: Literal["checklist", "monitor"] = "checklist",
        auto_launch: bool = False,
        run_ends_with_app: bool = False,
        readonly: bool = False,
        ascii_only: bool = False,
        settings: Settings | None = None,
    ) -> None:
        """``auto_launch`` goes on to the monitor by itself when no check fails; ``readonly`` changes nothing.

        ``run_ends_with_app`` only changes what the person is told when quitting: the demo's hosts go with the app.
        """
        self.ascii_only = ascii_only or (settings is not None and settings.ascii)
        super().__init__()
        for theme in OWN_THEMES:
            self.register_theme(theme)
        self.session = session
        self.readonly = readonly
        self._run_ends_with_app = run_ends_with_app
        self.control = RunControl(self)
        self._contact = Contact(self)
        self._start = start
        self.watching = False
        """A run was launched or taken over here; it may have ended meanwhile."""
        self._quit_question: Confirm | None = None
        self._auto_launch = auto_launch
        self._checklist = ChecklistScreen(session)
        if "TEXTUAL_THEME" not in os.environ:
            self.theme = default_theme(os.environ)
        if settings is not None:
            settings.check(self.available_themes, binding_ids() if settings.keys else ())
            self.theme = settings.theme or self.theme
            self.set_keymap(dict(settings.keys))

    @property
    def glyphs(self) -> Glyphs:
        """What to draw with."""
        return glyphs_of(self)

    def get_css_variables(self) -> dict[str, str]:
        """Add the colour of muted text."""
        variables = super().get_css_variables()
        self.theme_variables = {**variables, "muted": muted(variables)}
        return self.theme_variables

    def get_line_filters(self) -> Sequence[LineFilter]:
        """In ASCII mode nothing else leaves, whatever drew it."""
        filters = super().get_line_filters()
        return [*filters, AsciiFilter()] if self.ascii_only else filters

    def on_mount(self) -> None:
        """Open the checklist and make contact."""
        self.set_class(self.ascii_only, "-ascii")
        self._end_when_told()
        self.push_screen(self._checklist)
        # Contact begins behind the first frame: importing SSH meanwhile would double the time until it is painted.
        self._checklist.call_after_refresh(self._contact.connect, look_for_runs=not self._auto_launch)

    def _end_when_told(self) -> None:
        """On SIGTERM and hang-up leave as a person would, so that the terminal is whole and connections are closed."""
        if self.is_headless:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if number is not None:
                # Not on Windows, where loops know no signals, and not outside the main thread.
                with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                    loop.add_signal_handler(number, self._told_to_end, 128 + number)

    def _told_to_end(self, code: int) -> None:
        if code == 128 + getattr(signal, "SIGHUP", 0):
            # Nothing can be written to a terminal that is gone, and whoever waits for that must not wait for good.
            watchdog = threading.Timer(HANG_UP_SECONDS, os._exit, (code,))
            watchdog.daemon = True
            watchdog.start()
        self.work(self._leave(code), "leave")

    def work(self, body: Coroutine[object, object, None], group: str) -> None:
        """Run a body in the background; a newer one of the same group takes its place."""
        self.run_worker(body, group=group, exclusive=True, exit_on_error=False)

    @on(Worker.StateChanged)
    def worker_moved(self, event: Worker.StateChanged) -> None:
        """A worker that ended with an error nobody expected is shown; the program goes on."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.operation_failed(OperationFailed("Something unexpected happened", event.worker.error))

    @on(OperationFailed)
    def operation_failed(self, message: OperationFailed) -> None:
        """Show the error in front of everything."""
        error = message.error
        known = type(error).__module__.startswith("remote.")
        text = str(error) if known else f"{type(error).__name__}: {error}"
        self.push_screen(ErrorDialog(message.title, text))

    # Contact and checks

    def connect_and_check(self) -> None:
        """Connect where there is no connection, then run the whole checklist."""
        self._start = "checklist"
        self._contact.connect(look_for_runs=False)

    @on(Connected)
    def connected(self) -> None:
        """Run the checklist by itself."""
        if self._start == "checklist" and self.is_running:
            self._checklist.run_checks()

    @on(RunsFound)
    def runs_found(self, message: RunsFound) -> None:
        """Offer to take over what runs already."""
        if not self.is_running:
            return  # told while the app closes its screens: there is nothing left to show it on
        if self._start == "monitor" and self.session.run_id:
            self.post_message(Attached())
        elif not self._contact.choose_run(message.runs, self._start) and self._start == "monitor":
            self.notify("No run is taken over: here is the checklist", severity="warning", markup=False)
            self._checklist.run_checks()

    @on(Attached)
    def attached(self) -> None:
        """Watch the run."""
        if not self.is_running:
            return
        self._follow_run()
        self.action_show_monitor()

    def checks_done(self, *, ok: bool) -> None:
        """The checklist is through; the demo goes on by itself when nothing failed.

        Where images are all that is missing the way to bring them is opened; it begins when the person says so.
        """
        session = self.session
        if not self.readonly and isinstance(session, ImageSession) and session.lacks_only_images:
            self.action_show_images()
            return
        if self._auto_launch and ok and not self.watching:
            self._auto_launch = False
            if self._plan() is not None:
                self._launch()

    # Launch

    def _plan(self) -> LaunchPlan | None:
        try:
            return self.session.plan()
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.operation_failed(OperationFailed("There is no plan that can be launched", error))
            return None

    def action_review_plan(self) -> None:
        """Show the plan."""
        from hetero_tui.screens.plan import PlanScreen

        plan = self._plan()
        if plan is not None:
            self.push_screen(PlanScreen(self.session, plan))

    def action_launch(self) -> None:
        """Launch the plan that is shown, after a question when a check fails."""
        from hetero_tui.screens.plan import PlanScreen

        if not isinstance(self.screen, PlanScreen):
            return
        failing = self._checklist.first_failure()
        if failing is None:
            self._launch()
            return
        self.push_screen(launch_anyway_question(failing), lambda yes: self._launch() if yes else None)

    def _launch(self) -> None:
        from hetero_tui.screens.launch import LaunchScreen

        self.watching = False
        screen = LaunchScreen(self.session)
        if isinstance(self.screen, ChecklistScreen):
            self.push_screen(screen)
        else:
            self.switch_screen(screen)
        self.work(self._launch_worker(screen), "launch")

    async def _launch_worker(self, screen: LaunchScreen) -> None:
        def report(progress: LaunchProgress) -> None:
            screen.post_message(LaunchMoved(progress))

        try:
            await self.session.launch(report)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            screen.post_message(LaunchEnded(error))
        else:
            screen.post_message(LaunchEnded())

    @on(LaunchEnded)
    def launch_ended(self, message: LaunchEnded) -> None:
        """Go on to the monitor. A launch that failed has been taken back everywhere."""
        if not self.is_running:
            return
        if message.error is not None:
            for host in self.session.inventory.hosts:
                self.session.store.note_launch(host.name, "stopped")
            return
        self._follow_run()
        if self._launch_screen() is not None:
            self._show_new_monitor()

    # The run

    def _follow_run(self) -> None:
        self.watching = True
        self.work(self._follow(), "follow")

    async def _follow(self) -> None:
        try:
            await self.session.follow()
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.post_message(OperationFailed("The run can no longer be followed; training may go on", error))
        self.post_message(RunEnded())

    @on(RunEnded)
    def run_ended(self) -> None:
        """Say how it ended; the first failing rank comes first."""
        if not self.is_running:
            return
        self.refresh_bindings()
        view = self.session.store.cluster_view()
        if view.state is RunState.FAILED and self.session.store.failures:
            error = ErrorDialog("The run failed", failure_text(self.session.store.failures))
            self.push_screen(error, lambda _closed: self.control.offer_ways_on())
            return
        if view.state.ended:
            self.notify(f"The run has {view.state_text}", markup=False, timeout=10)
        self.control.offer_ways_on()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what makes sense now; nothing that changes a host with ``readonly``."""
        if action == "run":
            return self.control.offers(str(parameters[0]), self.cursor_host)
        if action in ("review_plan", "launch"):
            return not self.readonly and not self.control.active
        if action == "show_monitor":
            return self.watching
        return True

    def action_run(self, action: str) -> None:
        """Do something to the run, such as ``pause_run``."""
        self.control.perform(action, self.cursor_host)

    # Getting around

    def action_show_monitor(self) -> None:
        """Go to the monitor, whatever is in front."""
        from hetero_tui.screens.monitor import MonitorScreen

        if not any(isinstance(screen, MonitorScreen) for screen in self.screen_stack):
            self._show_new_monitor()

    def _show_new_monitor(self) -> None:
        """Open the monitor, in the place of the launch where that is in front."""
        from hetero_tui.screens.monitor import MonitorScreen

        if self._launch_screen() is not None:
            self.switch_screen(MonitorScreen(self.session))
        else:
            self.push_screen(MonitorScreen(self.session))

    @property
    def cursor_host(self) -> str:
        """Host of the rank under the monitor's cursor; empty elsewhere."""
        monitor = self._monitor()
        return "" if monitor is None else monitor.cursor_host

    def _monitor(self) -> MonitorScreen | None:
        """Return the monitor where it is in front."""
        from hetero_tui.screens.monitor import MonitorScreen

        return self.screen if isinstance(self.screen, MonitorScreen) else None

    def _launch_screen(self) -> LaunchScreen | None:
        """Return the launch where it is in front."""
        from hetero_tui.screens.launch import LaunchScreen

        return self.screen if isinstance(self.screen, LaunchScreen) else None

    def action_show_images(self) -> None:
        """Show how each host gets its image."""
        from hetero_tui.screens.images import ImagesScreen

        if isinstance(self.session, ImageSession) and isinstance(self.screen, ChecklistScreen):
            self.push_screen(ImagesScreen(self.session, self.session))

    def action_show_checklist(self) -> None:
        """Go back to the checklist."""
        while len(self.screen_stack) > 1 and self.screen is not self._checklist:
            self.pop_screen()

    def show_log(self, rank: int | None, host: str = "") -> None:
        """Go to the log of a rank or a host."""
        self.action_show_monitor()

        def show() -> None:
            if (monitor := self._monitor()) is not None:
                monitor.show_log(rank, host)

        self.call_after_refresh(show)

    def show_host(self, host: str) -> None:
        """Go to the ranks of a host."""
        self.action_show_monitor()

        def show() -> None:
            if (monitor := self._monitor()) is not None:
                monitor.show_host(host)

        self.call_after_refresh(show)

    def action_jump(self) -> None:
        """Put a letter on every pane; pressing it goes there."""
        from hetero_tui.screens.jump import JumpScreen, targets

        if isinstance(self.screen, ModalScreen):
            return
        panes = targets(self.screen)

        def chosen(pane: Widget | None) -> None:
            if pane is not None:
                pane.focus()

        self.push_screen(JumpScreen(panes), chosen)

    def action_help(self) -> None:
        """Explain the focused pane."""
        from hetero_tui.screens.help import HelpScreen, help_text

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(help_text(self.screen, self.glyphs)))

    async def action_quit(self) -> None:
        """Leave; ask first while something runs. Asked twice is an answer."""
        launch = self._launch_screen()
        launching = launch is not None and launch.running
        if isinstance(self.screen, Confirm):
            self.screen.dismiss(self.screen is self._quit_question)
            return
        if not (launching or self.control.active):
            self.work(self._leave(), "leave")
            return
        self._quit_question = quit_question(launching=launching, run_ends_with_app=self._run_ends_with_app)
        self.push_screen(self._quit_question, lambda yes: self.work(self._leave(), "leave") if yes else None)

    async def _leave(self, code: int | None = None) -> None:
        with contextlib.suppress(TimeoutError):  # a connection that does not close must not keep the person here
            await asyncio.wait_for(self.session.close(), CLOSE_SECONDS)
        if code is None:
            code = 1 if self.session.store.cluster_view().state is RunState.FAILED else 0
        self.exit(code, return_code=code)

"""The data set against the master's on every host; what is missing is brought when the person says so."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static
from textual.worker import Worker

from hetero_tui.sanitize import clean_block
from hetero_tui.screens.base import LiveScreen
from hetero_tui.widgets.data_bars import DataBars
from hetero_tui.widgets.key_footer import KeyFooter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hetero_tui.preflight import PreflightProtocol
    from hetero_tui.session import SessionProtocol
    from remote.dataset_sync import DatasetState


class DataCompared(Message):
    """It is known how the hosts stand."""

    def __init__(self, state: DatasetState) -> None:
        super().__init__()
        self.state = state


class DataEnded(Message):
    """Comparing or bringing is through, with what went wrong."""

    def __init__(self, problems: str) -> None:
        super().__init__()
        self.problems = problems


class DataScreen(LiveScreen):
    """Compares at once, brings when told to, and compares again."""

    TITLE = "Data set"
    HELP = (
        "Every host needs the files that the master has. What is missing goes from the master through this machine; "
        "a file appears under its name when its SHA-256 is right. Nothing that is on a host is changed or removed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="data.back"),
        Binding("b", "bring", "Bring what is missing", id="data.bring"),
        Binding("c", "contents", "Compare contents", id="data.contents"),
        Binding("x", "cancel", "Cancel", id="data.cancel"),
    ]

    def __init__(self, session: SessionProtocol, preflight: PreflightProtocol, checked: Callable[[], None]) -> None:
        """``checked`` is called on the way back where something was brought, to check again."""
        super().__init__(session)
        self._preflight = preflight
        self._checked = checked
        self._worker: Worker[None] | None = None
        self.brought = False

    def compose(self) -> ComposeResult:
        """A line a host, and the reasons where something failed."""
        yield self.header()
        yield DataBars(self.session.inventory.master.name, self.session.inventory.training.data_dir)
        with VerticalScroll(id="data-problems"):
            yield Static(id="data-problems-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Ask the hosts."""
        super().on_mount()
        self.query_one("#data-problems").styles.height = "auto"
        self.query_one("#data-problems").styles.max_height = "40%"
        self.query_one(DataBars).focus()
        self._work(self._compare(contents=False))

    @property
    def running(self) -> bool:
        """Whether hosts are compared or something is on its way."""
        return self._worker is not None

    def _work(self, body: Coroutine[object, object, None]) -> None:
        self.query_one("#data-problems-text", Static).update("")
        self._worker = self.run_worker(self._ending(body), group="data", exclusive=True, exit_on_error=False)
        self.refresh_bindings()

    async def _ending(self, body: Coroutine[object, object, None]) -> None:
        try:
            await body
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.post_message(DataEnded(str(error)))

    async def _compare(self, *, contents: bool) -> None:
        self.post_message(DataCompared(await self._preflight.look_at_data(contents=contents)))
        self.post_message(DataEnded(""))

    async def _bring(self, state: DatasetState) -> None:
        failures = await self._preflight.bring_data(state, self.query_one(DataBars).moved)
        self.post_message(DataCompared(await self._preflight.look_at_data()))
        self.post_message(DataEnded("\n\n".join(str(error) for error in failures.values())))

    @on(DataCompared)
    def compared(self, message: DataCompared) -> None:
        """Show how the hosts stand."""
        self.query_one(DataBars).show(message.state)

    @on(DataEnded)
    def ended(self, message: DataEnded) -> None:
        """Say what failed."""
        self._worker = None
        self.refresh_bindings()
        self.query_one("#data-problems-text", Static).update(Content(clean_block(message.problems)))
        state = self.query_one(DataBars).state
        if self.brought and not message.problems and state is not None and state.is_same:
            self.notify("Every host has the same data", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer what makes sense in this moment; nothing that changes a host with ``readonly``."""
        match action:
            case "bring":
                return not self.running and not self.hetero.readonly
            case "contents":
                return not self.running
            case "cancel":
                return self.running
            case _:
                return True

    def action_bring(self) -> None:
        """Bring what is missing."""
        state = self.query_one(DataBars).state
        if state is None or not state.to_bring:
            self.notify("There is nothing that could be brought", markup=False)
            return
        self.brought = True
        self._work(self._bring(state))

    def action_contents(self) -> None:
        """Compare what is in the files, too."""
        self._work(self._compare(contents=True))

    def action_cancel(self) -> None:
        """Give it up; what has arrived is kept, and not sent again."""
        if self._worker is not None:
            self._worker.cancel()
            self.query_one(DataBars).show(self.query_one(DataBars).state)
            self.post_message(DataEnded("Cancelled. What has arrived is kept there: b goes on where it stopped."))

    def action_leave(self) -> None:
        """Go back to the checklist, which asks again when something was brought."""
        if self.brought and self.running:
            self.notify("Data is still on its way: cancel it (x) or wait", markup=False)
            return
        if self._worker is not None:
            self._worker.cancel()
        self.app.pop_screen()
        if self.brought:
            self._checked()

"""How each host gets its image, and how far it is; the hosts can be given up and tried again one by one."""

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

from hetero_tui.sanitize import clean_block
from hetero_tui.screens.base import LiveScreen
from hetero_tui.session import ImageSession
from hetero_tui.widgets.image_bars import ImageBars
from hetero_tui.widgets.key_footer import KeyFooter

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol
    from remote.images.model import ImagePlan, ImageProgress


class ImagesPlanned(Message):
    """It is known how each host gets its image."""

    def __init__(self, plan: ImagePlan) -> None:
        super().__init__()
        self.plan = plan


class ImageMoved(Message):
    """One host's image moved on."""

    def __init__(self, progress: ImageProgress) -> None:
        super().__init__()
        self.progress = progress


class ImagesEnded(Message):
    """Bringing is through, with what went wrong."""

    def __init__(self, problems: str) -> None:
        super().__init__()
        self.problems = problems


class ImagesScreen(LiveScreen):
    """Plans at once; brings when told to. Opened by itself after a checklist in which only images are missing."""

    TITLE = "Images"
    HELP = (
        "Each host gets its image by the cheapest way: it has it, another host sends the layers it lacks, it is "
        "built, or it comes from a registry. Afterwards the layers are compared by digest and the checks run again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="images.back"),
        Binding("b", "bring", "Bring all", id="images.bring"),
        Binding("r", "retry", "Retry host", id="images.retry"),
        Binding("x", "cancel", "Cancel host", id="images.cancel"),
        Binding("down,j", "cursor(1)", "Down", show=False, id="images.down"),
        Binding("up,k", "cursor(-1)", "Up", show=False, id="images.up"),
    ]

    def __init__(self, session: SessionProtocol, images: ImageSession, *, bring: bool = False) -> None:
        """``bring`` starts at once."""
        super().__init__(session)
        self._images = images
        self._bring_at_once = bring
        self.running = False
        self.brought = False

    def compose(self) -> ComposeResult:
        """Bars, and the reasons where something failed."""
        yield self.header()
        yield ImageBars()
        with VerticalScroll(id="image-problems"):
            yield Static(id="image-problems-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Ask the engines."""
        super().on_mount()
        self.query_one("#image-problems").styles.height = "auto"
        self.query_one("#image-problems").styles.max_height = "40%"
        self.query_one(ImageBars).focus()
        self._work(self._plan())

    def _work(self, body: Coroutine[object, object, None]) -> None:
        self.run_worker(body, group="images", exclusive=True, exit_on_error=False)

    async def _plan(self) -> None:
        try:
            plan = await self._images.image_plan()
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.post_message(ImagesEnded(str(error)))
        else:
            self.post_message(ImagesPlanned(plan))

    @on(ImagesPlanned)
    def planned(self, message: ImagesPlanned) -> None:
        """Show the plan and begin where that is wanted."""
        self.query_one(ImageBars).show(message.plan)
        if self._bring_at_once and message.plan.missing:
            self._bring_at_once = False
            self.action_bring()

    async def _bring(self, hosts: frozenset[str] | None) -> None:
        try:
            failures = await self._images.bring_images(self._told, hosts)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self.post_message(ImagesEnded(str(error)))
        else:
            self.post_message(ImagesEnded("\n\n".join(str(error) for error in failures.values())))

    def _told(self, progress: ImageProgress) -> None:
        self.post_message(ImageMoved(progress))

    @on(ImageMoved)
    def moved(self, message: ImageMoved) -> None:
        """Move a bar."""
        self.query_one(ImageBars).moved(message.progress)

    @on(ImagesEnded)
    def ended(self, message: ImagesEnded) -> None:
        """Say what failed; the checks run again on the way back."""
        self.brought = self.brought or self.running
        self.running = False
        self.refresh_bindings()
        self.query_one("#image-problems-text", Static).update(Content(clean_block(message.problems)))
        if not message.problems and self.brought:
            self.notify("Every host has its image", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer what makes sense in this moment; nothing that changes a host with ``readonly``."""
        if action in ("bring", "retry"):
            return not self.running and not self.hetero.readonly
        if action == "cancel":
            return self.running
        return True

    def _start(self, hosts: frozenset[str] | None) -> None:
        self.running = True
        self.refresh_bindings()
        self._work(self._bring(hosts))

    def action_bring(self) -> None:
        """Bring what is missing everywhere."""
        self._start(None)

    def action_retry(self) -> None:
        """Bring the image of the host under the cursor."""
        if host := self.query_one(ImageBars).host:
            self._start(frozenset({host}))

    def action_cancel(self) -> None:
        """Give up the host under the cursor; the others go on."""
        if host := self.query_one(ImageBars).host:
            self._images.cancel_image(host)

    def action_cursor(self, by: int) -> None:
        """Move to another host."""
        self.query_one(ImageBars).move_cursor(by)

    def action_leave(self) -> None:
        """Go back to the checklist, which runs again when something was brought."""
        if self.running:
            self.notify("Images are still on their way: cancel them (x) or wait", markup=False)
            return
        self.app.pop_screen()
        if self.brought:
            self.hetero.connect_and_check()

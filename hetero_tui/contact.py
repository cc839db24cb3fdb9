"""First contact with the hosts: connecting, unknown host keys, and runs that were left there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from hetero_tui.messages import Attached, Connected, OperationFailed, RunsFound
from hetero_tui.screens.dialogs import Choice
from hetero_tui.screens.host_key import host_key_question
from hetero_tui.screens.questions import attach_options
from hetero_tui.screens.taking_over import SHOWN_AFTER, TakingOver
from hetero_tui.session import PastSession

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp
    from remote.errors import HostKeyUnknown
    from remote.runtime import HostRunState


class Contact:
    """Talks to the session in workers and tells the app by messages how it went."""

    def __init__(self, app: HeteroApp) -> None:
        self._app = app
        self._asking = asyncio.Lock()

    def connect(self, *, look_for_runs: bool) -> None:
        """Connect where there is no connection."""
        self._app.work(self._connect(look_for_runs=look_for_runs), "connect")

    async def _connect(self, *, look_for_runs: bool) -> None:
        app = self._app
        try:
            await app.session.connect(self._confirm_host_key)
            app.post_message(Connected())
            if look_for_runs:
                app.post_message(RunsFound(await app.session.find_runs()))
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            app.post_message(OperationFailed("Connecting failed", error))

    async def _confirm_host_key(self, unknown: HostKeyUnknown) -> bool:
        async with self._asking:
            answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
            self._app.push_screen(host_key_question(unknown), answer.set_result)
            return bool(await answer)

    def choose_run(self, runs: tuple[HostRunState, ...], start: Literal["checklist", "monitor"]) -> bool:
        """Offer to take over what runs already; with ``start="monitor"`` the only one is taken over at once.

        Returns:
            False when there is nothing to take over.
        """
        options = attach_options(runs)
        if not options:
            return False
        if start == "monitor" and len(options) == 1:
            self._attach(options[0][0])
            return True

        def chosen(run_id: str | None) -> None:
            if run_id:
                self._attach(run_id)
            elif start == "monitor":
                self._app.post_message(RunsFound(()))

        question = Choice("Earlier runs were found on the hosts", "Take one over?", [*options, ("", "No, start anew")])
        self._app.push_screen(question, chosen)
        return True

    def _attach(self, run_id: str) -> None:
        self._app.work(self._take_over(run_id), "attach")

    async def _take_over(self, run_id: str) -> None:
        attaching = asyncio.create_task(self._app.session.attach(run_id))
        try:
            is_attached = await self._until_read(attaching, run_id)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self._app.post_message(OperationFailed(f"Run {run_id} could not be taken over", error))
        else:
            self._app.post_message(Attached() if is_attached else RunsFound(()))
        finally:
            attaching.cancel()

    async def _until_read(self, attaching: asyncio.Task[None], run_id: str) -> bool:
        """Wait for the run's past with a dialog when it takes long; False when the person gave up."""
        session = self._app.session
        await asyncio.wait({attaching}, timeout=SHOWN_AFTER)
        if not attaching.done() and isinstance(session, PastSession):
            dialog = TakingOver(session, run_id)
            given_up: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
            self._app.push_screen(dialog, given_up.set_result)
            waited_for: set[asyncio.Future[Any]] = {attaching, given_up}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if given_up.done():
                attaching.cancel()
                await asyncio.wait({attaching})
                return not attaching.cancelled()
            dialog.dismiss(False)
        await attaching
        return True

"""Running a fix from the checklist: shown first, run after a yes, then the checks it concerns run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.message import Message

from hetero_tui.checklist import Place
from hetero_tui.sanitize import clean
from hetero_tui.screens.dialogs import Confirm, ErrorDialog
from hetero_tui.screens.password import AskPassword
from remote.errors import RemoteError
from remote.fixes import FixOutcome, FixPlan, Way

if TYPE_CHECKING:
    from hetero_tui.preflight import PreflightProtocol
    from hetero_tui.screens.checklist import ChecklistScreen


class FixEnded(Message):
    """A fix ran, or could not be run."""

    def __init__(self, place: Place, plan: FixPlan, outcome: FixOutcome | RemoteError) -> None:
        super().__init__()
        self.place = place
        self.plan = plan
        self.outcome = outcome


class Fixing:
    """Asks, runs, and tells the screen by a message how it went. One fix at a time."""

    def __init__(self, screen: ChecklistScreen, preflight: PreflightProtocol) -> None:
        self._screen = screen
        self._preflight = preflight
        self.place: Place | None = None
        """The cell whose fix runs now."""

    def begin(self, place: Place, plan: FixPlan) -> None:
        """Show exactly what will run where, and run it after a yes."""
        if self.place is not None:
            self._screen.notify("A fix is running already: wait for it", severity="warning", markup=False)
        elif plan.way is Way.COPY:
            self._screen.notify(f"Not run from here: {clean(plan.reason)}", severity="warning", markup=False)
        else:
            self._ask(place, plan)

    def _ask(self, place: Place, plan: FixPlan) -> None:
        question, run = f"Run this fix on {plan.host}?", what_runs(plan)
        if plan.way is not Way.PASSWORD:
            dialog = Confirm(question, run, yes="Run it", danger=True)
            self._screen.app.push_screen(dialog, lambda yes: self._start(place, plan, "") if yes else None)
            return
        ask = AskPassword(
            question, f"{run}\n\nThe password of {plan.user or 'the login user'} on {plan.host}, for sudo:"
        )
        self._screen.app.push_screen(ask, lambda given: self._start(place, plan, given) if given else None)

    def _start(self, place: Place, plan: FixPlan, password: str) -> None:
        self.place = place
        self._screen.notify(f"Running the fix on {plan.host}…", markup=False)
        self._screen.run_worker(self._run(place, plan, password), group="fix", exit_on_error=False)

    async def _run(self, place: Place, plan: FixPlan, password: str) -> None:
        outcome: FixOutcome | RemoteError
        try:
            outcome = await self._preflight.run_fix(plan, password)
        except RemoteError as error:
            outcome = error
        finally:
            self.place = None
        self._screen.post_message(FixEnded(place, plan, outcome))


def what_runs(plan: FixPlan) -> str:
    """Say exactly what will run where, and as whom."""
    user = plan.user or "the login user"
    who = {
        Way.USER: f"as {user}, without root",
        Way.SUDO: f"as {user}, with sudo, which asks for no password",
        Way.PASSWORD: f"as {user}, with sudo",
    }
    lines = [f"On {plan.host}, {who.get(plan.way, 'by hand')}, one after the other:", ""]
    lines += [f"  $ {command}" for command in plan.commands]
    if plan.new_login:
        lines += ["", "Then this program logs in there anew, for that is when it takes effect."]
    return "\n".join([*lines, "", "Then the checks it concerns run again."])


def tell(screen: ChecklistScreen, message: FixEnded, rerun: Callable[[], None]) -> None:
    """Say how a fix went; what was run is followed by the checks it concerns, also when it failed half way."""
    plan, outcome = message.plan, message.outcome
    match outcome:
        case RemoteError():
            screen.app.push_screen(ErrorDialog(f"The fix on {plan.host} could not be run", str(outcome)))
        case FixOutcome(refused=refused) if refused:
            words = f"{refused}. Nothing was run."
            screen.app.push_screen(ErrorDialog(f"The fix on {plan.host} was not run", words))
            return
        case FixOutcome(succeeded=True):
            said = clean(outcome.output.splitlines()[-1], 200) if outcome.output else ""
            screen.notify(f"Done on {plan.host}{f': {said}' if said else ''}", markup=False)
        case FixOutcome():
            words = f"A command exited {outcome.exit_status} and said:\n\n{outcome.output or 'nothing'}"
            screen.app.push_screen(ErrorDialog(f"The fix on {plan.host} failed", words))
    rerun()

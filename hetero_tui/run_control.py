"""What a person can do to a run: pause, resume, checkpoint, policy, hosts out and in, simulated speeds, stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hetero_tui.exclusion import excluded_hosts, exclusion_message, refusal
from hetero_tui.messages import OperationFailed
from hetero_tui.screens.dialogs import Choice
from hetero_tui.screens.questions import exclude_question, policy_options, speed_options, stop_question, ways_on
from hetero_tui.session import LaunchProgress, ResumableSession
from hetero_tui.views import RunState

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp

RUN_ACTIONS = frozenset(
    {"pause_run", "resume_run", "slow_host", "policy", "checkpoint", "exclude_host", "admit_host", "stop_run"}
)


class RunControl:
    """Sends control messages through the session, each in a worker that ends in a notice or an error dialog."""

    def __init__(self, app: HeteroApp) -> None:
        self._app = app

    @property
    def active(self) -> bool:
        """A run is being watched and has not ended."""
        return self._app.watching and not self._app.session.store.cluster_view().state.ended

    def offers(self, action: str, host: str = "") -> bool:
        """Tell whether the action makes sense now; nothing does with ``readonly``.

        ``host`` is the one that would be excluded or admitted.
        """
        if self._app.readonly or not self.active:
            return False
        session = self._app.session
        if action in ("exclude_host", "admit_host"):
            is_excluded = host in excluded_hosts(session.store.rank_views())
            return bool(host) and is_excluded == (action == "admit_host")
        paused = session.store.cluster_view().state is RunState.PAUSED
        wanted = {"pause_run": not paused, "resume_run": paused, "slow_host": session.simulated}
        return wanted.get(action, True)

    def perform(self, action: str, host: str) -> None:
        """Do one of :data:`RUN_ACTIONS`; ``host`` is the one under the cursor."""
        match action:
            case "pause_run":
                self._send({"command": "pause"}, "Pausing: all ranks stop after the same step")
            case "resume_run":
                self._send({"command": "resume"}, "Resuming")
            case "checkpoint":
                self._send({"command": "checkpoint"}, "A checkpoint is written after this step")
            case "policy":
                self._choose_policy()
            case "slow_host":
                self._choose_speed(host)
            case "exclude_host":
                self._ask_exclude(host)
            case "admit_host":
                done = f"{host} gets a share again from the next step on"
                self._send(exclusion_message("admit", host), done)
            case "stop_run":
                self._app.push_screen(stop_question(self._app.session), self._stop_answered)
            case _:
                raise ValueError(action)

    def offer_ways_on(self) -> None:
        """After a run's end, offer to resume it and what can be done with results that are not home."""
        session = self._app.session
        if self._app.readonly or not isinstance(session, ResumableSession):
            return
        gone = frozenset(each.host for each in session.hosts.values() if each.phase not in ("connected", "waiting"))
        view = session.store.cluster_view()
        options = ways_on(failed=view.state is RunState.FAILED, gone=gone, kept=session.kept)
        if not options:
            return

        def chosen(way: str | None) -> None:
            if way in ("resume", "without"):
                self._resume(session, gone if way == "without" else frozenset())
            elif way in ("fetch", "discard"):
                self._app.work(self._stop(discard=way == "discard"), "stop")

        text = "A launch is planned first: nothing starts before you say so." if "resume" in dict(options) else ""
        self._app.push_screen(Choice("How to go on?", text, options), chosen)

    def _resume(self, session: ResumableSession, gone: frozenset[str]) -> None:
        try:
            session.leave_out(gone)
            session.resume(self._app.session.run_id)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self._app.post_message(OperationFailed("The run cannot be resumed", error))
            return
        self._app.action_show_checklist()
        self._app.action_review_plan()

    def _ask_exclude(self, host: str) -> None:
        session = self._app.session
        if refused := refusal(session.store.rank_views(), host):
            self._app.notify(refused, severity="warning", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                done = f"{host} computes nothing from the next step on"
                self._send(exclusion_message("exclude", host), done)

        self._app.push_screen(exclude_question(session, host), answered)

    def _choose_policy(self) -> None:
        def chosen(policy: str | None) -> None:
            if policy:
                self._send({"command": "policy", "policy": policy}, f"Policy {policy} from the next plan on")

        self._app.push_screen(Choice("Balance policy", "How the global batch is shared out", policy_options()), chosen)

    def _choose_speed(self, host: str) -> None:
        speed = self._app.session.inventory.host(host).simulated_samples_per_second if host else None
        if speed is None:
            self._app.notify("Put the cursor on a rank whose speed is simulated", severity="warning", markup=False)
            return

        def chosen(value: str | None) -> None:
            if value:
                message = {"command": "simulate", "samples_per_second": float(value)}
                self._send(message, f"{host} now runs at {value} samples/s (simulated)", frozenset({host}))

        question = Choice(f"Simulated speed of {host}", "Choose, and watch the shares move.", speed_options(speed))
        self._app.push_screen(question, chosen)

    def _send(self, message: Mapping[str, object], done: str, hosts: frozenset[str] | None = None) -> None:
        # One after the other and none cut short: a later message must not cancel an earlier one on its way.
        self._app.run_worker(self._deliver(message, done, hosts), group="control", exit_on_error=False)

    async def _deliver(self, message: Mapping[str, object], done: str, hosts: frozenset[str] | None) -> None:
        try:
            await self._app.session.control(message, hosts)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self._app.post_message(OperationFailed(f"'{message['command']}' did not reach the run", error))
            return
        self._app.notify(done, markup=False)

    def _stop_answered(self, yes: bool | None) -> None:
        if yes:
            self._app.work(self._stop(), "stop")

    async def _stop(self, *, discard: bool = False) -> None:
        session = self._app.session

        def report(progress: LaunchProgress) -> None:
            session.store.note_launch(progress.host, progress.phase)

        try:
            if discard and isinstance(session, ResumableSession):
                await session.stop(report, discard=True)
            else:
                await session.stop(report)
        except Exception as error:  # noqa: BLE001 - shown to the person, whatever it is
            self._app.post_message(OperationFailed("The run was not stopped everywhere", error))
        else:
            self._app.notify("The run was stopped on every host", markup=False)

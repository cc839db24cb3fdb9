"""``hetero-tui exclude`` and ``admit``: a host out of the shares of a run that is training, and back in.

Any host may be excluded, that of the master too: its ranks stay in the group, and the store stays where it is.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hetero_tui import exit_codes, headless, report
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.diagnosis import without_host
from hetero_tui.exclusion import cost_text, excluded_hosts, exclusion_message, refusal, refusal_told
from hetero_tui.formats import rate
from hetero_tui.output import print_json, say, show
from hetero_tui.questions import confirmed
from hetero_tui.sanitize import clean
from hetero_tui.store import Store
from hetero_tui.views import SharesRecord
from remote.errors import RemoteError, UserError
from remote.inventory import Inventory, load_inventory
from remote.inventory_mistakes import nearest
from remote.runtime import State

Command = Literal["exclude", "admit"]
LOOK_SECONDS: Final = 0.1


class NotDone(RemoteError):
    """The ranks did not do it, or did not say so."""


async def change(
    command: Command,
    cluster: Path,
    host: str,
    *,
    run: str,
    timeout: float,
    experiments: Path,
    as_json: bool,
    yes: bool = False,
) -> int:
    """Send the message, wait until the ranks say that it took effect, and print the new plan.

    At a terminal a person is asked before a host is excluded, with what that costs.

    Args:
        command: what to do.
        cluster: path of cluster.toml.
        host: name of a host in it.
        run: id of a run; the newest that is training when empty.
        timeout: seconds to wait for the ranks' answer.
        experiments: folder where runs are kept.
        as_json: print a document instead of text.
        yes: ask nothing.

    Raises:
        UserError: there is no such host, or nothing is training.
        NotDone: it was refused or declined, or nobody answered in time.
        RemoteError: a host could not be asked.
    """
    inventory = load_inventory(cluster)
    _check_host(inventory, host)
    # Looking on only: whoever follows the run keeps its recording and brings its results home.
    session = ClusterSession(inventory, experiments=experiments, readonly=True)
    try:
        await session.connect(headless.ask_host_key)
        await session.attach(await _training_run(session, run))
        await session.catch_up()
        outcome = await _change(session, command, host, timeout, ask=sys.stdin.isatty() and not yes)
    finally:
        await session.close()
    if as_json:
        print_json(_document(session, command, host, outcome))
    else:
        show(_text(command, host, outcome))
    return exit_codes.OK


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The plan in force."""

    plan: SharesRecord
    changed: bool
    cost: float | None = None
    """Samples/s that the excluded host would have contributed, as predicted from the speeds before."""


def _check_host(inventory: Inventory, host: str) -> None:
    names = [each.name for each in inventory.hosts]
    if host in names:
        return
    near = nearest(host, names)
    question = f"did you mean {near}? It has {', '.join(names)}" if near else f"name one of {', '.join(names)}"
    raise UserError(f"no host {host[:60]!r} in {inventory.cluster.name}", next_step=question)


async def _training_run(session: ClusterSession, wanted: str) -> str:
    alive = [run.run_id for run in await session.find_runs() if run.state is State.RUNNING]
    if wanted and wanted not in alive:
        raise UserError(f"run {wanted} is not training on these hosts", next_step="see hetero-tui status")
    if not alive:
        session.require_all_connected()
        raise UserError("nothing is training on these hosts", next_step="start a run with hetero-tui up")
    return wanted or alive[-1]


async def _change(session: ClusterSession, command: Command, host: str, timeout: float, *, ask: bool) -> _Outcome:
    following = asyncio.create_task(session.follow())
    waiting = _Waiting(session.store, following, timeout)
    try:
        return await _bring_about(session, command, host, waiting, ask=ask)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


@dataclass(slots=True)
class _Waiting:
    """Waits for what the ranks say, while their run is followed."""

    store: Store
    following: asyncio.Task[None]
    seconds: float

    async def until(self, condition: Callable[[], bool], missing: NotDone) -> None:
        """Return when the condition holds, which is asked ten times a second.

        Raises:
            NotDone: the run has ended, or ``missing`` because time is up.
        """
        deadline = time.monotonic() + self.seconds
        while not condition():
            if self.following.done():
                self.following.result()
                raise NotDone("the run has ended meanwhile")
            if time.monotonic() >= deadline:
                raise missing
            await asyncio.sleep(LOOK_SECONDS)


async def _bring_about(
    session: ClusterSession, command: Command, host: str, waiting: _Waiting, *, ask: bool
) -> _Outcome:
    store = session.store
    no_plan = NotDone(
        f"run {session.run_id} tells of no shares",
        next_step="wait until it trains; a script takes part only when it trains with trainer.prepare",
    )
    await waiting.until(lambda: bool(store.shares_history), no_plan)
    if host not in {view.host for view in store.rank_views()}:
        raise NotDone(f"no rank of {host} takes part in run {session.run_id}")
    if _holds(store, command, host):
        return _Outcome(store.shares_history[-1], changed=False)
    cost = await _accepted_cost(store, host, ask=ask) if command == "exclude" else None
    begin = store.events.next
    try:
        await session.control(exclusion_message(command, host))
    except RemoteError as error:
        say(str(error))  # the ranks tell each other: one host that got it is enough
    no_answer = NotDone(
        f"the ranks did not say in time that they {command} {host}",
        next_step="the message is on its way and takes effect after the present step; see hetero-tui watch",
    )
    await waiting.until(
        lambda: _holds(store, command, host) or bool(refusal_told(store, begin, command, host)), no_answer
    )
    if not _holds(store, command, host):
        raise NotDone(refusal_told(store, begin, command, host))
    return _Outcome(store.shares_history[-1], changed=True, cost=cost)


def _holds(store: Store, command: Command, host: str) -> bool:
    """Tell whether the plan in force is as wished."""
    return (host in excluded_hosts(store.rank_views())) == (command == "exclude")


async def _accepted_cost(store: Store, host: str, *, ask: bool) -> float | None:
    """Tell what it costs to exclude a host, let the person decide where one is there, and return it in samples/s.

    Raises:
        NotDone: it cannot be, or the person does not want it.
    """
    views = store.rank_views()
    if reason := refusal(views, host):
        raise NotDone(reason)
    say(cost_text(views, store.cluster_view(), host))
    found = without_host(views, store.cluster_view(), host)
    if ask and not await confirmed(f"Exclude {host}?"):
        raise NotDone("nothing was changed")
    return found.cost if found else None


def _document(session: ClusterSession, command: Command, host: str, outcome: _Outcome) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "schema": report.SCHEMA,
        "run": session.run_id,
        "command": command,
        "host": host,
        "changed": outcome.changed,
        "step": plan.step,
        "reason": plan.reason,
        "excluded": sorted(excluded_hosts(session.store.rank_views())),
        "shares": list(plan.shares),
        "predicted_samples_per_second": _number(plan.predicted_samples_per_second),
        "predicted_cost": _number(outcome.cost),
    }


def _number(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None


def _text(command: Command, host: str, outcome: _Outcome) -> str:
    plan = outcome.plan
    shares = "/".join(map(str, plan.shares))
    if not outcome.changed:
        return f"{host} is {'excluded already' if command == 'exclude' else 'not excluded'}; shares {shares}"
    return (
        f"{clean(plan.reason)}, from step {plan.step} on: shares {shares}, "
        f"predicted {rate(plan.predicted_samples_per_second)} samples/s"
    )

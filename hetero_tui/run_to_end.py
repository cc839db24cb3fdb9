"""A run without a screen: launched or taken up, followed to its end, its result printed; also when interrupted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import Any, Final

from hetero_tui import exit_codes, prediction_report, report
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.formats import counted
from hetero_tui.output import print_json, say, show
from hetero_tui.session import LaunchProgress
from hetero_tui.store import Store
from hetero_tui.views import RunState
from remote.errors import RemoteError
from remote.run_end import not_home
from remote.runtime import HostRunState

TOLD_SECONDS: Final = 2.0
NOTHING_BEGUN: Final = "interrupted before a run was started"


async def launch_and_follow(
    session: ClusterSession, *, as_json: bool, detach: bool = False, may_restart: bool = False
) -> int:
    """Launch the session's plan. Interrupted, it stops the run; detached, it returns once training has started.

    With ``may_restart`` a failed run is not the end, and its result no document on standard output.
    """
    try:
        await session.launch(say_progress)
        say(f"run {session.run_id} · kept in {session.run_folder}")
        if detach:
            say("hetero-tui watch follows it; watch or stop brings its results home when it has ended")
            if as_json:
                print_json({"schema": report.SCHEMA, "run": session.run_id})
            return exit_codes.OK
        return await follow(session, as_json=as_json, may_restart=may_restart)
    except asyncio.CancelledError:
        await _stop_interrupted(session, as_json=as_json)
        raise


async def _stop_interrupted(session: ClusterSession, *, as_json: bool) -> None:
    """End the run that was interrupted and print how it stands; interrupted again, say what is left to do.

    Raises:
        RemoteError: it was not ended everywhere, or its results are not home; told behind the result.
    """
    if not session.run_id:
        print_not_begun(as_json=as_json)
        return
    say(f"interrupted: stopping run {session.run_id} on every host and bringing its results home")
    failed: RemoteError | None = None
    try:
        await session.stop(say_progress)
    except asyncio.CancelledError:
        say(f"interrupted again: run {session.run_id} may go on; `hetero-tui stop` ends it and brings its results home")
        _print_result(_result(session, ()), as_json=as_json)
        raise
    except RemoteError as error:
        failed = error
    else:
        await session.attach(session.run_id)  # what the ranks said at their end was read into the run's folder only
    await _print_so_far(session, as_json=as_json)
    if failed is not None:
        raise failed


def print_not_begun(*, as_json: bool) -> None:
    """Say that there is no run to stop, in a document too where one was asked for."""
    say(NOTHING_BEGUN)
    if as_json:
        print_json({"schema": report.SCHEMA, "run": "", "state": "interrupted", "detail": NOTHING_BEGUN})


async def follow(
    session: ClusterSession,
    *,
    as_json: bool,
    well: Collection[RunState] = (RunState.FINISHED,),
    may_restart: bool = False,
) -> int:
    """Follow the run to its end with a progress line a few times a second, and print the result.

    ``well`` are the states at the end with which the command has done what it was asked for. With ``may_restart``
    the result of a failed run is told on standard error: the one document is that of the last run.
    """
    async with asyncio.TaskGroup() as tasks:
        ticker = tasks.create_task(_tick(session))
        await session.follow(say_progress)
        ticker.cancel()
    document = _result(session, await session.run_states())
    if as_json and may_restart and document["state"] == RunState.FAILED:
        say(report.result_text(document))
    else:
        _print_result(document, as_json=as_json)
    if session.kept:
        say(str(not_home(session.run_id, session.kept)))
    return exit_codes.OK if document["state"] in well and not session.kept else exit_codes.FAILED


async def watch(session: ClusterSession, *, as_json: bool) -> int:
    """Follow a run that was taken up. Interrupted, it prints how the run stands and lets it go on."""
    try:
        return await follow(session, as_json=as_json, well=(RunState.FINISHED, RunState.STOPPED))
    except asyncio.CancelledError:
        say(f"interrupted: run {session.run_id} goes on; `hetero-tui watch` takes it up again, `stop` ends it")
        await _print_so_far(session, as_json=as_json)
        raise


async def attach(session: ClusterSession, run_id: str) -> None:
    """Take over a run, and tell every two seconds how much of its past has been read."""
    attaching = asyncio.create_task(session.attach(run_id))
    try:
        while not (await asyncio.wait({attaching}, timeout=TOLD_SECONDS))[0]:
            past = session.past
            say(f"reading what is kept of run {run_id}: {past.fraction:.0%}, {counted(past.lines, 'line')}")
        await attaching
    finally:
        attaching.cancel()


async def _print_so_far(session: ClusterSession, *, as_json: bool) -> None:
    try:
        states: Sequence[HostRunState] = await session.run_states()
    except RemoteError:
        states = ()  # what is known is printed all the same
    _print_result(_result(session, states), as_json=as_json)


def _result(session: ClusterSession, states: Sequence[HostRunState]) -> dict[str, Any]:
    folder = str(session.run_folder or "")
    document = report.result_document(session.run_id, session.store, states, simulated=session.simulated, folder=folder)
    document["checkpoints"] = [str(path) for path in session.checkpoints]
    document["kept_on_hosts"] = dict(session.kept)
    document["prediction"] = prediction_report.compared(session.run_folder, document["samples_per_second"])
    return document


def _print_result(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        show(report.result_text(document))


async def _tick(session: ClusterSession) -> None:
    """Tell errors and warnings soon after they happen, and how far the run is every two seconds."""
    last = ""
    troubles = Troubles(session.store)
    for beat in itertools.count(1):
        await asyncio.sleep(0.5)
        for text in troubles.news():
            say(text)
        line = report.progress_line(session.store)
        if beat % 4 == 0 and line != last:
            say(line)
            last = line


class Troubles:
    """What a person without a screen should know: errors, warnings, and of a host in trouble whatever comes next."""

    def __init__(self, store: Store) -> None:
        """Tells what happens from now on."""
        self._store = store
        self._next = store.events.next
        self._troubled: set[str] = set()

    def news(self) -> list[str]:
        """Return the lines to tell since the last call."""
        records = self._store.events
        told = []
        for number in range(max(self._next, records.first), records.next):
            record = records[number]
            is_trouble = record.level in ("error", "warning")
            is_own = record.kind == "notice" and record.rank < 0
            if not is_trouble and not (is_own and record.host in self._troubled):
                continue
            where = f"{record.host}: " if record.host else ""
            rank = f"rank {record.rank} " if record.rank >= 0 else ""
            told.append(f"{where}{rank}{record.level}: {record.text}" if is_trouble else f"{where}{record.text}")
            if is_own:
                (self._troubled.add if is_trouble else self._troubled.discard)(record.host)
        self._next = records.next
        return told


def say_progress(progress: LaunchProgress) -> None:
    """Tell on standard error what a host is doing."""
    detail = f": {progress.detail}" if progress.detail else ""
    say(f"{progress.host} {progress.phase}{detail}")

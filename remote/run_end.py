"""How a run's end is written down on the master: the rest of its log, the exit codes, what could not be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from remote.errors import RemoteError, ResultsError
from remote.results import HomeReport
from remote.run_dir import Ended, RunDir, RunDirError
from remote.runtime import HostRuntime, State, closing
from remote.text import named

STRAGGLER_SECONDS: Final = 2.0
"""For ranks to leave when there is nothing left for them to finish."""


def stored_run(experiments: Path, cluster: str, run_id: str) -> RunDir | None:
    """Return the folder of a run on this machine, or None when another machine launched it."""
    path = RunDir.folder(experiments, cluster, run_id)
    return RunDir(path) if path.is_dir() else None


async def append_rest(run_dir: RunDir, host: str, runtime: HostRuntime, position: str) -> None:
    """Keep the lines of a host's log behind a position, which nobody has read yet.

    Raises:
        RemoteError: the log could not be read.
    """
    async with closing(runtime.logs(run_dir.run_id, position, follow=False)) as batches:
        async for lines in batches:
            try:
                run_dir.append(host, lines)
            except RunDirError:
                return  # another instance of this program follows the run and writes its lines


def write_end(run_dir: RunDir, home: HomeReport) -> None:
    """Write down how a run ended. What was known before counts where the run is gone by now."""
    before = run_dir.read_ended()
    states = {state.host: state for state in before.states} if before else {}
    for host, state in home.states.items():
        if state.state is not State.MISSING or host not in states:
            states[host] = state
    kept = {host: why for host, why in (before.kept if before else {}).items() if host not in home.states}
    kept |= home.kept
    kept |= {host: why for host, why in home.unreachable.items() if before is None or host in before.kept}
    run_dir.write_ended(Ended(tuple(states.values()), kept))


def straggler_grace(run_dir: RunDir, grace: float) -> float:
    """Return for how long ranks may still end by themselves that could not be reached when their run was ended.

    The master's part holds the rendezvous: once it has ended, no other rank completes a step or writes a checkpoint,
    however long it is waited for.

    Args:
        run_dir: the run's folder on this machine.
        grace: what ranks get that can still finish something, in seconds.
    """
    before = run_dir.read_ended()
    if before is None:
        return grace
    ended = {state.host for state in before.states if state.state is State.EXITED}
    return min(grace, STRAGGLER_SECONDS) if run_dir.read_plan().master in ended else grace


def require_ended(run_id: str, home: HomeReport) -> None:
    """Make sure that nothing of a run that was to end is left on any host.

    Raises:
        RemoteError: some hosts could not be asked; there it may still be alive.
        ResultsError: it has ended, but its results are not home.
    """
    if home.unreachable:
        raise RemoteError(
            f"run {run_id} may still be alive on {named(home.unreachable)}",
            next_step="run hetero-tui stop again once they answer",
        )
    if home.kept:
        raise not_home(run_id, home.kept)


def not_home(run_id: str, kept: Mapping[str, str]) -> ResultsError:
    """Return the error that tells why a run was not removed from its hosts, and both ways on."""
    return ResultsError(
        f"run {run_id} has ended, but its results could not be brought home, so it stays on {named(kept)}",
        next_step="mend that and run hetero-tui stop again, or give the results up with hetero-tui stop --discard",
    )

"""What a run has written comes home before anything of it is removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from remote.checkpoints import DIGEST_SUFFIX, FOLDER, read_digest, step_of
from remote.errors import RemoteError, ResultsError
from remote.progress import LaunchProgress
from remote.run_dir import file_name
from remote.runtime import Fetched, FetchReport, HostRunState, HostRuntime, State
from remote.text import one_line
from remote.unpack import Arrived, Unpacked, unpack

OTHERS: Final = "output"
"""Below the run's folder: what a run wrote besides checkpoints, by host."""
END_GRACE: Final = 10.0
"""Seconds for the ranks to finish their step and to write a last checkpoint."""
STATE_SECONDS: Final = 8.0
"""A host that does not even say how the run stands within this time does not answer: it may be frozen."""
ANSWER_SECONDS: Final = 15.0
"""A host has this long to end or remove its part beyond what the ranks may take: disks of busy hosts are slow."""

Report = Callable[[LaunchProgress], None]


@dataclass(frozen=True, slots=True)
class Archive:
    """One tar stream of a host's output folder, or of a part of it."""

    chunks: AsyncIterator[bytes]
    below: str = ""
    """The part of the output folder that the members' paths are relative to."""
    strip: int = 0
    """Leading components of the members' paths that are not part of it."""


Source = Callable[[bool], AsyncGenerator[Archive, None]]
"""Opens a host's output; with False, older checkpoints may be left out."""


async def fetch_output(source: Source, host: str, folder: Path, report: Report, *, everything: bool) -> FetchReport:
    """Bring a host's output folder home; see ``HostRuntime.fetch``.

    When the newest checkpoint turns out to be damaged, the older ones are asked for too.

    Raises:
        ResultsError: there are checkpoints, and none is good.
        OSError: this machine's disk.
    """
    for whole in (True,) if everything else (False, True):
        found = await _fetch_once(source(whole), host, folder, report, everything=everything)
        damaged = [name for name in found.refused if step_of(PurePosixPath(name).name) is not None]
        if found.checkpoints or not damaged:
            return found
    named = "; ".join(f"{name}: {found.refused[name]}" for name in damaged)
    raise ResultsError(f"no checkpoint there is good ({named})", host=host)


async def _fetch_once(
    archives: AsyncGenerator[Archive, None], host: str, folder: Path, report: Report, *, everything: bool
) -> FetchReport:
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))

    def began(path: PurePosixPath, size: int) -> None:
        if size > 1 << 16:
            report(LaunchProgress(host, "fetching", f"{path.name}, {size / 1e6:.1f} MB"))

    try:
        found = Unpacked()
        async with aclosing(archives) as opened:
            async for archive in opened:
                part = await unpack(archive.chunks, arriving, _placing(archive), host=host, began=began)
                found.files |= part.files
                found.refused |= part.refused
        return _settle(found, arriving, host, folder, everything=everything)
    finally:
        await asyncio.to_thread(shutil.rmtree, arriving)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _placing(archive: Archive) -> Callable[[PurePosixPath], PurePosixPath | None]:
    def place(path: PurePosixPath) -> PurePosixPath | None:
        relative = PurePosixPath(archive.below, *path.parts[archive.strip :])
        is_unfinished = relative.suffix == ".part" and relative.parts[0] == FOLDER
        return None if is_unfinished or not relative.parts else relative

    return place


def _settle(found: Unpacked, arriving: Path, host: str, folder: Path, *, everything: bool) -> FetchReport:
    """Move what is good to its place, each file in one step, the digest of a checkpoint last."""
    refused = dict(found.refused)
    good: list[PurePosixPath] = []
    others: list[Fetched] = []
    for path, arrived in sorted(found.files.items()):
        is_checkpoint_folder = len(path.parts) == 2 and path.parts[0] == FOLDER
        if is_checkpoint_folder and step_of(path.name) is not None:
            reason = _damage(arriving / path, arrived)
            if reason:
                refused[str(path)] = reason
            else:
                good.append(path)
        elif not (is_checkpoint_folder and step_of(path.name.removesuffix(DIGEST_SUFFIX)) is not None):
            target = folder / OTHERS / file_name(host) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (arriving / path).replace(target)
            others.append(Fetched(target, arrived.size, arrived.sha256))
    good.sort(key=lambda path: step_of(path.name) or 0)
    kept = good if everything else good[-1:]
    checkpoints = []
    for path in kept:
        target = folder / FOLDER / path.name
        target.parent.mkdir(exist_ok=True)
        target.with_name(target.name + DIGEST_SUFFIX).unlink(missing_ok=True)
        (arriving / path).replace(target)
        (arriving / path).with_name(path.name + DIGEST_SUFFIX).replace(target.with_name(target.name + DIGEST_SUFFIX))
        _flush_folder(target.parent)
        checkpoints.append(Fetched(target, found.files[path].size, found.files[path].sha256))
    return FetchReport(host, tuple(checkpoints), tuple(others), refused)


def _damage(path: Path, arrived: Arrived) -> str:
    told = read_digest(path.with_name(path.name + DIGEST_SUFFIX))
    if not told:
        return "its digest is missing: it was not written to the end"
    return "" if told == arrived.sha256 else "its content does not match its digest: it is truncated or damaged"


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class HomeReport:
    """How the end of a run went on every host."""

    states: dict[str, HostRunState] = field(default_factory=dict)
    """How the run stood when it had ended and before it was removed."""
    fetched: dict[str, FetchReport] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    """Hosts where the run has ended but stays, for its results could not be brought home, with the reason."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Hosts where it may still be alive, with the reason."""


async def bring_home(
    run_id: str,
    runtimes: Mapping[str, HostRuntime],
    folder: Path,
    report: Report,
    *,
    discard: bool = False,
    may_end: bool = True,
    grace: float = END_GRACE,
    ended: Callable[[str, HostRuntime], Awaitable[None]] | None = None,
) -> HomeReport:
    """End a run on every host, bring home what it has written, and only then remove it. Repeating it does no harm.

    Args:
        run_id: which run.
        runtimes: by host name.
        folder: the run's folder on this machine.
        report: told of each host's progress.
        discard: remove without bringing anything home.
        may_end: with False, a host where it still runs is left alone.
        grace: seconds for the ranks to end by themselves.
        ended: called for each host between the end and the removal, for example to read the rest of its log.
    """
    home = HomeReport()

    async def one(host: str, runtime: HostRuntime) -> None:
        try:
            state = await _state(run_id, runtime)
            if state.state is State.RUNNING and not may_end:
                home.kept[host] = "it still runs there"
                report(LaunchProgress(host, "kept", home.kept[host]))
                return
            if state.state is State.RUNNING:
                report(LaunchProgress(host, "ending"))
                async with _answering("the run did not end", grace + ANSWER_SECONDS):
                    await runtime.end(run_id, grace=grace)
                state = await _state(run_id, runtime)
            home.states[host] = state
            if state.state in (State.RUNNING, State.EXITED) and not discard:
                if ended is not None:
                    await _tell_ended(run_id, host, runtime, ended)
                if not await _fetch_or_keep(run_id, host, runtime, folder, report, home):
                    return
            async with _answering("the run was not removed", grace + ANSWER_SECONDS):
                await runtime.stop(run_id, grace=grace)
        except (RemoteError, TimeoutError, OSError) as error:
            home.unreachable[host] = one_line(error)
            report(LaunchProgress(host, "failed", f"may still run: {home.unreachable[host]}"))
        else:
            report(LaunchProgress(host, "stopped"))

    async with asyncio.TaskGroup() as group:
        for host, runtime in runtimes.items():
            group.create_task(one(host, runtime))
    return home


async def _state(run_id: str, runtime: HostRuntime) -> HostRunState:
    async with _answering("it did not say how the run stands", STATE_SECONDS):
        return await runtime.inspect(run_id)


@asynccontextmanager
async def _answering(what: str, seconds: float) -> AsyncIterator[None]:
    """Bound a request, and say which one it was that came to nothing."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} within {seconds:.0f} s") from error


async def _tell_ended(
    run_id: str, host: str, runtime: HostRuntime, ended: Callable[[str, HostRuntime], Awaitable[None]]
) -> None:
    try:
        await ended(host, runtime)
    except (RemoteError, TimeoutError, OSError):
        if not await _is_gone(run_id, runtime):
            raise


async def _fetch_or_keep(
    run_id: str, host: str, runtime: HostRuntime, folder: Path, report: Report, home: HomeReport
) -> bool:
    began = time.monotonic()
    try:
        found = home.fetched[host] = await runtime.fetch(run_id, folder, report)
    except (RemoteError, TimeoutError, OSError) as error:
        if await _is_gone(run_id, runtime):
            return True
        home.kept[host] = one_line(error)
        report(LaunchProgress(host, "kept", f"its results could not be brought home: {home.kept[host]}"))
        return False
    for name, reason in found.refused.items():
        report(LaunchProgress(host, "fetching", f"left out {name}: {reason}"))
    for each in found.checkpoints:
        seconds = time.monotonic() - began
        report(LaunchProgress(host, "fetching", f"{each.path.name} is home after {seconds:.1f} s"))
    return True


async def _is_gone(run_id: str, runtime: HostRuntime) -> bool:
    """Whether somebody else ends the same run, as a watching ``up`` does beside ``stop``, and was faster here.

    Nobody removes a run before its results are home, unless they were given up.
    """
    try:
        return (await _state(run_id, runtime)).state is State.MISSING
    except (RemoteError, TimeoutError, OSError):
        return False

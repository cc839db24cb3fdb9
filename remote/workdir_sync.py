"""Bring a snapshot of the code to a host: only contents that it lacks travel, and nothing but our cache is touched."""

from __future__ import annotations

import asyncio
import io
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from remote.errors import CommandFailed
from remote.plan_contract import CODE_CACHE
from remote.progress import LaunchProgress
from remote.runner import Runner
from remote.workdir import Snapshot, WorkdirError

_STEP_SECONDS: Final = 120.0
_SLOWEST_LINK: Final = 100_000
"""Bytes a second that any link is expected to do."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What it took to bring the code to a host."""

    host: str
    files_sent: int
    bytes_sent: int
    was_there: bool
    """The very same tree was there and whole."""


async def sync(runner: Runner, snapshot: Snapshot, home: str) -> Synced:
    """Make the snapshot's tree on the host, at ``tree_folder(home, snapshot.digest)``.

    Args:
        runner: the host's connection.
        snapshot: the code.
        home: home folder of the account on the host.

    Raises:
        ConnectionDropped: the connection was lost; what has arrived is kept and not sent again.
        CommandFailed: the host refused: no room, no tar, no rights.
        WorkdirError: a file changed while it was sent.
    """
    by_digest = snapshot.by_digest()
    asked = await _step(runner, "missing", home, snapshot, "".join(f"{digest}\n" for digest in by_digest).encode())
    lacking = [digest for digest in asked.split() if digest in by_digest]
    sent = 0
    if lacking:
        archive = await asyncio.to_thread(_archive, snapshot, lacking)
        sent = len(archive)
        await _step(runner, "take", home, snapshot, archive)
    answer = await _step(runner, "build", home, snapshot, snapshot.manifest)
    return Synced(runner.host, len(lacking), sent, answer.strip() == "kept")


async def sync_all(
    snapshot: Snapshot,
    hosts: Mapping[str, tuple[Runner, str]],
    report: Callable[[LaunchProgress], None],
) -> tuple[Synced, ...]:
    """Bring the snapshot to all hosts at once, each with its connection and home folder, and tell what was sent.

    Raises:
        RemoteError: the first host that could not take it; the others are let finish.
    """

    async def one(name: str) -> Synced:
        runner, home = hosts[name]
        report(LaunchProgress(name, "creating", "comparing the code"))
        synced = await sync(runner, snapshot, home)
        kept = "the code is there already" if synced.was_there else "the code is there"
        told = f"{kept}: {synced.files_sent} files sent, {synced.bytes_sent / 1000:.0f} kB"
        report(LaunchProgress(name, "creating", told))
        return synced

    outcomes = await asyncio.gather(*(one(name) for name in hosts), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return tuple(outcome for outcome in outcomes if isinstance(outcome, Synced))


def _archive(snapshot: Snapshot, digests: Sequence[str]) -> bytes:
    """Pack contents under their digests."""
    by_digest = snapshot.by_digest()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for digest in digests:
            file = by_digest[digest]
            try:
                content = (snapshot.folder / file.path).read_bytes()
            except OSError as error:
                raise WorkdirError(
                    f"{file.path} went away while the code was sent", next_step="launch again"
                ) from error
            entry = tarfile.TarInfo(digest)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def _step(runner: Runner, step: str, home: str, snapshot: Snapshot, data: bytes) -> str:
    script = files("remote").joinpath("scripts", "workdir.sh").read_text(encoding="utf-8")
    words = ["sh", "-c", script, "workdir.sh", step, f"{home}/{CODE_CACHE}", snapshot.digest]
    seconds = _STEP_SECONDS + len(data) / _SLOWEST_LINK
    done = await runner.run(shlex.join(words), input=data, timeout=seconds)
    if done.exit_status != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1][:300]
        raise CommandFailed(
            f"could not keep the code of {snapshot.folder} ({step}): {said}",
            host=runner.host,
            next_step=f"see whether ~/{CODE_CACHE} can be written and has room: df -h ~",
        )
    return done.stdout

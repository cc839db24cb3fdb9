"""The same data set on every host: compared by name and size, or by content, and what is missing sent from the master.

Each part is read from the master once, however many hosts lack it, and goes over the connections this machine has, so
the hosts need no way to log in to each other. A file appears under its name when its SHA-256 is the master's; an
interrupted one goes on where it stopped. Nothing that was on a host is changed or removed.
"""

from __future__ import annotations

import asyncio
import functools
import re
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from remote.dataset import (
    NUMBER,
    SMALL,
    DatasetError,
    Difference,
    Listing,
    Summary,
    compare,
    groups,
    read_listing,
    read_summary,
)
from remote.dataset_pack import repacked
from remote.errors import CommandFailed, RemoteError
from remote.facts import Facts
from remote.inventory_model import Inventory
from remote.plan_folders import expanded
from remote.runner import Completed, Runner
from remote.runtime import closing

PIECE: Final = 16 << 20
"""Bytes of a large file in one go."""
MOST_READ: Final = 2 * PIECE
"""Bytes of an answer: a piece, or small files packed with their headers."""
_SECONDS: Final = 600.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

SUMMARY_SECONDS: Final = 100.0

Told = Callable[[str, int, int], None]
"""Told (host, bytes that have arrived, bytes in all)."""
Moved = Callable[[str, int], None]
"""Told (host, bytes of a group that have arrived)."""
Work = Callable[[str], Awaitable[None]]
Each = Callable[[Work], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DatasetState:
    """Every host's data set against the master's."""

    sizes: Mapping[str, int]
    """Path → bytes, as the master has them."""
    differences: Mapping[str, Difference]
    free_bytes: Mapping[str, int]
    problems: Mapping[str, str] = field(default_factory=dict)
    """Host → why nothing can be brought there."""
    unfinished: frozenset[str] = frozenset()
    """Hosts with something that arrived and was not put into place."""

    @property
    def is_same(self) -> bool:
        """Whether every host has exactly what the master has."""
        return not (self.problems or self.unfinished) and all(
            each == Difference() for each in self.differences.values()
        )

    @property
    def to_bring(self) -> frozenset[str]:
        """Hosts that :meth:`Dataset.bring` can do something for."""
        lacking = {name for name, each in self.differences.items() if each.lacking}
        return frozenset((lacking | self.unfinished) - self.problems.keys())


async def dataset_of(
    inventory: Inventory,
    names: Sequence[str],
    facts: Callable[[str], Awaitable[Facts]],
    runner: Callable[[str], Runner],
) -> Dataset:
    """Return the data set of a cluster on some of its hosts, as ``data_dir`` names it. Nothing is asked of it yet.

    Raises:
        DatasetError: the inventory names no folder.
        RemoteError: a host could not be asked, or its home folder is not known.
    """
    path = inventory.training.data_dir
    if not path:
        raise DatasetError("no data set is named", next_step="set data_dir under [training] in cluster.toml")
    known = dict(zip(names, await asyncio.gather(*map(facts, names)), strict=True))
    folders = {name: expanded(inventory.host(name), known[name], path) for name in names}
    return Dataset(folders, {name: runner(name) for name in names}, inventory.master.name)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One folder on every host, named as each of them sees it."""

    folders: Mapping[str, str]
    runners: Mapping[str, Runner]
    master: str

    async def summaries(self) -> dict[str, Summary | str]:
        """Return every host's folder in few words, or what it said where that was no answer. Nothing is changed.

        Raises:
            RemoteError: a host could not be asked.
        """

        async def one(name: str) -> Summary | str:
            done = await self._tried(name, "summary", seconds=SUMMARY_SECONDS)
            return read_summary(done.stdout) or f"{done.stdout}{done.stderr}"

        return dict(zip(self.folders, await asyncio.gather(*map(one, self.folders)), strict=True))

    async def look(self, *, contents: bool = False) -> DatasetState:
        """Compare; with ``contents`` by SHA-256, which reads all of it on every host. Nothing is changed.

        Raises:
            DatasetError: the master has no data, or an answer cannot be read.
            RemoteError: a host could not be asked.
        """
        names = list(self.folders)
        listings = dict(zip(names, await asyncio.gather(*map(self._list, names)), strict=True))
        measure = listings[self.master]
        if measure.problem or not measure.files:
            what = {"missing": "is not there", "denied": "may not be read"}.get(measure.problem, "is empty")
            raise DatasetError(
                f"{self.folders[self.master]} {what} on {self.master}, whose data is the measure for all",
                next_step="put the data set there, or correct data_dir",
            )
        others = [name for name in names if name != self.master]
        changed: dict[str, Collection[str]] = dict.fromkeys(others, ())
        if contents:
            found = await asyncio.gather(*(self._changed(name, measure, listings[name]) for name in others))
            changed = dict(zip(others, found, strict=True))
        differences = {name: compare(measure.files, listings[name], tuple(changed[name])) for name in others}
        problems = {name: why for name in others if (why := _obstacle(name, listings[name], differences[name]))}
        free = {name: listings[name].free_bytes for name in others}
        unfinished = frozenset(name for name in others if listings[name].unfinished)
        return DatasetState(measure.files, differences, free, problems, unfinished)

    async def _list(self, name: str) -> Listing:
        return read_listing(name, (await self._run(name, "list")).stdout)

    async def _changed(self, name: str, measure: Listing, listing: Listing) -> tuple[str, ...]:
        same = [path for path, size in measure.files.items() if listing.files.get(path) == size]
        wanted, found = await asyncio.gather(self._digests(self.master, same), self._digests(name, same))
        return tuple(path for path in same if wanted.get(path) != found.get(path))

    async def _digests(self, name: str, paths: Collection[str]) -> dict[str, str]:
        if not paths:
            return {}
        done = await self._run(name, "digest", data="".join(f"{path}\n" for path in paths).encode(), seconds=None)
        pairs = (line.partition(" ") for line in done.stdout.splitlines())
        found = {path: digest for digest, _, path in pairs if _SHA256.fullmatch(digest)}
        if missing := [path for path in paths if path not in found]:
            raise CommandFailed(
                f"it told no digest of {missing[0]}",
                host=name,
                next_step="see whether the file is there and can be read",
            )
        return found

    async def bring(self, state: DatasetState, told: Told) -> dict[str, RemoteError]:
        """Send what is missing and return why some hosts did not get it; the others are not held up.

        Raises:
            RemoteError: the master's data could not be read.
        """
        failures: dict[str, RemoteError] = {
            name: CommandFailed(why, host=name, next_step="see to it, then try again")
            for name, why in state.problems.items()
        }
        lacking = {
            name: frozenset(each.lacking) for name, each in state.differences.items() if name not in state.problems
        }
        arrived = dict.fromkeys(lacking, 0)
        everything = sorted(frozenset().union(*lacking.values()))

        async def guarded(names: Collection[str], work: Work) -> None:
            """Let each host do its part; one that fails is left out from then on."""

            async def one(name: str) -> None:
                try:
                    await work(name)
                except RemoteError as error:
                    failures[name] = error

            await asyncio.gather(*(one(name) for name in names if name not in failures))

        for group in groups(everything, state.sizes):
            targets = [name for name in lacking if not lacking[name].isdisjoint(group) and name not in failures]
            if not targets:
                continue
            digests = await self._digests(self.master, group)

            def moved(name: str, arriving: int) -> None:
                told(name, arrived[name] + arriving, state.differences[name].bytes_lacking)

            await self._send(group, state.sizes, functools.partial(guarded, targets), moved)

            async def finish(name: str, group: tuple[str, ...] = group, digests: dict[str, str] = digests) -> None:
                wanted = [path for path in group if path in lacking[name]]
                await self._finish(name, "".join(f"{digests[path]} {path}\n" for path in wanted).encode())

            await guarded(targets, finish)
            for name in targets:
                arrived[name] += sum(state.sizes[path] for path in group if path in lacking[name])
                if name not in failures:
                    told(name, arrived[name], state.differences[name].bytes_lacking)

        async def clean(name: str) -> None:
            await self._run(name, "clean")

        await guarded(sorted(state.to_bring), clean)
        return failures

    async def _send(self, group: tuple[str, ...], sizes: Mapping[str, int], each: Each, moved: Moved) -> None:
        """Bring a group to the incoming folder of every host that lacks any of it."""
        if len(group) > 1 or sizes[group[0]] <= SMALL:
            said = await self._read("pack", *(f"./{path}" for path in group))
            packed = await asyncio.to_thread(repacked, self.master, said, group)

            async def take(name: str) -> None:
                await self._run(name, "take", data=packed)

            await each(take)
            return
        (path,) = group
        have: dict[str, int] = {}

        async def ask(name: str) -> None:
            said = (await self._run(name, "have", path)).stdout.strip()
            if not NUMBER.fullmatch(said):
                raise CommandFailed(
                    f"it did not say how much of {path} has arrived: {said[:100]!r}",
                    host=name,
                    next_step="see what its shell prints at login, and silence it",
                )
            # Too much of it is no part of this file: what finish finds damaged is removed.
            have[name] = min(int(said), sizes[path])

        await each(ask)
        for start in range(0, sizes[path], PIECE):
            end = min(start + PIECE, sizes[path])
            if all(reached >= end for reached in have.values()):
                continue
            piece = await self._read("piece", str(start), str(end - start), path)

            async def append(name: str, piece: bytes = piece, start: int = start, end: int = end) -> None:
                if have[name] < end:
                    await self._run(name, "append", path, data=piece[have[name] - start :])
                    have[name] = end
                    moved(name, end)

            await each(append)

    async def _read(self, step: str, *arguments: str) -> bytes:
        chunks = self.runners[self.master].stream(self.command(self.master, step, *arguments))
        read = bytearray()
        async with closing(chunks):
            async for chunk in chunks:
                read += chunk
                if len(read) > MOST_READ:
                    raise CommandFailed(
                        f"it sent more than was asked for ({step})", host=self.master, next_step="try again"
                    )
        return bytes(read)

    async def _finish(self, name: str, manifest: bytes) -> None:
        said = (await self._run(name, "finish", data=manifest, seconds=None)).stdout
        if said.strip():
            raise CommandFailed(
                f"{len(said.splitlines())} files did not arrive: {said.splitlines()[0][:200]}",
                host=name,
                next_step="try again: a file that changed meanwhile is compared anew",
            )

    async def _run(
        self, name: str, step: str, *arguments: str, data: bytes = b"", seconds: float | None = _SECONDS
    ) -> Completed:
        done = await self._tried(name, step, *arguments, data=data, seconds=seconds)
        if done.exit_status == 0:
            return done
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1][:300]
        raise CommandFailed(
            f"the data set in {self.folders[name]} could not be worked on ({step}): {said}",
            host=name,
            next_step=f"see whether {self.folders[name]} can be written and has room",
        )

    async def _tried(
        self, name: str, step: str, *arguments: str, data: bytes = b"", seconds: float | None
    ) -> Completed:
        try:
            return await self.runners[name].run(self.command(name, step, *arguments), input=data, timeout=seconds)
        except TimeoutError as error:
            raise CommandFailed(
                f"{self.folders[name]} was not worked through ({step}) within {seconds:g} s",
                host=name,
                next_step="see whether its disk and the link to it are well, then try again: it goes on where it was",
            ) from error

    def command(self, name: str, step: str, *arguments: str) -> str:
        """Return the command line of a step."""
        script = files("remote").joinpath("scripts", "dataset.sh").read_text(encoding="utf-8")
        return shlex.join(["sh", "-c", script, "dataset.sh", step, self.folders[name], *arguments])


def _obstacle(name: str, listing: Listing, difference: Difference) -> str:
    if listing.problem == "denied":
        return "the folder may not be read"
    if difference.differing:
        first = difference.differing[0]
        more = f" and {len(difference.differing) - 1} more" if len(difference.differing) > 1 else ""
        return f"{first}{more} differ from the master's; they are not overwritten: move them away on {name}"
    to_arrive = difference.bytes_lacking - listing.incoming_bytes
    if to_arrive > listing.free_bytes:
        return f"{to_arrive / 1e9:.2f} GB are missing and {listing.free_bytes / 1e9:.2f} GB are free there"
    return ""

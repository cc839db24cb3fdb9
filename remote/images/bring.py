"""Carries out an ``ImagePlan``: every source is read once, all hosts at the same time, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from remote.errors import ConnectError, ConnectionDropped, ImageError, RemoteError
from remote.images.model import HostImagePlan, ImagePlan, ImageProgress, Report
from remote.images.neighbours import THIS, Fan, relay
from remote.images.packing import Packer
from remote.images.places import Places
from remote.images.read import read_image
from remote.images.registry_pull import pull_from_registry
from remote.images.send import Delivery
from remote.images.store import LayerStore, StoredImage

Build = Callable[[HostImagePlan, Report], Awaitable[None]]
"""Builds a host's image on ``source``; raises ``RemoteError``."""


@dataclass(frozen=True, slots=True)
class Brought:
    """How it went."""

    failures: dict[str, RemoteError] = field(default_factory=dict)
    """Host → why it has no image."""
    moved: dict[str, int] = field(default_factory=dict)
    """Host → bytes that were sent to it from here."""
    served: dict[str, str] = field(default_factory=dict)
    """Host → which other host served it instead."""

    def check(self) -> None:
        """Return when every host has its image.

        Raises:
            ImageError: some have not, and why.
        """
        if not self.failures:
            return
        told = "\n".join(f"  {name}: {error.message}" for name, error in self.failures.items())
        steps = {error.next_step: None for error in self.failures.values() if error.next_step}
        raise ImageError(f"not every host has its image:\n{told}", next_step="\n  → ".join(steps))


class Bringing:
    """One go at bringing images; hosts can be cancelled one by one."""

    def __init__(self, plan: ImagePlan, places: Places, store: LayerStore, report: Report, build: Build) -> None:
        """Nothing happens before ``run``."""
        self.plan = plan
        self._places = places
        self._store = store
        self._report = report
        self._build = build
        self._reads: dict[tuple[str, str], asyncio.Task[StoredImage]] = {}
        self._builds: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._packer = Packer(store)
        self._fans: dict[tuple[str, str], Fan] = {}
        self._result = Brought()

    async def run(self, only: Collection[str] | None = None) -> Brought:
        """Bring what is missing; hosts that fail do not hold up the others. Cancelled, it leaves nothing unfinished."""
        chosen = [each for each in self.plan.missing if only is None or each.host in only]
        for each in self.plan.impossible:
            if only is None or each.host in only:
                self._fail(each.host, ImageError(each.why, host=each.host, next_step=each.next_step))
        for each in chosen:
            self._report(ImageProgress(each.host, "waiting", total=each.bytes_to_move or 0, detail=each.why))
            self._tasks[each.host] = asyncio.create_task(self._bring(each), name=f"image for {each.host}")
        try:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        finally:
            await _end([*self._tasks.values(), *self._reads.values(), *self._builds.values()])
            await self._packer.close()
            for fan in self._fans.values():
                await fan.close()
        for name, task in self._tasks.items():
            if task.cancelled():
                self._fail(name, ImageError("cancelled", host=name, next_step="start it again when you want it"))
            elif isinstance(error := task.exception(), RemoteError):
                self._fail(name, error)
            elif error is not None:
                raise error
        await self._from_neighbours(chosen)
        return self._result

    def cancel(self, host: str) -> None:
        """Give up one host; the others go on."""
        if host in self._tasks:
            self._tasks[host].cancel()

    def _fail(self, host: str, error: RemoteError) -> None:
        self._result.failures[host] = error
        self._report(ImageProgress(host, "failed", detail=error.message))

    async def _bring(self, plan: HostImagePlan) -> None:
        match plan.method:
            case "registry":
                engine = await self._places.engine(plan.host)
                await pull_from_registry(engine, plan.ref, self._report)
                self._report(ImageProgress(plan.host, "done"))
            case "build":
                await self._built(plan)
                if plan.source != plan.host:
                    await self._send(plan, plan.source)
                else:
                    self._report(ImageProgress(plan.host, "done"))
            case _:
                await self._send(plan, plan.source)

    async def _built(self, plan: HostImagePlan) -> None:
        key = (plan.source, plan.ref)
        if key not in self._builds:
            self._builds[key] = asyncio.ensure_future(self._build(plan, self._report))
        await asyncio.shield(self._builds[key])

    async def _send(self, plan: HostImagePlan, source: str) -> None:
        key = (source, plan.ref)
        if key not in self._reads:
            self._reads[key] = asyncio.create_task(
                read_image(self._places, source, plan.ref, self._store, self._read_report(source, plan.ref))
            )
        image = await asyncio.shield(self._reads[key])
        fan = self._fan(key)
        server, well = await fan.server(plan.host), False
        try:
            if server == THIS or not await self._served_by(server, plan, image):
                await self._deliver(plan, image)
            well = True
        finally:
            fan.served(server, plan.host, well=well)

    def _fan(self, key: tuple[str, str]) -> Fan:
        """Return who serves whom with an image: all hosts that get most of it from the same source."""
        if key not in self._fans:
            hosts = [
                each.host
                for each in self.plan.missing
                if (each.source, each.ref) == key
                and each.host in self._tasks
                and each.wants_most
                and each.host != key[0]
            ]
            self._fans[key] = Fan(self._places, tuple(hosts))
        return self._fans[key]

    async def _served_by(self, server: str, plan: HostImagePlan, image: StoredImage) -> bool:
        """Let another host serve this one. Returns False where that does not work."""
        try:
            await relay(self._places, server, plan.host, plan.ref, image, self._report)
        except RemoteError as error:
            detail = f"from here, for {server} could not: {error.message}"
            self._report(ImageProgress(plan.host, "waiting", total=image.size, detail=detail))
            return False
        self._result.served[plan.host] = server
        return True

    async def _deliver(self, plan: HostImagePlan, image: StoredImage) -> None:
        delivery = Delivery(self._places, plan.host, plan.ref, image, self._store, self._report, self._packer)
        try:
            await delivery.run()
        finally:
            self._result.moved[plan.host] = self._result.moved.get(plan.host, 0) + delivery.moved

    def _read_report(self, source: str, ref: str) -> Report:
        """Show the reading on every host that waits for it."""
        waiting = [
            each.host
            for each in self.plan.missing
            if (each.source, each.ref) == (source, ref) and each.host in self._tasks
        ]

        def report(progress: ImageProgress) -> None:
            for host in waiting:
                if not self._tasks[host].done():
                    self._report(
                        ImageProgress(
                            host,
                            progress.phase,
                            progress.done,
                            progress.total,
                            progress.rate,
                            detail=f"reading it on {source}",
                        )
                    )

        return report

    async def _from_neighbours(self, chosen: Collection[HostImagePlan]) -> None:
        """Send to hosts that could not pull from one that could: the registry may let only some in."""
        pulled = {each.ref: each.host for each in chosen if each.method == "registry"}
        for each in chosen:
            error = self._result.failures.get(each.host)
            if each.method != "registry" or error is None or isinstance(error, (ConnectError, ConnectionDropped)):
                continue
            source = next(
                (
                    other.host
                    for other in chosen
                    if other.ref == each.ref and other.host in self._tasks and other.host not in self._result.failures
                ),
                "",
            )
            if not source or each.ref not in pulled or self._tasks[each.host].cancelled():
                continue
            if await self._architecture(source, each.ref) != await self._host_architecture(each.host):
                continue
            self._report(ImageProgress(each.host, "waiting", detail=f"{source} has it now: sent from there"))
            try:
                await self._send(each, source)
            except RemoteError as second:
                self._fail(each.host, second)
            else:
                del self._result.failures[each.host]

    async def _architecture(self, host: str, ref: str) -> str:
        image = await (await self._places.engine(host)).image(ref)
        return image.architecture if image is not None else ""

    async def _host_architecture(self, host: str) -> str:
        return str((await (await self._places.engine(host)).version()).get("Arch") or "")


async def _end(tasks: Collection[asyncio.Future[StoredImage] | asyncio.Future[None]]) -> None:
    """Cancel what still runs and wait for it; errors were looked at by whoever waited for them."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, (RemoteError, asyncio.CancelledError)):
            raise result

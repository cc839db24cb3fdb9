"""Everything a session does with images: plan, bring, list what was put on the hosts, remove exactly that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remote.errors import ImageError, RemoteError
from remote.images.bring import Bringing, Brought
from remote.images.build import build_image, build_label
from remote.images.build_context import Context, packed_context
from remote.images.choose import make_image_plan
from remote.images.gather import FactsOf, Gathered, gather_images
from remote.images.model import HostImagePlan, ImagePlan, ImageProgress, Report
from remote.images.places import Places, WithThisMachine
from remote.images.reference import mark_of, marked_ref
from remote.images.store import LayerStore
from remote.inventory import Inventory

_DEVICE_ARGUMENT: Final = re.compile(r"^\s*ARG\s+DEVICE\b", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image this program put on a host."""

    host: str
    ref: str
    image_id: str
    size: int
    """Bytes on the host's disk; layers that other images share are counted in each."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of one image that was to be removed."""

    image: PlacedImage
    kept: str = ""
    """Why it is still there; empty when it is gone."""


class ImageService:
    """Images of one inventory. ``close`` lets go of this machine's engine."""

    def __init__(self, inventory: Inventory, hosts: Places, facts: FactsOf, store: Path | None = None) -> None:
        """``facts`` tells what is known of a host; ``store`` is where layers are kept, the usual place if left out."""
        self._inventory = inventory
        self._places = WithThisMachine(hosts)
        self._facts = facts
        self._store = store
        self.current: Bringing | None = None
        """What is being brought now."""

    async def plan(self) -> ImagePlan:
        """Ask every engine and decide how each host gets its image. Nothing is changed.

        Raises:
            InventoryError: a host has no image.
            ImageError: the build context cannot be packed.
        """
        with ExitStack() as stack:
            _, plan = await self._planned(stack)
            return plan

    async def _planned(self, stack: ExitStack) -> tuple[Mapping[str, tuple[Context, dict[str, str]]], ImagePlan]:
        gathered = await gather_images(self._inventory, self._places, self._facts)
        builds = await asyncio.to_thread(self._contexts, gathered, stack)
        plan = make_image_plan(
            gathered.hosts,
            method=self._inventory.image.method,
            master=self._inventory.master.name,
            others=gathered.others,
            builds={ref: build_label(context, arguments) for ref, (context, arguments) in builds.items()},
            build_on_each=self._inventory.image.build_on == "each",
        )
        return builds, plan

    def _contexts(self, gathered: Gathered, stack: ExitStack) -> dict[str, tuple[Context, dict[str, str]]]:
        """Pack the context and return it for each image with the arguments its build gets."""
        image = self._inventory.image
        if not image.context or image.method not in ("auto", "build"):
            return {}
        folder = Path(image.context).expanduser()
        context = stack.enter_context(packed_context(folder, image.dockerfile))
        knows_device = bool(_DEVICE_ARGUMENT.search((folder / image.dockerfile).read_text("utf-8", "replace")))
        found: dict[str, tuple[Context, dict[str, str]]] = {}
        for state in gathered.hosts:
            if not state.ref:
                continue
            device = {"DEVICE": state.device_class} if knows_device else {}
            arguments = device | image.build_args
            if state.ref in found and found[state.ref][1] != arguments:
                raise ImageError(
                    f"{state.ref} would be built once for cpu and once for cuda under the same name",
                    next_step="give each its own name: variants = { cpu = …, cuda = … } under [image]",
                )
            found[state.ref] = (context, arguments)
        return found

    async def bring(self, report: Report, only: Collection[str] | None = None) -> Brought:
        """Bring what is missing on these hosts, or on all.

        Raises:
            InventoryError: a host has no image.
            ImageError: the build context or the store on this machine cannot be used.
        """
        store = LayerStore.open(self._store)
        with ExitStack() as stack:
            builds, plan = await self._planned(stack)

            async def build(host: HostImagePlan, told: Report) -> None:
                context, arguments = builds[host.ref]
                engine = await self._places.engine(host.source)
                label = build_label(context, arguments)
                waiting = [each.host for each in plan.missing if (each.ref, each.source) == (host.ref, host.source)]

                def say(line: str) -> None:
                    for name in waiting:
                        told(ImageProgress(name, "building", detail=line))

                await build_image(engine, host.ref, context, arguments, label, say)

            self.current = Bringing(plan, self._places, store, report, build)
            try:
                return await self.current.run(only)
            finally:
                self.current = None
                store.prune()

    def cancel(self, host: str) -> None:
        """Give up bringing one host its image; the others go on."""
        if self.current is not None:
            self.current.cancel(host)

    async def placed(self) -> tuple[PlacedImage, ...]:
        """Return what this program put on the hosts, by the second names it gave.

        Raises:
            RemoteError: a host could not be asked.
        """
        names = [host.name for host in self._inventory.hosts if host.runtime == "docker"]
        found = await asyncio.gather(*map(self._placed_on, names))
        return tuple(image for images in found for image in images)

    async def _placed_on(self, host: str) -> tuple[PlacedImage, ...]:
        engine = await self._places.engine(await self._known(host))
        return tuple(
            PlacedImage(host, ref, identity, size)
            for name, identity, size in await engine.image_names()
            if (ref := marked_ref(name)) is not None
        )

    async def _known(self, host: str) -> str:
        """Read the host's facts, which name its engine's socket."""
        await self._facts(host)
        return host

    async def remove(self) -> tuple[Removed, ...]:
        """Remove from every host what this program put there, and only that.

        A name that stands for another image by now is somebody else's and stays; so does an image in use.

        Raises:
            RemoteError: a host could not be asked.
        """
        return tuple(await asyncio.gather(*map(self._remove, await self.placed())))

    async def _remove(self, image: PlacedImage) -> Removed:
        engine = await self._places.engine(image.host)
        try:
            if await engine.is_image_used(image.image_id):
                return Removed(image, "a container uses it")
            now = await engine.image(image.ref)
            if now is not None and now.id == image.image_id:
                await engine.remove_image(image.ref)
            if not await engine.remove_image(":".join(mark_of(image.ref))):
                return Removed(image, "a container uses it")
        except RemoteError as error:
            return Removed(image, error.message)
        return Removed(image)

    async def close(self) -> None:
        """Let go of this machine's engine."""
        await self._places.close()

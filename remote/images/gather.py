"""What every engine has of the images that are wanted: read only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from remote.checks.devices import image_for, wants_gpu
from remote.checks.image import GO_ARCHITECTURES
from remote.engine import Engine, ImageInfo
from remote.errors import RemoteError
from remote.facts import Facts
from remote.images.build import LABEL_CONTEXT
from remote.images.model import THIS_MACHINE, ImageState, KnownImage
from remote.images.places import WithThisMachine
from remote.inventory import Host, Inventory

FactsOf = Callable[[str], Awaitable[Facts]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The hosts in the order of the inventory, and further machines to read from."""

    hosts: tuple[ImageState, ...]
    others: tuple[ImageState, ...] = ()


async def gather_images(inventory: Inventory, places: WithThisMachine, facts: FactsOf) -> Gathered:
    """Ask every engine, in parallel. A host that cannot be asked says so in its state.

    Raises:
        InventoryError: a host has no image.
    """
    states = await asyncio.gather(*(_state(inventory, host, places, facts) for host in inventory.hosts))
    refs = sorted({state.ref for state in states if state.ref})
    if any(host.is_local for host in inventory.hosts) or not refs or not await places.has_engine_here():
        return Gathered(tuple(states))
    here = await _here(await places.engine(THIS_MACHINE), refs)
    return Gathered(tuple(states), here)


async def _state(inventory: Inventory, host: Host, places: WithThisMachine, facts: FactsOf) -> ImageState:
    if host.runtime != "docker":
        return ImageState(host.name, "", "", uses_containers=False)
    try:
        known = await facts(host.name)
    except RemoteError as error:
        return ImageState(host.name, "", "", problem=error.message)
    ref = image_for(inventory, host, known)
    architecture = GO_ARCHITECTURES.get(known.architecture, known.architecture)
    try:
        engine = await places.engine(host.name)
        image, images = await asyncio.gather(engine.image(ref), engine.images())
        sizes = await engine.layer_sizes(ref) if image is not None else ()
    except RemoteError as error:
        return ImageState(host.name, ref, architecture, free_bytes=known.disk_free, problem=error.message)
    return ImageState(
        host.name,
        ref,
        architecture,
        image=_known(image) if image is not None else None,
        chains=tuple(each.layers for each in images),
        free_bytes=known.disk_free,
        layer_sizes=sizes,
        device_class="cuda" if wants_gpu(host, known) else "cpu",
    )


async def _here(engine: Engine, refs: Sequence[str]) -> tuple[ImageState, ...]:
    states = []
    for ref in refs:
        image = await engine.image(ref)
        if image is not None:
            sizes = await engine.layer_sizes(ref)
            states.append(ImageState(THIS_MACHINE, ref, image.architecture, image=_known(image), layer_sizes=sizes))
    return tuple(states)


def _known(image: ImageInfo) -> KnownImage:
    label = dict(image.labels).get(LABEL_CONTEXT, "")
    return KnownImage(image.id, image.layers, image.architecture, image.size, label)

"""Reading an image from the engine that has it: only its new layers where this machine has the rest, else all of it.

The engine's export (``docker save``) has no single layers, and a classic store writes the whole image to its disk
before the first byte comes. A push has: the engine offers its layers one by one from the top, so after a change of code
the few that are new are taken from a push into this program, and the push is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from remote.answers import json_document, understood
from remote.engine import Engine, ImageInfo
from remote.errors import CommandFailed, EngineError, ForwardingRefused, ImageError
from remote.images.archive import read_archive
from remote.images.engine_kind import uses_containerd
from remote.images.engine_pull import check_message, messages
from remote.images.image_config import compose_config
from remote.images.inbox import Inbox
from remote.images.model import ImageProgress, Report
from remote.images.places import Places
from remote.images.rate import Meter
from remote.images.store import LayerStore, StoredImage, StoredLayer
from remote.images.tunnel import Tunnel

REPORT_SECONDS: Final = 0.2
PUSH_AT_MOST: Final = 1 / 3
"""Share of an image that is rather pushed than exported: engines pack what they push, at some 30 MB/s."""
SILENT_SECONDS: Final = 30.0
"""A push that brings nothing for so long is given up."""
_NO_AUTH: Final = ("X-Registry-Auth", "e30=")


async def read_image(places: Places, source: str, ref: str, store: LayerStore, report: Report) -> StoredImage:
    """Read an image from the engine that has it, unless this machine has its layers already.

    Raises:
        ImageError: it is not there, it is damaged, or this machine's disk is full.
        EngineError: the engine refused.
        ConnectionDropped: the connection was lost.
    """
    engine = await places.engine(source)
    info = await engine.image(ref)
    if info is None:
        raise ImageError(f"{ref} is not there any more", host=source, next_step="look again: hetero-tui images")
    known = store.recall(info.id)
    if known is not None and known.diff_ids == info.layers:
        return known
    new = new_layers(info, store)
    if new is not None and not await uses_containerd(engine):
        try:
            return await _read_new(places, engine, info, new, store, report)
        except (CommandFailed, EngineError, ForwardingRefused) as error:
            report(ImageProgress(source, "reading", detail=f"all of it: {error.message}"))
    return await _read_whole(engine, info, store, report)


def new_layers(info: ImageInfo, store: LayerStore) -> tuple[str, ...] | None:
    """Return the layers to be pushed here, the uppermost of the image; None where the export is the better way."""
    kept = 0
    while kept < len(info.layers) and store.has(info.layers[kept]):
        kept += 1
    new = tuple(dict.fromkeys(info.layers[kept:]))
    known_bytes = sum(store.size(layer) for layer in set(info.layers[:kept]))
    return new if kept and max(0, info.size - known_bytes) <= PUSH_AT_MOST * info.size else None


async def _read_new(
    places: Places, engine: Engine, info: ImageInfo, new: Sequence[str], store: LayerStore, report: Report
) -> StoredImage:
    """Take the new layers from a push, and make the configuration of what the engine tells."""
    name = quote(info.ref, safe="/:@")
    inspected, history = await _ask(engine, f"/images/{name}/json"), await _ask(engine, f"/images/{name}/history")
    with understood(engine.host, f"docker history {info.ref}", EngineError):
        config = compose_config(inspected, history)
    if new:
        await _take_push(places, engine, info.id, Inbox(store, new), report)
    layers = tuple(StoredLayer(layer, layer, store.size(layer)) for layer in info.layers)
    image = StoredImage(store.add(config), layers, info.architecture, info.operating_system or "linux")
    store.remember(info.id, image)
    return image


async def _ask(engine: Engine, path: str) -> Any:
    async with engine.request("GET", path, {}) as answer:
        return await json_document(engine.host, path, answer.body)


async def _take_push(places: Places, engine: Engine, image: str, inbox: Inbox, report: Report) -> None:
    """Let the engine push until every wanted layer is here. The name it is pushed by is taken away again.

    Raises:
        EngineError: the engine could not push, or not to here.
        ForwardingRefused: the host's sshd forwards no ports.
        ConnectionDropped: the connection was lost.
    """
    source = engine.host
    meter = Meter({})
    inbox.received = lambda count: meter.note("", meter.moved, count)
    async with Tunnel(places, source, inbox.serve) as tunnel:
        name = f"127.0.0.1:{tunnel.port}/{inbox.repository}"
        await engine.tag_image(image, name, "read")
        pushing = asyncio.create_task(_push(engine, name))
        arrived = asyncio.create_task(inbox.complete.wait())
        try:
            heard, moved = meter.clock(), 0
            while not inbox.complete.is_set():
                report(ImageProgress(source, "reading", meter.moved, 0, meter.rate, detail="only what is new"))
                await asyncio.wait((pushing, arrived), timeout=REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if pushing.done() and not inbox.complete.is_set():
                    pushing.result()
                    raise EngineError("the push ended without the new layers", host=source)
                if meter.moved > moved:
                    heard, moved = meter.clock(), meter.moved
                elif meter.clock() - heard > SILENT_SECONDS:
                    raise EngineError(f"the engine has pushed nothing for {SILENT_SECONDS:g} s", host=source)
        finally:
            arrived.cancel()
            pushing.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineError):
                await pushing
            await engine.remove_image(f"{name}:read")


async def _push(engine: Engine, name: str) -> None:
    async with engine.request("POST", f"/images/{name}/push", {"tag": "read"}, headers=[_NO_AUTH]) as answer:
        async for message in messages(engine.host, answer.body):
            check_message(engine.host, message)


async def _read_whole(engine: Engine, info: ImageInfo, store: LayerStore, report: Report) -> StoredImage:
    source, ref = engine.host, info.ref
    free = store.free_bytes()
    if free < info.size:
        raise ImageError(
            f"{ref} has {info.size / 1e9:.1f} GB and this machine has {free / 1e9:.1f} GB free in {store.folder}",
            next_step="free space there, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
    meter = Meter({"": info.size})

    async def counted(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        last = 0.0
        async for chunk in body:
            meter.note("", meter.moved, len(chunk))
            if (now := meter.clock()) - last > REPORT_SECONDS:
                last = now
                report(ImageProgress(source, "reading", min(meter.moved, info.size), info.size, meter.rate))
            yield chunk

    report(ImageProgress(source, "reading", 0, info.size, detail=f"the engine of {source} packs {ref}"))
    async with engine.request("GET", f"/images/{ref}/get", {}) as answer:
        found = await read_archive(counted(answer.body), store)
    image = next((each for each in found if each.diff_ids == info.layers), None)
    if image is None:
        raise ImageError(f"the archive of {ref} holds another image", host=source, next_step="try again")
    store.remember(info.id, image)
    return image

"""Sending an image: what was read once is brought to any number of engines, only the missing layers.

Two ways into an engine. Much that is missing goes through a registry in this program that the engine pulls from (each
layer continues where it stopped). Little goes as an archive that leaves out the layers the engine has: a second deploy
after a change of code is one small request. The archive is also the way where sshd forwards no ports, or where the
engine lives in a machine of its own whose loopback is another (Docker Desktop).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from remote.engine import Engine
from remote.errors import (
    CommandFailed,
    ConnectError,
    ConnectionDropped,
    EngineError,
    ForwardingRefused,
    ImageError,
    RemoteError,
)
from remote.images.archive import write_archive
from remote.images.choose import common_layers
from remote.images.engine_kind import uses_containerd
from remote.images.engine_pull import DetachedPull, check_message, messages, pull_attached, pull_target
from remote.images.model import ImageProgress, Phase, Report
from remote.images.packing import SMALLEST, Packer, codec_for, has_zstd, link_rate
from remote.images.places import Places
from remote.images.rate import Meter
from remote.images.reference import mark_of, parse_reference
from remote.images.registry import Registry
from remote.images.store import LayerStore, StoredImage, StoredLayer
from remote.images.tunnel import Tunnel
from remote.local import LocalRunner
from remote.runner import ByteStream

LOAD_AT_MOST: Final = 64 << 20
"""Bytes that rather go as one archive than through the registry: little is lost when they must be sent again."""
REPORT_SECONDS: Final = 0.2
FINISH_SECONDS: Final = 30.0
"""How long an engine that was given up may take to unpack what it has."""
INCOMING: Final = "hetero-tui/incoming"


@dataclass(slots=True)
class Delivery:
    """One image on its way to one host."""

    places: Places
    host: str
    ref: str
    image: StoredImage
    store: LayerStore
    report: Report
    packer: Packer | None = None
    """Shared by deliveries of one store, so that each layer is packed once; one of its own when left out."""
    moved: int = 0
    """Bytes handed to the connection, those that were sent twice too."""
    way: str = ""
    """``registry`` or ``archive``."""
    _meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self._meter = Meter({layer.digest: layer.size for layer in self.image.layers})

    async def run(self) -> None:
        """Bring it there, prove that it is the same, give it its name, and note that this program put it there.

        The image that had the name before is not touched until the new one is complete.

        Raises:
            ImageError: what arrived is not what was sent, or no way was left.
            EngineError: the engine refused: no space, wrong image, …
            ConnectError: the host did not come back.
        """
        engine = await self.places.engine(self.host)
        chains = [each.layers for each in await engine.images()]
        kept = common_layers(self.image.diff_ids, chains)
        missing = self.image.layers[kept:]
        if sum(layer.size for layer in missing) >= SMALLEST:
            self.image = await self._packed(engine, missing)
            missing = self.image.layers[kept:]
        self._meter.totals = {layer.digest: layer.size for layer in missing}
        if not missing and (there := await self._already_there(engine)):
            await self._name(there)
            return
        classic = not await uses_containerd(engine)
        if sum(layer.size for layer in missing) <= LOAD_AT_MOST and classic:
            await self._load(engine, kept)
            return
        try:
            await self._pull()
        except ForwardingRefused as error:
            self._tell("sending", detail=f"as an archive: {error.message}")
            await self._load(await self.places.engine(self.host), kept if classic else 0)

    async def _packed(self, engine: Engine, missing: tuple[StoredLayer, ...]) -> StoredImage:
        """Return the image as it travels: packed where the link is slow enough for that to pay."""
        if isinstance(engine.runner, LocalRunner):
            return self.image
        try:
            rate = await link_rate(engine.runner)
        except CommandFailed:
            return self.image  # a host without `cat` takes it as it is
        version = str((await engine.version()).get("Version") or "")
        if codec := codec_for(version, rate, has_zstd=has_zstd()):
            self._tell("waiting", f"packing it with {codec} first: the link does {rate / 1e6:.1f} MB/s")
        packer = self.packer or Packer(self.store)
        try:
            return await packer.packed(self.image, missing, codec)
        finally:
            if self.packer is None:
                await packer.close()

    async def _already_there(self, engine: Engine) -> str:
        """Return the id of an image with exactly these layers and this configuration, under whatever name."""
        if await uses_containerd(engine):
            return ""  # its ids are of manifests, which differ by how the image came
        found = await engine.image(self.image.config)
        return found.id if found is not None and found.layers == self.image.diff_ids else ""

    async def _pull(self) -> None:
        self.way = "registry"
        registry = Registry(self.store, self.image)

        async def answer(stream: ByteStream) -> None:
            await registry.serve(stream, self._served)

        async with Tunnel(self.places, self.host, answer) as tunnel:
            name = f"127.0.0.1:{tunnel.port}/{registry.repository}"
            pinned = f"{name}@{registry.digest}"
            self._tell("sending")
            ticker = asyncio.create_task(self._tick())
            try:
                await self._pull_through(tunnel, registry, pinned)
            except EngineError as error:
                if registry.connections:
                    raise
                raise ForwardingRefused(
                    "the engine does not see the loopback that SSH connects to (Docker Desktop?): " + error.message,
                    host=self.host,
                ) from error
            finally:
                ticker.cancel()
        engine = await self.places.engine(self.host)
        try:
            await self._name(pinned)
        finally:
            await engine.remove_image(pinned)

    async def _pull_through(self, tunnel: Tunnel, registry: Registry, image: str) -> None:
        engine = await self.places.engine(self.host)
        if isinstance(engine.runner, LocalRunner):
            await pull_attached(engine, image)
            return
        pull = DetachedPull(engine.socket, pull_target(engine.api_version, image))
        if not await pull.start(engine.runner):
            await pull_attached(engine, image)
            return
        try:
            while True:
                try:
                    await pull.wait(await tunnel.connected())
                except ConnectionDropped:
                    self._tell("sending", detail="the connection was lost; connecting again")
                else:
                    return
        except BaseException as error:
            registry.closed = True
            if not isinstance(error, EngineError):
                await asyncio.shield(self._abandon(pull, image))
            raise

    async def _abandon(self, pull: DetachedPull, image: str) -> None:
        """End the pull on the host. Where the host is gone it ends by itself: the engine finds no registry.

        An engine that has every byte does not stop: it unpacks them and names the image, so that is waited for.
        """
        complete = self._meter.done >= sum(self._meter.totals.values())
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await pull.stop(await self.places.connected(self.host))
                engine = await self.places.engine(self.host)
                while complete:
                    self._tell("unpacking", "given up: what has arrived is removed")
                    if await engine.image(image) is not None:
                        await engine.remove_image(image)
                        return
                    await asyncio.sleep(REPORT_SECONDS)
        except (RemoteError, TimeoutError):
            return

    async def _load(self, engine: Engine, kept: int) -> None:
        self.way = "archive"
        name = f"{INCOMING}:{secrets.token_hex(8)}"
        without = frozenset(layer.diff_id for layer in self.image.layers[:kept])
        packed = self._counted(write_archive(self.store, self.image, name, without))
        self._tell("sending")
        headers = [("Content-Type", "application/x-tar")]
        try:
            async with engine.request("POST", "/images/load", {"quiet": "1"}, headers=headers, body=packed) as answer:
                async for message in messages(self.host, answer.body):
                    check_message(self.host, message)
            await self._name(name)
        finally:
            await asyncio.shield(self._remove(name))

    async def _remove(self, name: str) -> None:
        try:
            await (await self.places.engine(self.host)).remove_image(name)
        except ConnectError:
            return  # what went wrong before is what the caller hears

    async def _counted(self, packed: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        total = sum(self._meter.totals.values())
        self._meter.totals = {"": total}
        last = 0.0
        async for chunk in packed:
            yield chunk
            self._meter.note("", self._meter.moved, len(chunk))
            self.moved = self._meter.moved
            if (now := self._meter.clock()) - last > REPORT_SECONDS:
                last = now
                self._tell("sending")
        self._tell("unpacking")

    async def _name(self, image: str) -> None:
        """Prove that the engine has exactly these layers, then move the name to it and note it as ours.

        Raises:
            ImageError: the layers differ.
        """
        self._tell("checking")
        engine = await self.places.engine(self.host)
        await verify(engine, image, self.image)
        await put_name(engine, image, self.ref)
        self._tell("done")

    def _served(self, layer: str, first: int, count: int) -> None:
        if layer == self.image.config:
            return
        if layer not in self._meter.totals:  # the engine does not know under which digest it has this layer
            self._meter.totals[layer] = next(each.size for each in self.image.layers if each.digest == layer)
        self._meter.note(layer, first, count)
        self.moved = self._meter.moved

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            total = sum(self._meter.totals.values())
            self._tell("unpacking" if self._meter.done >= total else "sending")

    def _tell(self, phase: Phase, detail: str = "") -> None:
        total = sum(self._meter.totals.values())
        meter = self._meter
        layers = () if "" in meter.totals else meter.layers()
        self.report(ImageProgress(self.host, phase, min(meter.done, total), total, meter.rate, layers, detail))


async def verify(engine: Engine, name: str, image: StoredImage) -> None:
    """Compare the layers an engine has with those that were sent.

    Raises:
        ImageError: they differ, or the image is not there.
    """
    found = await engine.image(name)
    if found is None:
        raise ImageError(f"{name} is not there although it was brought", host=engine.host, next_step="try again")
    if found.layers == image.diff_ids:
        return
    pairs = zip(found.layers, image.diff_ids, strict=False)
    differs = next((number for number, (one, other) in enumerate(pairs, 1) if one != other), 0)
    where = f"layer {differs}" if differs else f"the number of layers, {len(found.layers)} for {len(image.layers)},"
    raise ImageError(f"what arrived is not what was sent: {where} differs", host=engine.host, next_step="try again")


async def put_name(engine: Engine, image: str, ref: str) -> None:
    """Give an image its name and the second one that records that it came from here.

    What this program put there under the same name before, and nothing uses any more, is removed.
    """
    mark_repository, mark_tag = mark_of(ref)
    before = await engine.image(f"{mark_repository}:{mark_tag}")
    wanted = parse_reference(ref)
    if not wanted.is_pinned and image != ref:
        await engine.tag_image(image, wanted.repository, wanted.tag)
    await engine.tag_image(image, mark_repository, mark_tag)
    now = await engine.image(ref)
    if before is None or now is None or before.id == now.id:
        return
    if all(identity != before.id for _, identity, _ in await engine.image_names()):  # somebody may have named it too
        await engine.remove_image(before.id)

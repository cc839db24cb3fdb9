"""Packing layers for slow links: whether it pays, with what, and each layer only once for all hosts.

A packed layer travels both ways that images have: an engine unpacks what it pulls and what it loads, and compares what
comes out with the diff id. Every engine unpacks gzip; zstd since 23.0 (moby pull request 41759).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from remote.errors import CommandFailed, ImageError
from remote.images.store import MEDIA_GZIP, MEDIA_TAR, MEDIA_ZSTD, BlobWriter, LayerStore, StoredImage, StoredLayer
from remote.runner import Runner

Codec = Literal["", "gzip", "zstd"]
MEDIA: Final[dict[Codec, str]] = {"": MEDIA_TAR, "gzip": MEDIA_GZIP, "zstd": MEDIA_ZSTD}
PAYS_BELOW: Final[dict[Codec, float]] = {"gzip": 25e6, "zstd": 100e6}
"""Bytes/s of a link below which packing is over sooner than sending: a third of what one core packs, for a torch image
shrinks to a third (measured: gzip -1 76 MB/s, zstd -1 450 MB/s)."""
SMALLEST: Final = 4 << 20
"""Bytes below which a layer goes as it is."""
SAMPLE: Final = 1 << 20
WORTH: Final = 0.9
"""A layer is packed when a sample from its middle shrinks to less than this."""
CHUNK: Final = 1 << 20
PROBES: Final = (256 << 10, 4 << 20)
"""Bytes sent to measure a link: few, then more where that was over at once."""
AT_ONCE_SECONDS: Final = 0.1
_VERSION: Final = re.compile(r"(\d{1,5})\.")


def codec_for(engine_version: str, bytes_per_second: float, *, has_zstd: bool) -> Codec:
    """Return how layers are packed for an engine at the end of a link, or an empty string where it does not pay."""
    match = _VERSION.match(engine_version)
    codec: Codec = "zstd" if has_zstd and match is not None and int(match[1]) >= 23 else "gzip"
    return codec if bytes_per_second < PAYS_BELOW[codec] else ""


async def link_rate(runner: Runner) -> float:
    """Return bytes/s that this machine gets to a host now, measured with at most 4 MiB.

    Raises:
        CommandFailed: the host could not take them.
        ConnectionDropped: the connection was lost.
    """
    rate = 0.0
    for size in PROBES:
        empty = await _seconds(runner, b"")
        taken = await _seconds(runner, bytes(size))
        rate = size / max(1e-4, taken - empty)
        if taken - empty > AT_ONCE_SECONDS:
            break
    return rate


async def shared_rate(runners: Sequence[Runner]) -> float:
    """Return bytes/s that this machine gets to all of these hosts together, measured with at most 4 MiB each.

    Raises:
        CommandFailed: a host could not take them.
        ConnectionDropped: a connection was lost.
    """
    rate = 0.0
    for size in PROBES:
        begun = time.monotonic()
        await asyncio.gather(*(_seconds(runner, bytes(size)) for runner in runners))
        elapsed = time.monotonic() - begun
        rate = size * len(runners) / max(1e-4, elapsed)
        if elapsed > AT_ONCE_SECONDS * len(runners):
            break
    return rate


async def _seconds(runner: Runner, data: bytes) -> float:
    begun = time.monotonic()
    done = await runner.run("exec cat >/dev/null", input=data, timeout=120.0)
    if done.exit_status != 0:
        raise CommandFailed(f"cat ended with {done.exit_status}", host=runner.host)
    return time.monotonic() - begun


@dataclass(slots=True)
class Packer:
    """Packs layers of a store; whoever asks for the same one meanwhile waits for the same work."""

    store: LayerStore
    _running: dict[tuple[str, Codec], asyncio.Task[StoredLayer]] = field(default_factory=dict)

    async def packed(self, image: StoredImage, missing: tuple[StoredLayer, ...], codec: Codec) -> StoredImage:
        """Return the image with those of the missing layers packed that are worth it.

        Raises:
            ImageError: this machine's disk is full.
        """
        if not codec:
            return image
        found = {layer: await self._layer(layer, codec) for layer in dict.fromkeys(missing)}
        return replace(image, layers=tuple(found.get(layer, layer) for layer in image.layers))

    async def _layer(self, layer: StoredLayer, codec: Codec) -> StoredLayer:
        if layer.media_type != MEDIA_TAR or layer.size < SMALLEST:
            return layer
        if (known := self.store.packed(layer.diff_id, codec)) is not None:
            return known
        key = (layer.diff_id, codec)
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._pack(layer, codec))
            self._running[key].add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(self._running[key])

    async def _pack(self, layer: StoredLayer, codec: Codec) -> StoredLayer:
        path = self.store.path(layer.digest)
        if not await asyncio.to_thread(_shrinks, path, layer.size):
            return layer
        with self.store.new_blob() as blob:
            if codec == "zstd":
                async for piece in _zstd(path):
                    blob.write(piece)
            else:
                await asyncio.to_thread(_gzip, path, blob)
            packed = StoredLayer(blob.finish(), layer.diff_id, blob.size, MEDIA[codec])
        self.store.remember_packed(packed, codec)
        return packed

    async def close(self) -> None:
        """Give up what still runs; nothing unfinished stays."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()


def _shrinks(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, (size - SAMPLE) // 2))
        sample = file.read(SAMPLE)
    return len(zlib.compress(sample, 1)) < WORTH * len(sample)


def _gzip(path: Path, blob: BlobWriter) -> None:
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            blob.write(packer.compress(piece))
    blob.write(packer.flush())


def has_zstd() -> bool:
    """Whether this machine has the program ``zstd``."""
    return shutil.which("zstd") is not None


async def _zstd(path: Path) -> AsyncIterator[bytes]:
    process = await asyncio.create_subprocess_exec(
        *("zstd", "-1", "-T0", "-q", "-c", "--", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        while piece := await process.stdout.read(CHUNK):
            yield piece
        status = await process.wait()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if status != 0:
        raise ImageError(f"zstd ended with {status} on a layer", next_step="see whether it works, or remove it")

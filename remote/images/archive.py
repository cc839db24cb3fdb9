"""What ``docker save`` writes and ``docker load`` reads, as streams.

Three layouts are read (moby ``image/tarexport``, containerd ``images/archive``): up to engine 24 a folder a layer with
``layer.tar``; from 25 on blobs by digest; with the containerd image store blobs that may be compressed. All have
``manifest.json``, which names the configuration and the layers of each image.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from remote.errors import ImageError
from remote.images.store import MEDIA_GZIP, MEDIA_TAR, MEDIA_ZSTD, LayerStore, StoredImage, StoredLayer

BLOCK: Final = tarfile.BLOCKSIZE
CHUNK: Final = 1 << 20
MAX_TEXT: Final = 16 << 20
"""Bytes of a manifest or header record; more is no image."""
MAX_DIGITS: Final = 18
_BLOB: Final = re.compile(r"(?:blobs/sha256/[0-9a-f]{64}|[0-9a-f]{64}/layer\.tar|[0-9a-f]{64}\.json)")
_KEPT: Final = "manifest.json"


@dataclass(slots=True)
class _Source:
    """Bytes in the sizes that a tar wants."""

    chunks: AsyncIterator[bytes]
    _buffer: bytes = b""
    _position: int = 0

    async def some(self, limit: int) -> memoryview:
        """Return between one and ``limit`` bytes.

        Raises:
            ImageError: the stream ended.
        """
        if self._position >= len(self._buffer):
            self._buffer, self._position = await anext(self.chunks, b""), 0
            if not self._buffer:
                raise ImageError("the image broke off in the middle", next_step="read it again")
        piece = memoryview(self._buffer)[self._position : self._position + limit]
        self._position += len(piece)
        return piece

    async def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes."""
        if size > MAX_TEXT:
            raise ImageError(f"a record of {size} bytes in the image's archive: this is no image")
        taken = bytearray()
        while len(taken) < size:
            taken += await self.some(size - len(taken))
        return bytes(taken)

    async def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        while size > 0:
            size -= len(await self.some(size))


@dataclass(slots=True)
class _Entries:
    """What was found in the archive so far."""

    blobs: dict[str, tuple[str, int, bytes]] = field(default_factory=dict)
    """Path in the archive → digest, size and first bytes."""
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    def blob(self, name: str) -> tuple[str, int, bytes]:
        """Return a blob by its path, through links."""
        for _ in range(8):
            if name not in self.links:
                break
            name = self.links[name]
        if name not in self.blobs:
            raise ImageError(f"the image's archive names {name[:100]!r}, which is not in it")
        return self.blobs[name]


async def read_archive(chunks: AsyncIterator[bytes], store: LayerStore) -> tuple[StoredImage, ...]:
    """Take an archive apart into the store, in one pass and without keeping it in memory.

    Raises:
        ImageError: it breaks off, is no image, a digest does not match its content, or the disk is full.
    """
    source, found = _Source(chunks), _Entries()
    overrides: dict[str, str] = {}
    while True:
        header = await source.exactly(BLOCK)
        if not header.strip(b"\0"):
            break
        try:
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ImageError(f"the engine's answer is no image archive: {error}") from error
        if entry.size < 0:
            raise ImageError("the engine's answer is no image archive: a member of negative size")
        padding = -entry.size % BLOCK
        if entry.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            record = await source.exactly(entry.size)
            await source.skip(padding)
            overrides |= _pax(record) if entry.type == tarfile.XHDTYPE else _gnu(entry.type, record)
            continue
        name = posixpath.normpath(overrides.get("path", entry.name))
        size = _size(overrides["size"]) if "size" in overrides else entry.size
        target = overrides.get("linkpath", entry.linkname)
        overrides = {}
        if entry.issym() or entry.islnk():
            base = posixpath.dirname(name) if entry.issym() else ""
            found.links[name] = posixpath.normpath(posixpath.join(base, target))
            continue
        if not entry.isreg():
            continue
        if _BLOB.fullmatch(name):
            found.blobs[name] = await _blob(source, size, store)
            _verify(name, found.blobs[name][0])
        elif name == _KEPT:
            found.texts[name] = await source.exactly(size)
        else:
            await source.skip(size)
        await source.skip(-size % BLOCK)
    return _images(found, store)


async def _blob(source: _Source, size: int, store: LayerStore) -> tuple[str, int, bytes]:
    first = b""
    with store.new_blob() as blob:
        while blob.size < size:
            piece = await source.some(min(CHUNK, size - blob.size))
            first = first or bytes(piece[:4])
            blob.write(piece)
        return blob.finish(), size, first


def _verify(name: str, digest: str) -> None:
    """Compare a blob with the digest that its name claims, where its name is one."""
    claimed = posixpath.basename(name).removesuffix(".json")
    if claimed != "layer.tar" and digest != f"sha256:{claimed}":
        raise ImageError(f"the engine's archive is damaged: {claimed[:12]} has the content of {digest[7:19]}")


def _pax(record: bytes) -> dict[str, str]:
    """Read a pax header's ``LENGTH KEY=VALUE`` lines (POSIX.1-2001, pax)."""
    found = {}
    while record:
        length, _, rest = record.partition(b" ")
        if not length.isdigit() or len(length) > MAX_DIGITS or not 0 < int(length) <= len(record):
            raise ImageError("the engine's answer is no image archive: bad pax header")
        line = rest[: int(length) - len(length) - 2]
        key, _, value = line.decode("utf-8", "surrogateescape").partition("=")
        found[key] = value
        record = record[int(length) :]
    return {key: value for key, value in found.items() if key in ("path", "size", "linkpath")}


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise ImageError("the engine's answer is no image archive: a size that is no number")
    return int(text)


def _gnu(kind: bytes, record: bytes) -> dict[str, str]:
    key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
    return {key: record.rstrip(b"\0").decode("utf-8", "surrogateescape")}


def _images(found: _Entries, store: LayerStore) -> tuple[StoredImage, ...]:
    if _KEPT not in found.texts:
        raise ImageError("the engine's archive has no manifest.json: this is no image")
    try:
        manifests = json.loads(found.texts[_KEPT])
        return tuple(_image(manifest, found, store) for manifest in manifests)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError(f"the engine's archive has a manifest.json of an unknown form: {error!r}") from error


def _image(manifest: Mapping[str, Any], found: _Entries, store: LayerStore) -> StoredImage:
    digest, size, _ = found.blob(posixpath.normpath(manifest["Config"]))
    if size > MAX_TEXT:
        raise ImageError(f"the image's configuration has {size} bytes: this is no image")
    config = json.loads(store.read(digest))
    diff_ids = config["rootfs"]["diff_ids"]
    paths = manifest["Layers"] or []
    if len(diff_ids) != len(paths):
        raise ImageError(f"the image has {len(diff_ids)} layers, its archive {len(paths)}")
    layers = []
    for diff_id, path in zip(diff_ids, paths, strict=True):
        layer, layer_size, first = found.blob(posixpath.normpath(path))
        media_type = _media_type(first)
        if media_type == MEDIA_TAR and layer != diff_id:
            raise ImageError(f"the engine's archive is damaged: layer {diff_id[7:19]} has the content of {layer[7:19]}")
        layers.append(StoredLayer(layer, diff_id, layer_size, media_type))
    return StoredImage(digest, tuple(layers), str(config.get("architecture", "")), str(config.get("os", "linux")))


def _media_type(first: bytes) -> str:
    """Tell a layer's compression by its first bytes (RFC 1952, RFC 8878)."""
    if first.startswith(b"\x1f\x8b"):
        return MEDIA_GZIP
    return MEDIA_ZSTD if first == b"\x28\xb5\x2f\xfd" else MEDIA_TAR


async def write_archive(
    store: LayerStore, image: StoredImage, name: str, without: Collection[str] = ()
) -> AsyncGenerator[bytes, None]:
    """Yield an archive for ``docker load``.

    Args:
        store: has the blobs.
        image: what to load.
        name: ``repository:tag`` it gets.
        without: diff ids that the engine has in the same place of the chain. The classic image store looks a layer up
            by its chain before it opens the file, so the files of these may be missing (moby ``tarexport/load.go``).
    """
    layers = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in image.layers]
    config = f"{image.config.removeprefix('sha256:')}.json"
    manifest = json.dumps([{"Config": config, "RepoTags": [name], "Layers": layers}]).encode()
    yield _file(config, store.read(image.config))
    yield _file(_KEPT, manifest)
    done: set[str] = set()
    for path, layer in zip(layers, image.layers, strict=True):
        if layer.diff_id in without or path in done:
            continue
        done.add(path)
        yield _header(path, layer.size)
        with store.path(layer.digest).open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
        yield bytes(-layer.size % BLOCK)
    yield bytes(2 * BLOCK)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)


def _file(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    buffer.write(_header(name, len(data)))
    buffer.write(data)
    buffer.write(bytes(-len(data) % BLOCK))
    return buffer.getvalue()

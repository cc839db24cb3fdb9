"""Layers on this machine by content: what was read from one engine once can be sent to any other, any number of times.

A folder of blobs named by SHA-256 and, beside it, which blobs make which image. Everything appears under its final
name complete or not at all, so several instances of the program may share the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from remote.errors import ImageError
from trainer.errors import UNFIT

KEEP_BYTES: Final = 30 << 30
"""Layers used longest ago are dropped beyond this."""
MEDIA_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
MEDIA_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MEDIA_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"


def cache_folder() -> Path:
    """Return where layers are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "hetero-tui" / "images"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer as it travels."""

    digest: str
    """SHA-256 of the bytes as they travel; the diff id when they are not compressed."""
    diff_id: str
    """SHA-256 of the uncompressed tar: what every engine calls the layer."""
    size: int
    """Bytes as they travel."""
    media_type: str = MEDIA_TAR


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image whose blobs are all in the store."""

    config: str
    """Digest of the configuration blob."""
    layers: tuple[StoredLayer, ...]
    """The lowest first."""
    architecture: str
    operating_system: str = "linux"

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers as engines call them, the lowest first."""
        return tuple(layer.diff_id for layer in self.layers)

    @property
    def size(self) -> int:
        """Bytes of all layers as they travel."""
        return sum(layer.size for layer in self.layers)


@dataclass(slots=True)
class BlobWriter:
    """Takes one blob's bytes; use it as a context manager so that an unfinished one leaves nothing."""

    store: LayerStore
    _path: Path
    _file: BinaryIO
    _hash: Any = field(default_factory=hashlib.sha256)
    size: int = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            ImageError: this machine's disk is full.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise self.store.refused(error) from error
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        """Digest of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def finish(self) -> str:
        """Put the blob in its place and return its digest."""
        try:
            self._file.close()
            digest = self.digest
            self._path.replace(self.store.path(digest))
        except OSError as error:
            raise self.store.refused(error) from error
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class LayerStore:
    """The folder."""

    folder: Path

    @classmethod
    def open(cls, folder: Path | None = None) -> LayerStore:
        """Use a folder, making it for this user only.

        Raises:
            ImageError: it cannot be made.
        """
        store = cls(folder or cache_folder())
        try:
            for part in (store.blobs, store.records):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise store.refused(error) from error
        return store

    @property
    def blobs(self) -> Path:
        """Where the blobs are."""
        return self.folder / "blobs"

    @property
    def records(self) -> Path:
        """Where it says which blobs make which image."""
        return self.folder / "known"

    def refused(self, error: OSError) -> ImageError:
        """Return the error for a folder that cannot be written."""
        return ImageError(
            f"cannot keep image layers in {self.folder}: {error.strerror or error}",
            next_step="free space there, or set XDG_CACHE_HOME to a folder on a larger disk",
        )

    def path(self, digest: str) -> Path:
        """Return where a blob is or would be."""
        return self.blobs / _hexadecimal(digest)

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.path(digest).is_file()

    def read(self, digest: str) -> bytes:
        """Return a small blob."""
        return self.path(digest).read_bytes()

    def new_blob(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""
        path = self.blobs / f"part-{secrets.token_hex(8)}"
        try:
            return BlobWriter(self, path, path.open("xb"))
        except OSError as error:
            raise self.refused(error) from error

    def add(self, data: bytes) -> str:
        """Keep a small blob and return its digest."""
        with self.new_blob() as blob:
            blob.write(data)
            return blob.finish()

    def remember(self, image_id: str, image: StoredImage) -> None:
        """Note which image an engine's image id stands for."""
        self._note(f"{_hexadecimal(image_id)}.json", image)

    def _note(self, name: str, value: StoredImage | StoredLayer) -> None:
        path = self.records / name
        temporary = path.with_name(f"{name}.{secrets.token_hex(4)}")
        try:
            temporary.write_text(json.dumps(asdict(value), indent=1), "utf-8")
            temporary.replace(path)
        except OSError as error:
            raise self.refused(error) from error

    def recall(self, image_id: str) -> StoredImage | None:
        """Return the image an engine calls by this id when every blob of it is still here."""
        try:
            known = json.loads((self.records / f"{_hexadecimal(image_id)}.json").read_text("utf-8"))
            layers = tuple(StoredLayer(**layer) for layer in known.pop("layers"))
            image = StoredImage(layers=layers, **known)
        except (OSError, *UNFIT):
            return None  # never read, dropped, or written by another release: it is read again
        if not self._is_usable(image):
            return None
        for digest in (image.config, *(layer.digest for layer in image.layers)):
            os.utime(self.path(digest))
        return image

    def _is_usable(self, image: StoredImage) -> bool:
        try:
            return self.is_complete(image)
        except (ImageError, *UNFIT):
            return False  # a record that names something else than digests

    def remember_packed(self, layer: StoredLayer, codec: str) -> None:
        """Note as which blob a layer travels when it is packed."""
        self._note(f"{_hexadecimal(layer.diff_id)}.{codec}", layer)

    def packed(self, diff_id: str, codec: str) -> StoredLayer | None:
        """Return a layer's packed form when it is here."""
        try:
            known = json.loads((self.records / f"{_hexadecimal(diff_id)}.{codec}").read_text("utf-8"))
            layer = StoredLayer(**known)
        except (OSError, *UNFIT):
            return None  # never packed, or written by another release: it is packed again
        try:
            is_here = layer.diff_id == diff_id and self.size(layer.digest) == layer.size
        except (ImageError, *UNFIT):
            return None
        if not is_here:
            return None
        os.utime(self.path(layer.digest))
        return layer

    def is_complete(self, image: StoredImage) -> bool:
        """Whether every blob of an image is here, in its full size."""
        return self.has(image.config) and all(self.size(layer.digest) == layer.size for layer in image.layers)

    def size(self, digest: str) -> int:
        """Return the bytes of a blob, -1 where it is not here."""
        try:
            return self.path(digest).stat().st_size
        except OSError:
            return -1

    def free_bytes(self) -> int:
        """Return the bytes that can still be kept."""
        return shutil.disk_usage(self.folder).free

    def prune(self, keep_bytes: int = KEEP_BYTES, keep: Iterable[str] = ()) -> int:
        """Drop the blobs used longest ago until the rest fits, and return the bytes freed.

        Args:
            keep_bytes: bytes that may stay.
            keep: digests that stay in any case.
        """
        kept = {_hexadecimal(digest) for digest in keep}
        found = sorted(((path, path.stat()) for path in self.blobs.iterdir()), key=lambda each: each[1].st_mtime)
        total, freed = sum(status.st_size for _, status in found), 0
        for path, status in found:
            if total - freed <= keep_bytes:
                break
            if path.name in kept or path.name.startswith("part-"):
                continue
            path.unlink(missing_ok=True)
            freed += status.st_size
        return freed


def _hexadecimal(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise ImageError(f"{digest[:100]!r} is no SHA-256 digest")
    return name

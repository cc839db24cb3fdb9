"""Datasets that are downloaded when the data folder does not hold them: by one rank a folder, checked by SHA-256.

The ranks of a host, or of several hosts that share the folder, agree by a lock on a file in it: one of them downloads,
the others wait, and each of them checks what it finds. A person who brings the file by hand puts it into the same
place, and it is checked and unpacked alike.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Final

from trainer.errors import DataError

TIMEOUT_SECONDS: Final = 30.0
TRIES: Final = 3
LOCK_LOOK_SECONDS: Final = 0.2
PIECE_BYTES: Final = 1 << 20
MIRROR: Final = "HETERO_DATA_URL"
"""Environment variable with the address of a folder that holds the files, in place of their own addresses."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file of the network and what is made of it."""

    url: str
    sha256: str
    bytes: int
    unpacked: tuple[str, ...] = ()
    """Files to take out of the archive, by their names in it and below the data folder; empty: no archive."""

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


CIFAR10: Final = Download(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
    tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
)
CIFAR100: Final = Download(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    168_513_733,
    ("cifar-100-binary/train.bin",),
)
SHAKESPEARE: Final = Download(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
)
"""Plays of Shakespeare, the usual small text."""


def fetch(download: Download, folder: Path, tell: Callable[[str], None], *, allowed: bool = True) -> None:
    """Make sure that ``folder`` holds the checked file and what is unpacked from it.

    Args:
        download: What is wanted.
        folder: The data folder; it is made where it is missing.
        tell: Takes a sentence on what is going on and may take long.
        allowed: False: use only what a person has put there.

    Raises:
        DataError: it is not there and cannot be had; the message says what to put where.
    """
    path = folder / download.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{download.name}.lock", lambda: tell(f"waiting for another rank to download {path}")):
            if not path.is_file():
                if not allowed:
                    raise _missing(download, folder, "downloads are switched off (--no-download)")
                tell(f"downloading {_address(download)} ({download.bytes / 1e6:.0f} MB) to {folder}")
                _download(download, folder, path)
            _check(download, path)
            if not all((folder / name).is_file() for name in download.unpacked):
                _unpack(download, folder, path)
    except OSError as error:
        raise _missing(download, folder, f"{error.filename or folder}: {error.strerror or error}") from error


def _download(download: Download, folder: Path, path: Path) -> None:
    address = _address(download)
    part = path.with_name(f"{path.name}.part")
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:  # noqa: S310 - a constant or the person's own mirror
                _copy(answer, file)
        except urllib.error.HTTPError as error:
            raise _missing(download, folder, f"{address} answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            if left == 0:
                reason = getattr(error, "reason", error)
                raise _missing(download, folder, f"{address} cannot be reached: {reason}") from error
            continue
        _check(download, part)
        part.replace(path)
        return


def _copy(answer: IO[bytes], file: IO[bytes]) -> None:
    while piece := answer.read(PIECE_BYTES):
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())


def _check(download: Download, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != download.sha256:
        size = path.stat().st_size
        path.unlink()
        raise DataError(
            f"{path} has {size} bytes and SHA-256 {found}, expected {download.bytes} bytes and {download.sha256};"
            " it was removed",
            next_step="start again; if it repeats, something on the way changes the file",
        )


def _unpack(download: Download, folder: Path, path: Path) -> None:
    """Take the wanted files out of the archive, one by one and by name: it decides about no path here."""
    try:
        with tarfile.open(path) as archive:
            for name in download.unpacked:
                content = archive.extractfile(name)
                if content is None:
                    raise KeyError(name)
                target = folder / name
                target.parent.mkdir(exist_ok=True)
                part = target.with_name(f"{target.name}.part")
                with part.open("wb") as file:
                    _copy(content, file)
                part.replace(target)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DataError(f"{path} is not the archive it should be: {error}") from error


def _missing(download: Download, folder: Path, reason: str) -> DataError:
    where = f"{', '.join(download.unpacked)} below {folder}, or the archive as " if download.unpacked else ""
    return DataError(
        f"no {download.name} in {folder}, and {reason}",
        next_step=f"on this host put {where}{folder / download.name} ({download.bytes} bytes, SHA-256"
        f" {download.sha256}) from {download.url}, or set {MIRROR} to a folder of your network that has it",
    )


def _address(download: Download) -> str:
    mirror = os.environ.get(MIRROR, "")
    return f"{mirror.rstrip('/')}/{download.name}" if mirror else download.url


@contextlib.contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock; it ends with the process, however that ends."""
    with path.open("w") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    on_wait()
                waiting = True
                time.sleep(LOCK_LOOK_SECONDS)
        yield

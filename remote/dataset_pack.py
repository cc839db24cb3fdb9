"""What one host has packed for others is packed anew: nothing but the files that were asked for reaches them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection
from typing import Final

from remote.errors import CommandFailed
from trainer.errors import UNFIT

_MODE: Final = 0o777
"""Rights that travel; whoever unpacks takes its umask from them."""


def repacked(host: str, packed: bytes, paths: Collection[str]) -> bytes:
    """Return an archive of exactly these files: no link, no device, no path that leads anywhere else.

    Args:
        host: who packed them.
        packed: its archive, with the paths behind ``./``.
        paths: what was asked for.

    Raises:
        CommandFailed: it is no archive, or a file is missing in it.
    """
    buffer = io.BytesIO()
    missing = {f"./{path}" for path in paths}
    try:
        with (
            tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as there,
            tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as here,
        ):
            for member in there:
                # A second name of the same file comes as a link to the first within the archive.
                content = there.extractfile(member) if member.isreg() or member.islnk() else None
                if content is None or member.name not in missing:
                    continue
                data = content.read()
                missing.discard(member.name)
                entry = tarfile.TarInfo(member.name)
                entry.size, entry.mode = len(data), member.mode & _MODE
                here.addfile(entry, io.BytesIO(data))
    except (tarfile.TarError, OSError, EOFError, *UNFIT) as error:
        raise CommandFailed(
            f"what it packed cannot be read: {type(error).__name__}", host=host, next_step="try again"
        ) from error
    if missing:
        raise CommandFailed(
            f"it did not pack {min(missing)[2:]}", host=host, next_step="see whether the file is there and can be read"
        )
    return buffer.getvalue()

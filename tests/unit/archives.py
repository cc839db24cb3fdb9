"""Tar archives as honest and as hostile hosts send them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncGenerator, Sequence

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes) -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, kind: bytes, target: str = "") -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def checkpoint(step: int, content: bytes, below: str = "checkpoints/", digest: str = "") -> list[Member]:
    name = f"step-{step:08d}.pt"
    note = f"{digest or hashlib.sha256(content).hexdigest()}  {name}\n".encode()
    return [file(f"{below}{name}", content), file(f"{below}{name}.sha256", note)]


def packed(members: Sequence[Member], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def stream(content: bytes, size: int = 1000) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), size):
        yield content[start : start + size]

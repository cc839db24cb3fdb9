"""Files in and out of a container, running or not, as streams: nothing is held in memory.

Docker Engine API, "Get an archive of a filesystem resource in a container", "Extract an archive of files", "Get
changes on a container's filesystem".
"""

from __future__ import annotations

import asyncio
import json
import posixpath
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final
from urllib.parse import quote, urlencode

from remote.checkpoints import DIGEST_SUFFIX, FOLDER, newest_complete, step_of
from remote.engine import Engine, engine_error
from remote.engine_http import Answer, request
from remote.plan_contract import OUTPUT_FOLDER
from remote.results import Archive
from remote.runtime import StoredCheckpoint
from trainer.errors import UNFIT

MAX_CHANGES: Final = 8 << 20
"""Bytes of the list of changed files; a longer one is not worth reading."""
PIECE: Final = 1 << 20
NOT_FOUND: Final = 404
LITTLE: Final = 16 << 20
"""Bytes of output that are fetched without asking what may be left out: to answer that, an engine walks the container's
whole file system and the image's (moby, overlay2: ``Changes`` is the naive diff), on a busy host for many seconds."""


async def output_archives(
    engine: Engine, container: str, *, whole: bool, little: int = LITTLE
) -> AsyncGenerator[Archive, None]:
    """Yield the container's output folder; unless ``whole``, without older checkpoints where they can be told apart.

    Args:
        engine: the host's engine.
        container: which one; it may have ended.
        whole: every checkpoint.
        little: output of up to so many bytes comes as it is; it is held in memory meanwhile.

    Raises:
        EngineError: the engine refused.
        ConnectionDropped: the connection was lost; also while reading an archive.
    """
    newest = ""
    if not whole:
        async with _download(engine, container, OUTPUT_FOLDER) as chunks:
            output = b"" if chunks is None else await _all_of(chunks, little)
        if output is not None:
            if output:
                yield Archive(_in_pieces(output), strip=1)
            return
        newest = _only_checkpoint(await _changed(engine, container))
    if newest:
        for name in (newest, newest + DIGEST_SUFFIX):
            async with _download(engine, container, f"{OUTPUT_FOLDER}/{FOLDER}/{name}") as chunks:
                if chunks is not None:
                    yield Archive(chunks, below=FOLDER)
        return
    async with _download(engine, container, OUTPUT_FOLDER) as chunks:
        if chunks is not None:
            yield Archive(chunks, strip=1)


async def place_checkpoint(
    engine: Engine, container: str, checkpoint: StoredCheckpoint, report: Callable[[int], None]
) -> None:
    """Put a checkpoint with its digest into the container's output folder, as the owner of that folder.

    Args:
        engine: the host's engine.
        container: a container that has not been started.
        checkpoint: what to put there.
        report: told the bytes that have been sent so far.

    Raises:
        EngineError: the engine refused.
    """
    owner = await _owner(engine, container)
    headers = [("Content-Type", "application/x-tar")]
    async with aclosing(_packed(checkpoint, owner, report)) as body:
        target = f"/containers/{quote(container, safe='')}/archive"
        async with engine.request("PUT", target, {"path": "/"}, headers=headers, body=body) as answer:
            async for _ in answer.body:
                continue


async def _all_of(chunks: AsyncIterator[bytes], limit: int) -> bytes | None:
    """Return what a stream holds, or None when that is more than ``limit`` bytes."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > limit:
            return None
    return bytes(content)


async def _in_pieces(content: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _only_checkpoint(changed: list[str]) -> str:
    """Return the newest complete checkpoint, or nothing when other files of the run must come home too."""
    below = [path.removeprefix(f"{OUTPUT_FOLDER}/") for path in changed if path.startswith(f"{OUTPUT_FOLDER}/")]
    names = [path.removeprefix(f"{FOLDER}/") for path in below if path.startswith(f"{FOLDER}/")]
    are_checkpoints = all(step_of(name.removesuffix(DIGEST_SUFFIX).removesuffix(".part")) is not None for name in names)
    has_others = any(path != FOLDER and not path.startswith(f"{FOLDER}/") for path in below)
    return newest_complete(names) if are_checkpoints and not has_others else ""


async def _changed(engine: Engine, container: str) -> list[str]:
    """Return the paths that differ from the image, or nothing where the engine cannot say. Volumes do not count."""
    async with _answer(engine, f"/containers/{quote(container, safe='')}/changes", {}) as answer:
        content = b""
        async for chunk in answer.body:
            content += chunk
            if len(content) > MAX_CHANGES:
                return []
    if answer.status >= 400:
        return []
    try:
        return [str(each["Path"]) for each in json.loads(content) or ()]
    except UNFIT:
        return []


async def _owner(engine: Engine, container: str) -> tuple[int, int]:
    """Return user and group id of the output folder; root's where there is none yet."""
    async with _download(engine, container, OUTPUT_FOLDER) as chunks:
        head = b""
        while chunks is not None and len(head) < tarfile.BLOCKSIZE:
            head += await anext(chunks, b"\0" * tarfile.BLOCKSIZE)
    try:
        member = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return 0, 0
    return member.uid, member.gid


async def _packed(
    checkpoint: StoredCheckpoint, owner: tuple[int, int], report: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    folder = posixpath.join(OUTPUT_FOLDER, FOLDER).lstrip("/")
    name = checkpoint.path.name
    note = f"{checkpoint.sha256}  {name}\n".encode()
    yield _header(folder, owner, tarfile.DIRTYPE, 0)
    yield _header(f"{folder}/{name}", owner, tarfile.REGTYPE, checkpoint.size)
    sent = 0
    with checkpoint.path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
            sent += len(piece)
            report(sent)
    yield bytes(-checkpoint.size % tarfile.BLOCKSIZE)
    yield _header(f"{folder}/{name}{DIGEST_SUFFIX}", owner, tarfile.REGTYPE, len(note))
    yield note + bytes(-len(note) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(path: str, owner: tuple[int, int], kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(path)
    member.type, member.size = kind, size
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    member.uid, member.gid = owner
    return member.tobuf(tarfile.PAX_FORMAT)


@asynccontextmanager
async def _download(engine: Engine, container: str, path: str) -> AsyncIterator[AsyncIterator[bytes] | None]:
    """Open a tar stream of a path in the container; None when it is not there."""
    asked = f"/containers/{quote(container, safe='')}/archive"
    async with _answer(engine, asked, {"path": path}) as answer:
        if answer.status == NOT_FOUND:
            yield None
            return
        if answer.status >= 400:
            raise engine_error(engine.host, f"GET {asked}", await answer.error_message())
        yield answer.body


@asynccontextmanager
async def _answer(engine: Engine, path: str, parameters: dict[str, str]) -> AsyncIterator[Answer]:
    """Ask the engine on a connection of its own and leave the judgement of the status to the caller."""
    stream = await engine.runner.open_unix(engine.socket)
    try:
        yield await request(stream, "GET", f"/v{engine.api_version}{path}?{urlencode(parameters)}", engine.host)
    finally:
        await stream.close()

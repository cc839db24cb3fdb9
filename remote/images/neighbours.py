"""A host that has the image serves the next one, where the way out of this machine is what everybody waits for.

Tokens stand for who can serve: this machine, and every host that has the image by now. Each serves one host at a
time. The two hosts talk directly; one engine exports the image and the other loads it, each through a ``python3`` that
ends with it, and the layers are compared like everybody's. Where that does not work this machine sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shlex
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from remote.answers import MAX_LINE, understood
from remote.errors import CommandFailed, EngineError, RemoteError
from remote.images.engine_kind import uses_containerd
from remote.images.engine_pull import check_messages
from remote.images.model import ImageProgress, Report
from remote.images.packing import link_rate, shared_rate
from remote.images.places import Places
from remote.images.rate import Meter
from remote.images.send import put_name, verify
from remote.images.store import StoredImage
from remote.ssh import SshRunner
from trainer.errors import UNFIT

THIS: Final = ""
"""The token of this machine."""
RELAY_RATE: Final = 40e6
"""Bytes/s of an export and a load that run into each other (measured 43 MB/s for an image with torch)."""
PACKED: Final = 3.0
"""How many times smaller an image with torch is on a slow link, where it is packed."""
SHARED: Final = 1.5
"""All hosts at once get less than this many times what one gets alone where it is our way out that is full."""


def neighbours_pay(alone: float, together: float, hosts: int) -> bool:
    """Whether hosts should serve each other.

    With this machine alone the last of ``n`` hosts waits for ``n`` images on the way out; with neighbours for one, and
    for as many exports and loads after each other as it takes to double one to ``n``.

    Args:
        alone: bytes/s to one host.
        together: bytes/s to all of them at the same time, added up.
        hosts: how many.
    """
    if hosts < 2 or together > SHARED * alone:
        return False
    return (hosts - 1) / (PACKED * together) > math.ceil(math.log2(hosts)) / RELAY_RATE


@dataclass(slots=True)
class Fan:
    """Who serves whom with one image."""

    places: Places
    hosts: tuple[str, ...]
    """All that are to get most of it."""
    _tokens: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _decision: asyncio.Task[bool] | None = None

    async def server(self, host: str) -> str:
        """Wait for somebody who serves this host, and return the name; ``THIS`` for this machine."""
        if host not in self.hosts or len(self.hosts) < 2:
            return THIS
        if self._decision is None:
            self._decision = asyncio.create_task(self._decide())
        if not await asyncio.shield(self._decision):
            return THIS
        return await self._tokens.get()

    def served(self, server: str, host: str, *, well: bool) -> None:
        """Take note of the end of a transfer: ``server`` is free again, and ``host`` can serve when it went well."""
        if host not in self.hosts:
            return
        if well:
            self._tokens.put_nowait(host)  # first, for this machine is the slow one
        self._tokens.put_nowait(server)

    async def _decide(self) -> bool:
        try:
            runners = [await self.places.connected(host) for host in self.hosts]
            if not all(isinstance(runner, SshRunner) and runner.far_address for runner in runners):
                return False
            alone = await link_rate(runners[0])
            together = await shared_rate(runners)
        except RemoteError:
            return False  # whoever cannot be measured is sent to like anybody, and says why that fails
        self._tokens.put_nowait(THIS)
        return neighbours_pay(alone, together, len(self.hosts))

    async def close(self) -> None:
        """Give up deciding."""
        if self._decision is not None:
            self._decision.cancel()
            await asyncio.gather(self._decision, return_exceptions=True)


async def relay(places: Places, server: str, host: str, ref: str, image: StoredImage, report: Report) -> None:
    """Bring an image from one host to another without it passing this machine; prove it, then name it.

    Raises:
        RemoteError: it did not work: no ``python3`` there, the hosts do not reach each other, …
    """
    giver, taker = await places.engine(server), await places.engine(host)
    info = await giver.image(ref)
    if info is None or info.layers != image.diff_ids or await uses_containerd(giver) or await uses_containerd(taker):
        raise EngineError(f"{server} cannot serve {ref}", host=host)
    if not isinstance(taker.runner, SshRunner):
        raise EngineError("this machine needs no neighbour", host=host)
    transfer = _Transfer(places, server, host, info.id, image.size, report)
    ended = await transfer.run(giver.socket, taker.runner, taker.socket)
    _check(host, ended)
    report(ImageProgress(host, "checking", image.size, image.size))
    await verify(taker, info.id, image)
    await put_name(taker, info.id, ref)
    report(ImageProgress(host, "done", image.size, image.size))


@dataclass(slots=True)
class _Transfer:
    """The two commands that run against each other."""

    places: Places
    server: str
    host: str
    image: str
    """Its id, so that loading it moves no name."""
    size: int
    report: Report
    _open: asyncio.Future[tuple[str, str]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Port and key of the listener."""
    _ended: str = ""

    async def run(self, giver_socket: str, taker: SshRunner, taker_socket: str) -> str:
        """Return what the loading engine answered.

        Raises:
            RemoteError: one of the two failed; the other was ended.
        """
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._take(taker, taker_socket))
                both.create_task(self._give(giver_socket, taker.far_address))
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if isinstance(first, RemoteError):
                raise first from group
            raise CommandFailed(f"the transfer from {self.server} failed: {first}", host=self.host) from group
        return self._ended

    async def _take(self, runner: SshRunner, socket: str) -> None:
        meter = Meter({"": self.size})
        async with contextlib.aclosing(runner.stream(_command("take", socket, runner.far_address))) as chunks:
            async for line in _lines(chunks):
                word, _, rest = line.partition(" ")
                if not self._open.done():
                    self._open.set_result((word, rest))
                elif word == "moved":
                    with understood(self.host, "how much has moved"):
                        meter.note("", meter.moved, int(rest) - meter.moved)
                    done = min(meter.moved, self.size)
                    detail = f"from {self.server}, for the way out of this machine is full"
                    self.report(ImageProgress(self.host, "sending", done, self.size, meter.rate, detail=detail))
                elif word == "end":
                    self._ended = rest
        if not self._open.done():
            # The other side waits for this.
            raise CommandFailed(
                "what should take the image there ended before it said where it listens", host=self.host
            )

    async def _give(self, socket: str, address: str) -> None:
        port, key = await self._open
        runner = await self.places.connected(self.server)
        command = _command("give", socket, self.image, address, port)
        (await runner.run(command, input=f"{key}\n".encode(), timeout=None)).check()


def _check(host: str, ended: str) -> None:
    try:
        status, said = json.loads(ended)
    except UNFIT as error:
        raise CommandFailed("the transfer from the other host broke off", host=host) from error
    check_messages(host, str(said).splitlines())
    if status != 200:
        raise EngineError(f"docker load answered {status}: {str(said)[:300]}", host=host)


def _command(*arguments: str) -> str:
    script = files("remote").joinpath("scripts", "image_relay.py").read_text(encoding="utf-8")
    words: Sequence[str] = ("exec", "python3", "-c", script, *arguments)
    return shlex.join(words)


async def _lines(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[str, None]:
    rest = b""
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.decode(errors="replace")
        if len(rest) > MAX_LINE:
            return  # no relay of ours says that much: what it ended with is missing then, and that is told

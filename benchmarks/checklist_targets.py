"""Loopback targets for the checklist benchmark: OpenSSH servers on many addresses, and a delay to put before them."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

PRIVILEGE_SEPARATION = Path("/run/sshd")
START_SECONDS = 20.0
ADDRESSES_PER_SERVER = 16
"""sshd listens on no more (MAX_LISTEN_SOCKS)."""


class TargetsError(Exception):
    """The targets cannot be brought up; the message says why."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Servers that answer on ``addresses`` at ``port``, and what logs in to them."""

    addresses: tuple[str, ...]
    port: int
    user: str
    identity_file: Path
    host_key: str
    """Fingerprint."""
    known_hosts: Path


@contextmanager
def openssh_targets(folder: Path, count: int) -> Iterator[Targets]:
    """Run sshd on ``count`` addresses of 127.0.0.0/8, sixteen to a server.

    The account is the one that runs the benchmark, with an empty home folder: no start-up file slows any of the tools
    down. ``MaxStartups`` is high, since few servers stand for many here and none of the tools is to be turned away.

    Raises:
        TargetsError: there is no sshd, or it does not start.
    """
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise TargetsError("needs OpenSSH's sshd")
    home = folder / "home"
    home.mkdir()
    keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("host", "client")}
    for name, key in keys.items():
        (folder / name).touch(mode=0o600)
        key.write_private_key(folder / name)
    keys["client"].write_public_key(folder / "client.pub")
    addresses = tuple(f"127.0.7.{number}" for number in range(1, count + 1))
    port = _free_port(addresses[0])
    line = keys["host"].export_public_key("openssh").decode().strip()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"[{address}]:{port} {line}\n" for address in addresses))
    settings = [
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/client.pub",
        f"SetEnv HOME={home}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        f"MaxStartups {count * 8}",
        "Subsystem sftp internal-sftp",
    ]
    with ExitStack() as stack:
        if os.getuid() == 0 and not PRIVILEGE_SEPARATION.is_dir():
            PRIVILEGE_SEPARATION.mkdir(mode=0o755)
            stack.callback(_remove, PRIVILEGE_SEPARATION)
        for first in range(0, count, ADDRESSES_PER_SERVER):
            own = [
                *(f"ListenAddress {address}:{port}" for address in addresses[first : first + ADDRESSES_PER_SERVER]),
                f"PidFile {folder}/pid-{first}",
            ]
            config, log = folder / f"sshd_config-{first}", folder / f"log-{first}"
            config.write_text("\n".join([*own, *settings]) + "\n")
            with log.open("wb") as output:
                server = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=output)
            stack.callback(_end, server)
            _wait_for(folder / f"pid-{first}", server, log)
        user, fingerprint = getpass.getuser(), keys["host"].get_fingerprint()
        yield Targets(addresses, port, user, folder / "client", fingerprint, known_hosts)


def _remove(folder: Path) -> None:
    with suppress(OSError):  # another sshd of this machine uses it by now
        folder.rmdir()


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(timeout=START_SECONDS)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as reserved:
        return int(reserved.getsockname()[1])


def _wait_for(file: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while not file.exists():
        if server.poll() is not None or time.monotonic() > limit:
            raise TargetsError(f"sshd did not start: {log.read_text(errors='replace')[-400:]}")
        time.sleep(0.01)


@asynccontextmanager
async def delay_proxy(address: str, port: int, seconds: float) -> AsyncIterator[int]:
    """Listen on a port of 127.0.0.1 and carry every connection to ``address``, each way ``seconds`` late.

    Only the time is held back, never the order or the rate, as on a long and otherwise good line. The TCP handshake
    itself is with the proxy: it is held back by accepting late, which costs the client what one round trip would.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            while data := await reader.read(1 << 16):
                late.put_nowait((loop.time() + seconds, data))
            late.put_nowait((loop.time() + seconds, b""))

        receiving = asyncio.create_task(receive())
        try:
            while True:
                due, data = await late.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await asyncio.sleep(2 * seconds)
            far_reader, far_writer = await asyncio.open_connection(address, port)
            try:
                await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)
            finally:
                far_writer.close()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

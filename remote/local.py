"""The machine this program runs on, behind the same interface as every other host."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from remote.errors import CommandFailed, EngineError, ForwardingRefused, RemoteError
from remote.runner import ByteStream, Completed, StreamHandler, StreamPair

CHUNK = 64 * 1024
STDERR_TAIL = 8 * 1024


@dataclass(slots=True)
class LocalRunner:
    """Runs commands here, each in a process group of its own that ends with it."""

    name: str = "local"
    _processes: set[asyncio.subprocess.Process] = field(default_factory=set)

    @property
    def host(self) -> str:
        return self.name

    @property
    def is_connected(self) -> bool:
        """Always true: there is no connection to lose."""
        return True

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        process = await self._start(command)
        finished = False
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await process.communicate(input)
            finished = True
        except TimeoutError as error:
            message = f"{self.host}: `{command[:200]}` did not end within {timeout:g} s"
            raise TimeoutError(message) from error
        finally:
            await self._end(process, finished=finished)
        return Completed(
            self.host,
            command,
            _shell_status(process),
            stdout.decode("utf-8", "replace"),
            stderr.decode("utf-8", "replace"),
        )

    async def stream(self, command: str) -> AsyncGenerator[bytes, None]:
        process = await self._start(command)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tail = asyncio.create_task(_tail(process.stderr))
        finished = False
        try:
            process.stdin.close()
            while chunk := await process.stdout.read(CHUNK):
                yield chunk
            stderr = await tail
            await process.wait()
            finished = True
        finally:
            tail.cancel()
            await self._end(process, finished=finished)
        Completed(self.host, command, _shell_status(process), "", stderr.decode("utf-8", "replace")).check()

    async def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        def write() -> None:
            target = Path(path)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(temporary).chmod(mode)
                Path(temporary).replace(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise CommandFailed(
                f"writing {path} failed: {error.strerror}",
                host=self.host,
                next_step="is the folder writable and the disk not full?",
            ) from error

    async def get(self, path: str) -> bytes:
        try:
            return await asyncio.to_thread(Path(path).read_bytes)
        except OSError as error:
            raise CommandFailed(f"reading {path} failed: {error.strerror}", host=self.host) from error

    async def open_unix(self, path: str) -> ByteStream:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except FileNotFoundError as error:
            raise self._refusal(
                f"there is no socket {path}", "is Docker installed and running? Try: docker info"
            ) from error
        except PermissionError as error:
            raise self._refusal(
                f"this user may not use {path}",
                "run: sudo usermod -aG docker $USER, then log in again (members of the group docker can become root)",
            ) from error
        except ConnectionRefusedError as error:
            raise self._refusal(
                f"nothing answers on {path}", "start the engine: sudo systemctl start docker"
            ) from error
        except OSError as error:
            raise self._refusal(f"cannot connect to {path}: {error}", "correct docker_socket") from error
        return StreamPair(reader, writer)

    @asynccontextmanager
    async def forward_unix(self, path: str) -> AsyncIterator[Path]:
        """Yield the socket itself: it is local already.

        Raises:
            EngineError: the socket is missing, forbidden, or nobody listens.
        """
        await (await self.open_unix(path)).close()
        yield Path(path)

    @asynccontextmanager
    async def serve_reverse(self, handler: StreamHandler, *, port: int = 0) -> AsyncIterator[int]:
        """Listen on the loopback of this machine.

        Raises:
            ForwardingRefused: the port is taken.
        """
        open_writers: set[asyncio.StreamWriter] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_writers.add(writer)
            stream = StreamPair(reader, writer)
            try:
                await handler(stream)
            except (RemoteError, OSError):
                return  # the other end is gone and sees that itself
            finally:
                open_writers.discard(writer)
                await stream.close()

        try:
            server = await asyncio.start_server(accept, "127.0.0.1", port)
        except OSError as error:
            raise ForwardingRefused(f"cannot listen on 127.0.0.1:{port}: {error}", host=self.host) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for writer in tuple(open_writers):
                writer.close()

    async def close(self) -> None:
        for process in tuple(self._processes):
            await self._end(process)

    def _refusal(self, message: str, next_step: str) -> EngineError:
        return EngineError(message, host=self.host, next_step=next_step)

    async def _start(self, command: str) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandFailed(f"cannot start `{command[:200]}`: {error}", host=self.host) from error
        self._processes.add(process)
        return process

    async def _end(self, process: asyncio.subprocess.Process, *, finished: bool = False) -> None:
        """Kill the command's whole group unless it came to its own end. What moved to another session lives on."""
        self._processes.discard(process)
        if not finished:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _shell_status(process: asyncio.subprocess.Process) -> int:
    """Return the exit status as a shell counts it: 128 + N for a command that died of signal N."""
    status = process.returncode
    assert status is not None
    return status if status >= 0 else 128 - status


async def _tail(reader: asyncio.StreamReader) -> bytes:
    """Read to the end so that the command never blocks on its stderr; keep the last part for the error message."""
    tail = b""
    while chunk := await reader.read(CHUNK):
        tail = (tail + chunk)[-STDERR_TAIL:]
    return tail

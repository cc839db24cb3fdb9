from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from remote import dial_stdio, ssh
from remote.embedded import Answer, EmbeddedHost, RunningHost, embedded_hosts
from remote.errors import ConnectionDropped, EngineError
from remote.runner import ByteStream
from remote.ssh import SshRunner, connect
from tests.ssh.waiting import until

# What `docker -H unix://PATH system dial-stdio` does, for hosts without the docker CLI.
DIAL_STDIO = f"""#!{sys.executable}
import socket, sys, threading
host, path = sys.argv[1:3]
assert host == "-H" and sys.argv[3:] == ["system", "dial-stdio"], sys.argv
engine = socket.socket(socket.AF_UNIX)
engine.connect(path.removeprefix("unix://"))
def outwards():
    while data := sys.stdin.buffer.raw.read(65536):
        engine.sendall(data)
    engine.shutdown(socket.SHUT_WR)
threading.Thread(target=outwards, daemon=True).start()
while data := engine.recv(65536):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""


@asynccontextmanager
async def engine(path: Path) -> AsyncIterator[list[bytes]]:
    """Answer every line with the line in capitals; the list gets an entry for each connection that ended."""
    ended: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = b""
        while line := await reader.readline():
            received += line
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        ended.append(received)

    server = await asyncio.start_unix_server(serve, str(path), limit=1 << 24)
    try:
        yield ended
    finally:
        server.close()
        await server.wait_closed()


async def ask(stream: ByteStream, line: bytes) -> bytes:
    await stream.write(line)
    answer = b""
    async with asyncio.timeout(10):
        while not answer.endswith(b"\n"):
            chunk = await stream.read(65536)
            assert chunk, "the stream ended early"
            answer += chunk
    return answer


async def ask_locally(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A socket path short enough for the kernel (108 bytes)."""
    return tmp_path_factory.mktemp("s") / "docker.sock"


@pytest.fixture
async def walled(place: Path, tmp_path: Path) -> AsyncIterator[SshRunner]:
    """A host whose sshd forwards no sockets, but that has a docker CLI."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "docker").write_text(DIAL_STDIO)
    (tools / "docker").chmod(0o755)
    spec = EmbeddedHost("walled", env={"PATH": f"{tools}:{os.environ['PATH']}"}, forward_sockets=False)
    async with embedded_hosts([spec]) as cluster:
        runner = await connect(cluster["walled"].inventory_host())
        yield runner
        await runner.close()


async def test_bytes_flow_both_ways_until_closed(runner: SshRunner, place: Path) -> None:
    async with engine(place) as ended:
        stream = await runner.open_unix(str(place))
        assert await ask(stream, b"ping\n") == b"PING\n"
        big = b"x" * 5_000_000 + b"\n"
        assert await ask(stream, big) == big.upper()
        await stream.close()
        await stream.close()
        await until(lambda: ended == [b"ping\n" + big])


async def test_the_end_of_the_stream_is_empty_bytes(runner: SshRunner, place: Path) -> None:
    async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_unix_server(hello, str(place))
    stream = await runner.open_unix(str(place))
    assert await stream.read(100) == b"bye"
    assert await stream.read(100) == b""
    await stream.close()
    server.close()
    await server.wait_closed()


async def test_sockets_are_no_sessions(runner: SshRunner, place: Path) -> None:
    async with engine(place):
        streams = await asyncio.gather(*(runner.open_unix(str(place)) for _ in range(40)))
        answers = await asyncio.gather(*(ask(stream, b"a%d\n" % n) for n, stream in enumerate(streams)))
        assert answers == [b"A%d\n" % n for n in range(40)]
        assert (await runner.run("echo free")).stdout == "free\n"
        for stream in streams:
            await stream.close()


async def test_losing_the_connection_is_no_end_of_the_stream(runner: SshRunner, host: RunningHost, place: Path) -> None:
    async with engine(place):
        stream = await runner.open_unix(str(place))
        reading = asyncio.create_task(stream.read(100))
        assert await ask(await runner.open_unix(str(place)), b"up\n") == b"UP\n"
        host.drop_connections()
        with pytest.raises(ConnectionDropped, match="reading from"):
            await reading
        with pytest.raises(ConnectionDropped, match="writing to"):
            await stream.write(b"more")
        with pytest.raises(ConnectionDropped, match="connecting to"):
            await runner.open_unix(str(place))


class TestRefusals:
    """Each reason has its own words and its own way out."""

    async def test_missing(self, runner: SshRunner) -> None:
        with pytest.raises(EngineError, match=r"^alpha: there is no socket /nonexistent\.sock") as caught:
            await runner.open_unix("/nonexistent.sock")
        assert "docker info" in caught.value.next_step

    async def test_no_socket(self, runner: SshRunner, tmp_path: Path) -> None:
        (tmp_path / "it's a file").touch()
        with pytest.raises(EngineError, match="is not a socket"):
            await runner.open_unix(str(tmp_path / "it's a file"))

    async def test_nobody_listens(self, runner: SshRunner, place: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(place))
        with pytest.raises(EngineError, match="nothing answers on"):
            await runner.open_unix(str(place))

    async def test_denied(self) -> None:
        def respond(command: str, script: bytes) -> Answer:
            assert command == "exec /bin/sh -s -- /var/run/docker.sock"
            assert b'-w "$1"' in script
            return Answer(b"denied\nana\n")

        async with embedded_hosts([EmbeddedHost("alpha", respond, forward_sockets=False)]) as cluster:
            runner = await connect(cluster["alpha"].inventory_host())
            with pytest.raises(EngineError, match=r"ana may not use /var/run/docker\.sock") as caught:
                await runner.open_unix("/var/run/docker.sock")
            assert "usermod -aG docker ana" in caught.value.next_step
            await runner.close()

    async def test_a_host_that_cannot_say_why(self) -> None:
        def respond(_command: str, _script: bytes) -> Answer:
            return Answer(stderr=b"'exec' is not recognized as an internal or external command", exit_status=1)

        async with embedded_hosts([EmbeddedHost("alpha", respond, forward_sockets=False)]) as cluster:
            runner = await connect(cluster["alpha"].inventory_host())
            with pytest.raises(EngineError, match="is not recognized"):
                await runner.open_unix("/var/run/docker.sock")
            await runner.close()


class TestForward:
    """``forward_unix``: a local path for the Docker SDK."""

    async def test_a_local_path_leads_to_the_socket(self, runner: SshRunner, place: Path) -> None:
        async with engine(place), runner.forward_unix(str(place)) as local:
            assert local.parent.stat().st_mode & 0o777 == 0o700
            assert local.stat().st_mode & 0o777 == 0o600
            answers = await asyncio.gather(*(ask_locally(local, b"line %d\n" % n) for n in range(12)))
            assert answers == [b"LINE %d\n" % n for n in range(12)]
        assert not local.parent.exists()

    async def test_a_socket_that_is_not_there_is_told_before_anybody_connects(self, runner: SshRunner) -> None:
        with pytest.raises(EngineError, match="there is no socket"):
            async with runner.forward_unix("/nonexistent.sock"):
                pytest.fail("there is nothing to forward")


class TestDialStdio:
    """Hosts whose sshd forwards no sockets."""

    async def test_the_docker_cli_carries_the_bytes(self, walled: SshRunner, place: Path) -> None:
        async with engine(place) as ended:
            stream = await walled.open_unix(str(place))
            assert await ask(stream, b"ping\n") == b"PING\n"
            big = b"x" * 1_000_000 + b"\n"
            assert await ask(stream, big) == big.upper()
            await stream.close()
            again = await walled.open_unix(str(place))
            assert await ask(again, b"again\n") == b"AGAIN\n"
            await again.close()
            await again.close()
            await until(lambda: {b"ping\n" + big, b"again\n"} <= set(ended))

    async def test_every_connection_gives_its_session_back(self, walled: SshRunner, place: Path) -> None:
        async with engine(place):
            for number in range(ssh.MAX_SESSIONS + 2):
                stream = await walled.open_unix(str(place))
                assert await ask(stream, b"%d\n" % number) == b"%d\n" % number
                await stream.close()

    async def test_forward_works_as_well(self, walled: SshRunner, place: Path) -> None:
        async with engine(place), walled.forward_unix(str(place)) as local:
            assert local.stat().st_mode & 0o777 == 0o600
            assert await asyncio.gather(*(ask_locally(local, b"line %d\n" % n) for n in range(3))) == [
                b"LINE %d\n" % n for n in range(3)
            ]
        assert not local.exists()

    async def test_without_a_docker_cli_the_error_names_both_ways_out(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dial_stdio, "EXTRA_PATH", "/nonexistent")
        spec = EmbeddedHost("walled", forward_sockets=False, env={"PATH": "/nonexistent"})
        async with engine(place), embedded_hosts([spec]) as cluster:
            runner = await connect(cluster["walled"].inventory_host())
            runner._forwarding_off = True
            stream = await runner.open_unix(str(place))
            with pytest.raises(EngineError, match="docker: not found") as caught:
                await stream.read(100)
            assert "AllowStreamLocalForwarding" in caught.value.next_step
            assert "docker CLI" in caught.value.next_step
            await stream.close()
            await runner.close()

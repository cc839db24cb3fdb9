"""The same promises against OpenSSH's own server, in the account that runs the tests."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import asyncssh
import pytest

from remote import ssh
from remote.errors import EngineError, HostKeyChanged
from remote.facts import gather_facts
from remote.inventory import Host
from remote.ssh import SshRunner, connect
from tests.ssh.waiting import is_gone, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Folder that sshd demands when root starts it, normally made by the service."""

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's sshd")


@pytest.fixture(autouse=True)
def privilege_separation() -> Iterator[None]:
    if os.getuid() != 0 or PRIVILEGE_SEPARATION.is_dir():
        yield
        return
    PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    yield
    PRIVILEGE_SEPARATION.rmdir()


@asynccontextmanager
async def sshd(folder: Path, *settings: str) -> AsyncIterator[Host]:
    """Run an sshd of our own on loopback and yield the entry that reaches it."""
    assert SSHD is not None
    keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("host", "client")}
    for name, key in keys.items():
        (folder / name).touch(mode=0o600)
        key.write_private_key(folder / name)
    keys["client"].write_public_key(folder / "authorized_keys")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = int(reserved.getsockname()[1])
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"PidFile {folder}/pid",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        *settings,
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(SSHD, "-D", "-e", "-f", f"{folder}/sshd_config", stderr=log)
    try:
        await until((folder / "pid").exists)
        yield Host(
            name="open",
            address="127.0.0.1",
            port=port,
            user=getpass.getuser(),
            identity_file=str(folder / "client"),
            host_key=keys["host"].get_fingerprint(),
        )
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def logged_in(folder: Path, *settings: str) -> AsyncIterator[SshRunner]:
    async with sshd(folder, *settings) as entry:
        runner = await connect(entry)
        yield runner
        await runner.close()


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[SshRunner]:
    async with logged_in(tmp_path) as runner:
        yield runner


@pytest.fixture
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()

    path = tmp_path_factory.mktemp("s") / "docker.sock"
    server = await asyncio.start_unix_server(serve, str(path))
    yield path
    server.close()
    await server.wait_closed()


async def test_commands(runner: SshRunner) -> None:
    completed = await runner.run("cat; echo oops >&2; exit 3", input=b"x" * 3_000_000)
    assert (completed.exit_status, len(completed.stdout), completed.stderr[-5:]) == (3, 3_000_000, "oops\n")
    assert (await runner.run("kill -KILL $$")).exit_status == 128 + 9


async def test_a_command_that_is_given_up_is_killed(runner: SshRunner, tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/number; sleep 60"
    running = asyncio.create_task(runner.run(command))
    await until((tmp_path / "number").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(partial(is_gone, int((tmp_path / "number").read_text())))


async def test_closing_a_stream_ends_its_command(runner: SshRunner) -> None:
    async with aclosing(runner.stream("echo $$; sleep 60")) as chunks:
        number = int(await anext(chunks))
    await until(partial(is_gone, number))


async def test_a_burst_of_commands_fits_into_max_sessions(tmp_path: Path) -> None:
    async with logged_in(tmp_path, f"MaxSessions {ssh.MAX_SESSIONS}") as runner:
        done = await asyncio.gather(*(runner.run("echo done") for _ in range(24)))
    assert [each.stdout[-5:] for each in done] == ["done\n"] * 24


async def test_files(runner: SshRunner, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    await runner.put(data, f"{tmp_path}/new/it's here", mode=0o640)
    assert await runner.get(f"{tmp_path}/new/it's here") == data
    assert (tmp_path / "new" / "it's here").stat().st_mode & 0o777 == 0o640


async def test_sockets_are_not_limited_by_max_sessions(tmp_path: Path, engine: Path) -> None:
    async with logged_in(tmp_path, "MaxSessions 1") as runner:
        streams = await asyncio.gather(*(runner.open_unix(str(engine)) for _ in range(30)))
        for stream in streams:
            await stream.write(b"ping\n")
            assert await stream.read(100) == b"PING\n"
            await stream.close()
        async with runner.forward_unix(str(engine)) as local:
            reader, writer = await asyncio.open_unix_connection(str(local))
            writer.write(b"over\n")
            assert await reader.readline() == b"OVER\n"
            writer.close()
            await writer.wait_closed()


async def test_why_a_socket_cannot_be_opened(runner: SshRunner, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no socket"):
        await runner.open_unix("/nonexistent.sock")
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="is not a socket"):
        await runner.open_unix(str(tmp_path / "file"))


async def test_forwarding_turned_off_is_recognized(tmp_path: Path, engine: Path) -> None:
    async with logged_in(tmp_path, "AllowStreamLocalForwarding no") as runner:
        stream = await runner.open_unix(str(engine))
        await stream.close()
        assert runner._forwarding_off


async def test_another_key_than_the_pinned_one(tmp_path: Path) -> None:
    async with sshd(tmp_path) as entry:
        with pytest.raises(HostKeyChanged, match="pins"):
            await connect(entry.model_copy(update={"host_key": "SHA256:" + "A" * 43}))


async def test_facts(runner: SshRunner) -> None:
    facts = await gather_facts(runner, master_address="127.0.0.1", port=runner.login.target.port or 0)
    assert facts.system == os.uname().sysname
    assert facts.user_id == os.getuid()
    assert facts.port_listening
    assert abs(facts.clock_offset) < 1


async def test_a_command_given_up_while_its_session_opens_is_killed(runner: SshRunner, tmp_path: Path) -> None:
    """Wherever between the request and the first output the cancelling falls, nothing is left running."""
    for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        running = asyncio.create_task(runner.run(f"echo $$ > {tmp_path}/{turns}.pid; exec sleep 61.{turns:02d}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await runner.run("true")
    numbers = [int(text) for each in tmp_path.glob("*.pid") if (text := each.read_text())]
    for number in numbers:
        await until(partial(is_gone, number))
    assert "sleep 61." not in (await runner.run("ps -eo args | grep '[s]leep 61[.]' || true")).stdout


async def test_being_cancelled_twice_does_not_leave_the_command_alive(runner: SshRunner, tmp_path: Path) -> None:
    running = asyncio.create_task(runner.run(f"trap '' TERM INT; echo $$ > {tmp_path}/number; sleep 60 & wait; wait"))
    await until(lambda: (tmp_path / "number").exists() and bool((tmp_path / "number").read_text()))
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await runner.close()
    await until(partial(is_gone, int((tmp_path / "number").read_text())))


async def test_eight_commands_given_up_at_once_are_all_killed(tmp_path: Path) -> None:
    """Each needs a session more to be killed from where the server forwards no signals."""
    async with logged_in(tmp_path, "MaxSessions 10") as runner:
        commands = [
            f"echo $$ > {tmp_path}/{number}.new; mv {tmp_path}/{number}.new {tmp_path}/{number}.pid; sleep 60"
            for number in range(8)
        ]
        running = [asyncio.create_task(runner.run(command)) for command in commands]
        await until(lambda: len(list(tmp_path.glob("*.pid"))) == 8)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for path in tmp_path.glob("*.pid"):
            if path.name != "pid":
                await until(partial(is_gone, int(path.read_text())))

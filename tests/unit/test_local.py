from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from remote.errors import CommandFailed, EngineError
from remote.facts import gather_facts
from remote.local import LocalRunner
from tests.ssh.waiting import drain, is_gone, until


@pytest.fixture
def runner() -> LocalRunner:
    return LocalRunner("master")


async def test_run_feeds_input_and_returns_output_and_status(runner: LocalRunner) -> None:
    completed = await runner.run("cat; echo oops >&2; exit 3", input=b"hello")
    assert (completed.exit_status, completed.stdout, completed.stderr) == (3, "hello", "oops\n")
    assert completed.host == "master"
    assert (await runner.run("cat; echo end")).stdout == "end\n"


async def test_a_command_may_ignore_its_input(runner: LocalRunner) -> None:
    assert (await runner.run("exec true", input=b"x" * 5_000_000)).exit_status == 0


async def test_a_signal_gives_the_status_a_shell_gives(runner: LocalRunner) -> None:
    assert (await runner.run("kill -TERM $$")).exit_status == 128 + 15


async def test_output_that_is_no_utf8(runner: LocalRunner) -> None:
    assert (await runner.run(r"printf 'a\377b'")).stdout == "a\ufffdb"


async def test_a_command_that_takes_too_long_dies_with_all_its_children(runner: LocalRunner, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"master: `.*` did not end within 1 s"):
        await runner.run(f"sleep 60 & echo $! > {tmp_path}/child; wait", timeout=1)
    child = int((tmp_path / "child").read_text())
    await until(lambda: is_gone(child))


async def test_a_child_that_holds_the_output_open_does_not_outlive_the_timeout(
    runner: LocalRunner, tmp_path: Path
) -> None:
    with pytest.raises(TimeoutError):
        await runner.run(f"sleep 60 & echo $! > {tmp_path}/child", timeout=1)
    child = int((tmp_path / "child").read_text())
    await until(lambda: is_gone(child))


async def test_what_a_finished_command_left_in_the_background_lives_on(runner: LocalRunner, tmp_path: Path) -> None:
    await runner.run(f"sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path}/child")
    child = int((tmp_path / "child").read_text())
    assert not is_gone(child)
    os.kill(child, signal.SIGKILL)


async def test_stream_yields_output_as_it_comes(runner: LocalRunner, tmp_path: Path) -> None:
    command = f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo two"
    async with aclosing(runner.stream(command)) as chunks:
        assert await anext(chunks) == b"one\n"
        (tmp_path / "go").touch()
        assert [chunk async for chunk in chunks] == [b"two\n"]


async def test_stream_of_a_failing_command(runner: LocalRunner) -> None:
    received = bytearray()
    with pytest.raises(CommandFailed, match="exited 7 and said: no such container"):
        await drain(runner.stream("echo begun; echo no such container >&2; exit 7"), received)
    assert received == b"begun\n"


async def test_stream_is_not_held_up_by_stderr(runner: LocalRunner) -> None:
    received = bytearray()
    await drain(runner.stream("head -c 3000000 /dev/zero >&2; echo done"), received)
    assert received == b"done\n"


async def test_closing_a_stream_or_the_runner_ends_the_command(runner: LocalRunner) -> None:
    async with aclosing(runner.stream("echo $$; sleep 60")) as chunks:
        first = int(await anext(chunks))
    await until(lambda: is_gone(first))
    async with aclosing(runner.stream("echo $$; sleep 60")) as chunks:
        second = int(await anext(chunks))
        await runner.close()
        await until(lambda: is_gone(second))


async def test_put_and_get(runner: LocalRunner, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "it's a file"
    await runner.put(b"\x00\xff" * 1000, str(path), mode=0o640)
    assert await runner.get(str(path)) == b"\x00\xff" * 1000
    assert path.stat().st_mode & 0o777 == 0o640
    await runner.put(b"new", str(path))
    assert path.read_bytes() == b"new"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_put_and_get_that_fail(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match=r"writing .* failed"):
        await runner.put(b"", str(tmp_path / "file" / "x"))
    with pytest.raises(CommandFailed, match=r"reading .* failed: No such file"):
        await runner.get(str(tmp_path / "nothing"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CommandFailed, match=r"writing .* failed"):
        await runner.put(b"", str(tmp_path / "folder"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


async def test_sockets(runner: LocalRunner, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "d.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    stream = await runner.open_unix(str(path))
    await stream.write(b"ping\n")
    assert await stream.read(100) == b"PING\n"
    assert await stream.read(100) == b""
    await stream.close()
    async with runner.forward_unix(str(path)) as local:
        assert local == path
    server.close()
    await server.wait_closed()


async def test_sockets_that_cannot_be_opened(runner: LocalRunner, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no socket"):
        await runner.open_unix(str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(EngineError):
        await runner.open_unix(str(tmp_path / "file"))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    with pytest.raises(EngineError, match="nothing answers on"):
        async with runner.forward_unix(str(tmp_path / "stale")):
            pytest.fail("there is nothing to forward")


@pytest.mark.skipif(os.getuid() == 0, reason="root may use every socket")
async def test_a_forbidden_socket(runner: LocalRunner, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "d.sock"))
        (tmp_path / "d.sock").chmod(0)
        with pytest.raises(EngineError, match="may not use"):
            await runner.open_unix(str(tmp_path / "d.sock"))


async def test_facts_of_this_machine(runner: LocalRunner) -> None:
    facts = await gather_facts(runner, master_address="127.0.0.1", clock=time.time)
    assert facts.host == "master"
    assert facts.kernel == os.uname().release
    assert facts.interface == "lo"

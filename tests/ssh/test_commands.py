from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest

from remote import ssh, ssh_command
from remote.embedded import Answer, EmbeddedHost, RunningHost, embedded_hosts
from remote.errors import CommandFailed, ConnectionDropped
from remote.ssh import SshRunner, connect
from remote.ssh_login import WINDOW
from tests.ssh.waiting import drain, is_gone, until


async def test_run_feeds_input_and_returns_output_and_status(runner: SshRunner) -> None:
    completed = await runner.run("cat; echo oops >&2; exit 3", input=b"hello")
    assert (completed.exit_status, completed.stdout, completed.stderr) == (3, "hello", "oops\n")
    assert completed.host == "alpha"
    assert completed.command == "cat; echo oops >&2; exit 3"


async def test_run_gives_a_command_an_empty_input(runner: SshRunner) -> None:
    assert (await runner.run("cat; echo end")).stdout == "end\n"


async def test_run_moves_more_than_one_window_both_ways(runner: SshRunner) -> None:
    data = os.urandom(300_000).hex().encode() * 40
    assert len(data) > ssh_command.CHUNK * 300
    completed = await runner.run("cat", input=data)
    assert completed.stdout.encode() == data


async def test_run_does_not_mind_a_command_that_ignores_its_input(runner: SshRunner) -> None:
    completed = await runner.run("exec true", input=b"x" * 5_000_000)
    assert completed.exit_status == 0


async def test_output_that_is_no_utf8_is_decoded_with_replacement_characters(runner: SshRunner) -> None:
    assert (await runner.run(r"printf 'a\377b'")).stdout == "a\ufffdb"


async def test_a_command_that_dies_of_a_signal_has_the_status_a_shell_gives(runner: SshRunner) -> None:
    assert (await runner.run("kill -TERM $$")).exit_status == 128 + 15


async def test_commands_run_in_a_posix_shell_in_the_home_folder_with_a_clean_environment(
    runner: SshRunner, host: RunningHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    said = (await runner.run("pwd; echo $HOME; env; if true; then echo posix; fi")).stdout
    assert said.splitlines()[:2] == [str(host.home)] * 2
    assert said.endswith("posix\n")
    assert "SECRET_TOKEN" not in said


async def test_no_variable_is_ever_sent(host: RunningHost, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("SendEnv HF_*\nSetEnv TOKEN=hunter2\nForwardAgent yes\n")
    runner = await connect(host.inventory_host())
    await runner.run("true")
    await runner.close()
    assert host.commands.environments == [{}]


async def test_a_command_that_takes_too_long_is_killed(runner: SshRunner, host: RunningHost) -> None:
    with pytest.raises(TimeoutError, match=r"alpha: `echo \$\$ > pid; sleep 60` did not end within 1 s"):
        await runner.run("echo $$ > pid; sleep 60", timeout=1)
    await until(partial(is_gone, int((host.home / "pid").read_text())))
    assert (await runner.run("echo still here")).stdout == "still here\n"


async def test_runaway_output_is_stopped(runner: SshRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "MAX_OUTPUT", 1_000_000)
    with pytest.raises(CommandFailed, match="more than 1000000 bytes"):
        await runner.run("yes")


async def test_losing_the_connection_ends_a_command_with_connection_dropped(
    runner: SshRunner, host: RunningHost
) -> None:
    command = asyncio.create_task(runner.run("echo up > up; sleep 60"))
    await until((host.home / "up").exists)
    host.drop_connections()
    with pytest.raises(ConnectionDropped, match=r"^alpha: the SSH connection was lost while `echo up"):
        await command
    await runner.wait_closed()
    assert not runner.is_connected
    with pytest.raises(ConnectionDropped, match="while starting `true`"):
        await runner.run("true")


async def test_stream_yields_output_as_it_comes(runner: SshRunner, host: RunningHost) -> None:
    async with aclosing(runner.stream("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two")) as chunks:
        assert await anext(chunks) == b"one\n"
        (host.home / "go").touch()
        assert [chunk async for chunk in chunks] == [b"two\n"]


async def test_stream_of_a_failing_command_yields_everything_and_then_raises(runner: SshRunner) -> None:
    received = bytearray()
    with pytest.raises(CommandFailed, match="exited 7 and said: no such container"):
        await drain(runner.stream("echo begun; echo warning >&2; echo no such container >&2; exit 7"), received)
    assert received == b"begun\n"


async def test_stream_is_not_held_up_by_stderr(runner: SshRunner) -> None:
    noisy = "i=0; while [ $i -lt 3000 ]; do printf '%01000d' 0 >&2; i=$((i+1)); done; echo done"
    assert b"".join([chunk async for chunk in runner.stream(noisy)]) == b"done\n"


async def test_stream_keeps_every_byte(runner: SshRunner) -> None:
    chunks = [chunk async for chunk in runner.stream("seq 1 200000")]
    assert b"".join(chunks) == b"".join(b"%d\n" % number for number in range(1, 200_001))


async def test_closing_a_stream_ends_its_command_and_frees_its_session(runner: SshRunner) -> None:
    for _ in range(ssh.MAX_SESSIONS + 2):
        async with aclosing(runner.stream("echo $$; sleep 60")) as chunks:
            pid = int(await anext(chunks))
        await until(partial(is_gone, pid))


async def test_losing_the_connection_ends_a_stream_with_connection_dropped(
    runner: SshRunner, host: RunningHost
) -> None:
    chunks = runner.stream("echo one; sleep 60")
    assert await anext(chunks) == b"one\n"
    host.drop_connections()
    with pytest.raises(ConnectionDropped):
        await anext(chunks)


async def test_a_host_that_hangs_up_in_the_middle_of_output(runner: SshRunner) -> None:
    def respond(command: str, _input: bytes) -> Answer:
        assert command == "docker logs -f c1"
        return Answer(b"first line\nsecond li", drop=True)

    async with embedded_hosts([EmbeddedHost("beta", respond)]) as cluster:
        other = await connect(cluster["beta"].inventory_host())
        received = bytearray()
        with pytest.raises(ConnectionDropped):
            await drain(other.stream("docker logs -f c1"), received)
        assert received == b"first line\nsecond li"
        await other.close()


async def test_a_burst_of_commands_never_exceeds_what_sshd_allows(runner: SshRunner, host: RunningHost) -> None:
    done = await asyncio.gather(*(runner.run("sleep 0.05; echo done") for _ in range(30)))
    assert [each.stdout for each in done] == ["done\n"] * 30
    assert host.peak_sessions == ssh.MAX_SESSIONS


async def test_a_host_that_opens_no_session_is_told_apart_from_a_lost_connection() -> None:
    async with embedded_hosts([EmbeddedHost("alpha", max_sessions=0)]) as cluster:
        runner = await connect(cluster["alpha"].inventory_host())
        with pytest.raises(CommandFailed, match="opened no session for `true`"):
            await runner.run("true")
        assert runner.is_connected
        await runner.close()


async def test_put_writes_a_file_with_its_folder_and_mode_and_get_reads_it(
    runner: SshRunner, host: RunningHost
) -> None:
    data = os.urandom(1_000_000)
    path = host.home / "deep" / 'it\'s a "file"; touch oops'
    await runner.put(data, str(path), mode=0o640)
    assert await runner.get(str(path)) == data
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_put_replaces_a_file_in_one_step(runner: SshRunner, host: RunningHost) -> None:
    path = host.home / "file"
    path.write_bytes(b"old")
    before = path.stat().st_ino
    await runner.put(b"new", str(path))
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before


async def test_put_and_get_say_what_the_host_said(runner: SshRunner, host: RunningHost) -> None:
    (host.home / "file").touch()
    with pytest.raises(CommandFailed, match=r"writing .*/file/x failed: .*Not a directory|writing .*exists"):
        await runner.put(b"", str(host.home / "file" / "x"))
    with pytest.raises(CommandFailed, match=r"reading /nonexistent failed: .*No such file"):
        await runner.get("/nonexistent")


async def test_run_in_login_shell_passes_the_command_as_it_is(runner: SshRunner) -> None:
    assert (await runner.run_in_login_shell("echo HTUI %OS% $0")).stdout == "HTUI %OS% /bin/sh\n"


async def test_a_flood_that_is_read_slowly_does_not_fill_the_memory(runner: SshRunner) -> None:
    held = 0
    async with aclosing(runner.stream("exec head -c 400000000 /dev/zero")) as chunks:
        for _ in range(200):
            assert await anext(chunks)
            channels = runner.login.connection._channels.values()
            held = max(held, sum(len(data) for channel in channels for data, _kind in channel._recv_buf))
            await asyncio.sleep(0.02)  # a reader with other things to do, who takes 3 MB/s
    assert held <= 3 * WINDOW

from __future__ import annotations

import os
import signal
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import pytest

from remote.embedded import Answer, EmbeddedHost, RunningHost, embedded_hosts
from remote.facts import gather_facts
from remote.ssh import SshRunner, connect
from tests.ssh.waiting import is_gone, until


async def test_hosts_have_names_ports_keys_and_homes_of_their_own() -> None:
    async with embedded_hosts([EmbeddedHost("alpha"), EmbeddedHost("beta")]) as cluster:
        alpha, beta = cluster["alpha"], cluster["beta"]
        assert alpha.port != beta.port
        assert alpha.host_key != beta.host_key
        for host in cluster.hosts:
            runner = await connect(host.inventory_host())
            assert (await runner.run("pwd")).stdout.strip() == str(host.home)
            await runner.close()
        with pytest.raises(KeyError):
            cluster["gamma"]
    assert not alpha.home.exists()


async def test_homes_in_a_folder_of_the_callers_choice_stay(tmp_path: Path) -> None:
    async with embedded_hosts([EmbeddedHost("alpha", env={"GREETING": "hello"})], folder=tmp_path) as cluster:
        runner = await connect(cluster["alpha"].inventory_host())
        await runner.run("echo $GREETING > kept")
        await runner.close()
    assert (tmp_path / "alpha" / "kept").read_text() == "hello\n"


async def test_a_command_outlives_its_channel_as_under_sshd(runner: SshRunner, host: RunningHost) -> None:
    await runner.run("nohup sh -c 'echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo > done' >log 2>&1 &")
    host.drop_connections()
    (host.home / "go").touch()
    await until((host.home / "done").exists)


async def test_what_was_not_detached_ends_with_the_host_and_what_was_lives_on() -> None:
    async with embedded_hosts([EmbeddedHost("alpha")]) as cluster:
        home = cluster["alpha"].home
        runner = await connect(cluster["alpha"].inventory_host())
        await runner.run("sleep 300 >/dev/null 2>&1 & echo $! > attached")
        await runner.run("setsid sh -c 'echo $$ > detached; exec sleep 300' >/dev/null 2>&1 &")
        async with aclosing(runner.stream("trap '' TERM; echo $$; while :; do sleep 1; done")) as chunks:
            stubborn = int(await anext(chunks))
        await until((home / "detached").exists)
        attached, detached = (int((home / name).read_text()) for name in ("attached", "detached"))
        await runner.close()
        assert not any(map(is_gone, (attached, detached, stubborn)))
    try:
        await until(partial(is_gone, attached))
        await until(partial(is_gone, stubborn))
        assert not is_gone(detached)
    finally:
        with suppress(ProcessLookupError):
            os.kill(detached, signal.SIGKILL)


async def test_a_scripted_host_answers_some_commands_and_runs_the_others() -> None:
    asked: list[tuple[str, bytes]] = []

    def respond(command: str, data: bytes) -> Answer | None:
        asked.append((command, data))
        return Answer(b"Darwin\n", b"warning\n", 4) if command == "uname -s" else None

    async with embedded_hosts([EmbeddedHost("mac", respond)]) as cluster:
        runner = await connect(cluster["mac"].inventory_host())
        said = await runner.run("uname -s")
        assert (said.stdout, said.stderr, said.exit_status) == ("Darwin\n", "warning\n", 4)
        assert (await runner.run("cat; echo 'it''s real'", input=b"data ")).stdout == "data its real\n"
        await runner.close()
    assert asked == [("uname -s", b""), ("cat; echo 'it''s real'", b"data ")]


async def test_a_scripted_command_that_never_ends() -> None:
    async with embedded_hosts([EmbeddedHost("alpha", lambda _command, _data: Answer(b"1\n", hold=True))]) as cluster:
        runner = await connect(cluster["alpha"].inventory_host())
        async with aclosing(runner.stream("docker events")) as chunks:
            assert await anext(chunks) == b"1\n"
        with pytest.raises(TimeoutError):
            await runner.run("docker events", timeout=0.2)
        await runner.close()


async def test_facts_over_ssh_are_the_hosts_own(runner: SshRunner, host: RunningHost) -> None:
    facts = await gather_facts(runner, master_address="127.0.0.1", port=host.port)
    assert facts.host == "alpha"
    assert facts.system == os.uname().sysname
    assert facts.kernel == os.uname().release
    assert facts.architecture == os.uname().machine
    assert facts.cpu_count == os.cpu_count()
    assert facts.home == str(host.home)
    assert facts.user_id == os.getuid()
    assert (facts.interface, facts.address) == ("lo", "127.0.0.1")
    assert ("lo", "127.0.0.1") in facts.addresses
    assert facts.port_listening
    assert abs(facts.clock_offset) <= facts.round_trip / 2 + 0.01  # one machine: all that is left is the way there
    assert 0 < facts.round_trip < 5
    assert facts.memory_total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < facts.memory_available <= facts.memory_total
    assert facts.disk_free > 0
    assert Path(facts.disk_path).is_dir()


async def test_facts_find_nobody_on_a_free_port_and_the_socket_under_the_hosts_home(
    runner: SshRunner, host: RunningHost
) -> None:
    import socket

    folder = host.home / ".colima" / "default"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as engine, socket.socket() as reserved:
        engine.bind(str(folder / "docker.sock"))
        reserved.bind(("127.0.0.1", 0))
        facts = await gather_facts(runner, master_address="127.0.0.1", port=reserved.getsockname()[1])
    assert not facts.port_listening
    assert str(folder / "docker.sock") in {each.path for each in facts.engine_sockets if each.writable}

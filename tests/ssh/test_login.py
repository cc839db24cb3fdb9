from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import asyncssh
import pytest

from remote import ssh_login
from remote.embedded import EmbeddedHost as Spec
from remote.embedded import RunningHost, embedded_hosts
from remote.errors import (
    ConnectError,
    ConnectionDropped,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    LoginRefused,
    RemoteError,
)
from remote.inventory import Host
from remote.ssh import KnownHosts, accept_host_key, connect
from tests.ssh.checking import free_port


def unpinned(host: RunningHost, **changes: object) -> Host:
    return host.inventory_host(host_key="", **changes)


def settings(home: Path, text: str) -> Path:
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "config").write_text(text)
    return folder


async def reaches(entry: Host) -> None:
    runner = await connect(entry)
    assert (await runner.run("echo there")).stdout == "there\n"
    await runner.close()


# --- host keys ---------------------------------------------------------------------------------------------------


async def test_first_contact_shows_the_key_and_sends_nothing(host: RunningHost, home: Path) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        await connect(unpinned(host))
    assert caught.value.host == "alpha"
    assert caught.value.fingerprint == host.host_key
    assert caught.value.key_type == "ssh-ed25519"
    assert caught.value.known_hosts_line == host.known_hosts_line
    assert caught.value.known_hosts_line.startswith(f"[127.0.0.1]:{host.port} ssh-ed25519 AAAA")
    assert not (home / ".ssh").exists()


async def test_an_accepted_key_is_known_from_then_on(host: RunningHost, home: Path) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        await connect(unpinned(host))
    accept_host_key(caught.value)
    known_hosts = home / ".ssh" / "known_hosts"
    assert known_hosts.read_text() == host.known_hosts_line + "\n"
    assert known_hosts.stat().st_mode & 0o777 == 0o600
    assert known_hosts.parent.stat().st_mode & 0o777 == 0o700
    await reaches(unpinned(host))


async def test_accepting_keeps_what_a_file_without_a_last_newline_holds(host: RunningHost, home: Path) -> None:
    folder = settings(home, "")
    (folder / "known_hosts").write_text("elsewhere ssh-ed25519 AAAA")
    with pytest.raises(HostKeyUnknown) as caught:
        await connect(unpinned(host))
    accept_host_key(caught.value)
    assert (folder / "known_hosts").read_text().splitlines() == ["elsewhere ssh-ed25519 AAAA", host.known_hosts_line]


async def test_accepting_into_a_place_that_cannot_be_written_says_what_to_add(home: Path) -> None:
    (home / ".ssh").write_text("a file, not a folder")
    error = HostKeyUnknown(host="alpha", fingerprint="SHA256:x", key_type="ssh-ed25519", known_hosts_line="the line")
    with pytest.raises(ConnectError, match="add this line yourself: the line"):
        accept_host_key(error)


async def test_a_changed_key_is_refused_and_the_way_out_is_named(host: RunningHost, home: Path) -> None:
    known_hosts = settings(home, "") / "known_hosts"
    known_hosts.write_text(host.known_hosts_line + "\n")
    await reaches(unpinned(host))
    await host.change_key()
    with pytest.raises(HostKeyChanged) as caught:
        await connect(unpinned(host))
    assert host.host_key in caught.value.message
    assert f"ssh-keygen -R '[127.0.0.1]:{host.port}' -f '{known_hosts}'" in caught.value.next_step


async def test_a_host_known_by_a_key_of_another_kind_counts_as_changed(host: RunningHost, home: Path) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().split()
    (settings(home, "") / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {other[0]} {other[1]}\n")
    with pytest.raises(HostKeyChanged, match="ssh-keygen -R"):
        await connect(unpinned(host))


async def test_another_key_known_for_port_22_does_not_speak_against_this_port(host: RunningHost, home: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    (settings(home, "") / "known_hosts").write_text(f"127.0.0.1 {other}\n")
    with pytest.raises(HostKeyUnknown):
        await connect(unpinned(host))


async def test_the_same_key_known_without_a_port_speaks_for_this_port(host: RunningHost, home: Path) -> None:
    (settings(home, "") / "known_hosts").write_text(
        host.known_hosts_line.replace(f"[127.0.0.1]:{host.port}", "127.0.0.1") + "\n"
    )
    await reaches(unpinned(host))


async def test_a_revoked_key_is_refused(host: RunningHost, home: Path) -> None:
    (settings(home, "") / "known_hosts").write_text(f"{host.known_hosts_line}\n@revoked {host.known_hosts_line}\n")
    with pytest.raises(HostKeyChanged, match="revoked"):
        await connect(unpinned(host))


@pytest.mark.parametrize("value", ["none", "/dev/null", '""'])
async def test_no_setting_turns_the_check_off(host: RunningHost, home: Path, value: str) -> None:
    settings(
        home,
        f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile {value}\n  GlobalKnownHostsFile {value}\n"
        f"Match final\n  UserKnownHostsFile {value}\n",
    )
    with pytest.raises(HostKeyUnknown):
        await connect(unpinned(host))


async def test_a_known_hosts_file_named_in_the_settings_counts(host: RunningHost, home: Path) -> None:
    (home / "mine").write_text(f"garbage\n@what is this\n{host.known_hosts_line}\n")
    settings(home, f"UserKnownHostsFile {home}/mine\n")
    await reaches(unpinned(host))


async def test_known_hosts_of_the_callers_choice(host: RunningHost, tmp_path: Path) -> None:
    known_hosts = KnownHosts((tmp_path / "run" / "known_hosts",))
    with pytest.raises(HostKeyUnknown) as caught:
        await connect(unpinned(host), known_hosts=known_hosts)
    accept_host_key(caught.value, known_hosts)
    runner = await connect(unpinned(host), known_hosts=known_hosts)
    await runner.close()
    with pytest.raises(HostKeyUnknown):
        await connect(unpinned(host))


async def test_a_pinned_key_needs_no_known_hosts_and_overrules_them(host: RunningHost, home: Path) -> None:
    (settings(home, "") / "known_hosts").write_text(host.known_hosts_line + "\n")
    await reaches(host.inventory_host())
    with pytest.raises(HostKeyChanged, match="pins SHA256:AAAA") as caught:
        await connect(host.inventory_host(host_key="SHA256:" + "A" * 43))
    assert host.host_key in caught.value.message


# --- logins ------------------------------------------------------------------------------------------------------


async def test_a_refused_login_names_the_keys_that_were_offered(host: RunningHost, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="me@laptop")
    key.write_private_key(tmp_path / "id")
    with pytest.raises(LoginRefused) as caught:
        await connect(host.inventory_host(identity_file=str(tmp_path / "id")))
    assert key.get_fingerprint() in caught.value.message
    assert "user demo" in caught.value.message
    assert caught.value.next_step.endswith(f"ssh-copy-id -p {host.port} demo@127.0.0.1")


async def test_a_login_without_any_key(host: RunningHost) -> None:
    with pytest.raises(LoginRefused, match="no key at all"):
        await connect(host.inventory_host(identity_file=""))


async def test_a_key_behind_a_passphrase_is_named_with_the_command_that_unlocks_it(
    host: RunningHost, home: Path
) -> None:
    key = settings(home, "") / "id_ed25519"
    made = await asyncio.create_subprocess_exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key))
    assert await made.wait() == 0
    with pytest.raises(LoginRefused, match=f"ssh-add {key}"):
        await connect(host.inventory_host(identity_file=""))
    with pytest.raises(LoginRefused, match=f"ssh-add {key}"):
        await connect(host.inventory_host(identity_file="~/.ssh/id_ed25519"))


async def test_an_identity_file_that_does_not_exist_or_is_no_key(host: RunningHost, tmp_path: Path) -> None:
    with pytest.raises(LoginRefused, match="cannot read /nonexistent/id: No such file"):
        await connect(host.inventory_host(identity_file="/nonexistent/id"))
    with pytest.raises(LoginRefused, match="not a private key"):
        await connect(host.inventory_host(identity_file=f"{host.identity_file}.pub"))


async def test_the_agent_is_used_and_a_dead_agent_does_no_harm(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
    await reaches(host.inventory_host())
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed")
    agent = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(tmp_path / "agent"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert agent.stdout is not None
        await agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        async with asyncssh.connect_agent() as keys:
            for _ in range(8):
                await keys.add_keys([asyncssh.generate_private_key("ssh-ed25519")])
            await reaches(host.inventory_host())  # the named key is not lost among the agent's
            with pytest.raises(LoginRefused, match=r"SHA256:\S+ \(agent\)"):
                await connect(host.inventory_host(identity_file=""))
            await keys.remove_all()
            await keys.add_keys([str(host.identity_file)])
            await reaches(host.inventory_host(identity_file=""))
    finally:
        agent.terminate()
        await agent.wait()


async def test_the_settings_of_ssh_config_count(host: RunningHost, home: Path) -> None:
    settings(
        home,
        f"Host gpu-box\n  HostName 127.0.0.1\n  Port {host.port}\n  User demo\n  IdentityFile {host.identity_file}\n",
    )
    await reaches(Host(name="gpu-box", host_key=host.host_key))


async def test_a_login_is_by_key_whatever_ssh_config_prefers(host: RunningHost, home: Path) -> None:
    settings(home, "Host *\n  PreferredAuthentications password,keyboard-interactive\n")
    await reaches(host.inventory_host())


async def test_none_goes_straight_to_the_host(host: RunningHost, home: Path) -> None:
    settings(home, "Host *\n  ProxyJump nowhere.invalid\n")
    await reaches(host.inventory_host(jump_host="none"))
    settings(home, "Host *\n  ProxyCommand /nonexistent/proxy\n")
    await reaches(host.inventory_host(jump_host="none"))


async def test_mistakes_in_ssh_config_are_told_as_such(host: RunningHost, home: Path) -> None:
    settings(home, "Port twenty-two\n")
    with pytest.raises(ConnectError, match=r"~/\.ssh/config: .*twenty-two"):
        await connect(Host(name="gpu-box", host_key=host.host_key))


# --- the way there -----------------------------------------------------------------------------------------------


async def test_a_port_nobody_listens_on() -> None:
    port = free_port()
    with pytest.raises(HostUnreachable, match=f"127.0.0.1:{port} refused the connection"):
        await connect(Host(name="alpha", address="127.0.0.1", port=port))


async def test_a_host_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = Host(name="alpha", address="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(HostUnreachable, match=r"no answer from 127\.0\.0\.1:\d+ within 0\.2 s"):
            await connect(entry, connect_timeout=0.2)


async def test_a_port_that_speaks_something_else() -> None:
    async def web(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectError, match=f"^alpha: .*{port}"):
        await connect(Host(name="alpha", address="127.0.0.1", port=port))
    server.close()
    await server.wait_closed()


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_such_name(*_args: object, **_kwargs: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    with pytest.raises(HostUnreachable, match="the name gpu-box does not resolve"):
        await connect(Host(name="gpu-box"))


async def test_many_at_once_do_not_delay_each_other(host: RunningHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = Host(name="silent", address="127.0.0.1", port=silent.getsockname()[1])
        slow = asyncio.create_task(connect(entry, connect_timeout=30))
        await reaches(host.inventory_host())
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A relay in front of a host; once the event is set it swallows everything, like a cable that was pulled."""
    pulled = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not pulled.is_set():
                writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, far_writer))
        tasks.update(asyncio.create_task(carry(*ends)) for ends in ((reader, far_writer), (far_reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], pulled
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_pulled_cable_is_noticed_by_keepalives(host: RunningHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_login, "KEEPALIVE_SECONDS", 0.05)
    async with wire(host.port) as (port, pulled):
        runner = await connect(host.inventory_host(port=port))
        command = asyncio.create_task(runner.run("sleep 60", timeout=None))
        pulled.set()
        with pytest.raises(ConnectionDropped):
            async with asyncio.timeout(5):
                await command
        assert not runner.is_connected
        await runner.close()


async def test_a_host_that_comes_back_is_reached_again(host: RunningHost) -> None:
    runner = await connect(host.inventory_host())
    await host.stop()
    await runner.wait_closed()
    with pytest.raises(HostUnreachable):
        await connect(host.inventory_host())
    await host.start()
    await reaches(host.inventory_host())
    await runner.close()


def test_jump_hosts_are_read_as_ssh_reads_them() -> None:
    read = [ssh_login.parse_jump(text, "a") for text in ("bastion", "me@bastion:2222", "[fe80::1]:22", "fe80::1")]
    assert [(each.user, each.address, each.port) for each in read] == [
        ("", "bastion", None),
        ("me", "bastion", 2222),
        ("", "fe80::1", 22),
        ("", "fe80::1", None),
    ]
    for wrong in ("bastion:ssh", "me@", ""):
        with pytest.raises(RemoteError, match="jump host"):
            ssh_login.parse_jump(wrong, "a")


class TestJump:
    """Two hosts behind a third."""

    @pytest.fixture
    async def cluster(self, home: Path) -> AsyncIterator[dict[str, RunningHost]]:
        async with embedded_hosts([Spec("bastion"), Spec("alpha"), Spec("beta")]) as cluster:
            folder = settings(home, "")
            shutil.copy(cluster.identity_file, folder / "id_ed25519")
            (folder / "known_hosts").write_text(cluster["bastion"].known_hosts_line + "\n")
            yield {host.name: host for host in cluster.hosts}

    @staticmethod
    def jump(cluster: dict[str, RunningHost]) -> str:
        return f"demo@127.0.0.1:{cluster['bastion'].port}"

    async def test_every_host_behind_it_shares_one_connection(self, cluster: dict[str, RunningHost]) -> None:
        jumps = ssh_login.JumpConnections()
        entries = [cluster[name].inventory_host(jump_host=self.jump(cluster)) for name in ("alpha", "beta")]
        runners = await asyncio.gather(*(connect(entry, jump_connections=jumps) for entry in entries))
        assert [(await runner.run("pwd")).stdout.strip() for runner in runners] == [
            str(cluster[name].home) for name in ("alpha", "beta")
        ]
        assert cluster["bastion"].login_count == 1
        for runner in runners:
            await runner.close()
        assert cluster["bastion"].is_busy
        await jumps.close()
        await cluster["bastion"].idle()

    async def test_a_lost_jump_connection_is_opened_anew(self, cluster: dict[str, RunningHost]) -> None:
        jumps = ssh_login.JumpConnections()
        entry = cluster["alpha"].inventory_host(jump_host=self.jump(cluster))
        first = await connect(entry, jump_connections=jumps)
        cluster["bastion"].drop_connections()
        await first.wait_closed()
        second = await connect(entry, jump_connections=jumps)
        assert (await second.run("echo back")).stdout == "back\n"
        for runner in (first, second):
            await runner.close()
        await jumps.close()

    async def test_its_own_connection_ends_with_the_runner(self, cluster: dict[str, RunningHost]) -> None:
        await reaches(cluster["alpha"].inventory_host(jump_host=self.jump(cluster)))
        await cluster["bastion"].idle()

    async def test_a_chain(self, cluster: dict[str, RunningHost], home: Path) -> None:
        with (home / ".ssh" / "known_hosts").open("a") as known_hosts:
            known_hosts.write(cluster["beta"].known_hosts_line + "\n")
        chain = f"{self.jump(cluster)},demo@127.0.0.1:{cluster['beta'].port}"
        await reaches(cluster["alpha"].inventory_host(jump_host=chain))
        assert [cluster[name].login_count for name in ("bastion", "beta", "alpha")] == [1, 1, 1]

    async def test_proxy_jump_for_all_hosts_does_not_go_round(
        self, cluster: dict[str, RunningHost], home: Path
    ) -> None:
        settings(home, f"Host *\n  ProxyJump {self.jump(cluster)}\n")
        async with asyncio.timeout(5):
            await reaches(cluster["alpha"].inventory_host(jump_host=""))
        assert cluster["bastion"].login_count == 1

    async def test_its_key_is_checked_too(self, cluster: dict[str, RunningHost], home: Path) -> None:
        (home / ".ssh" / "known_hosts").unlink()
        with pytest.raises(HostKeyUnknown, match="jump host") as caught:
            await connect(cluster["alpha"].inventory_host(jump_host=self.jump(cluster)))
        assert caught.value.known_hosts_line == cluster["bastion"].known_hosts_line
        assert cluster["alpha"].login_count == 0

    async def test_a_host_it_cannot_reach(self, cluster: dict[str, RunningHost]) -> None:
        await cluster["alpha"].stop()
        with pytest.raises(HostUnreachable, match=r"jump host 127\.0\.0\.1 cannot reach"):
            await connect(cluster["alpha"].inventory_host(jump_host=self.jump(cluster)))

"""Every kind of host there is a transcript of: what is made of it, and what the person is told to do."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from remote.checks.model import Finding, Verdict
from remote.checks.platforms import no_engine_finding
from remote.checks.systems import open_ports
from remote.embedded import EmbeddedHost, embedded_hosts
from remote.engine import Engine
from remote.errors import EngineError
from remote.facts import Facts, gather_facts
from remote.inventory import Host
from remote.runner import Runner
from remote.ssh import SshRunner, connect
from tests.ssh.checking import Bench, bench
from tests.ssh.played import Played, names, played, transcript

FIRST = {"ssh", "shell", "system"}
PIPE = "npipe:////./pipe/docker_engine"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="h-") as short:
        yield Path(short)


def with_docker(host: Host) -> Host:
    return host.model_copy(update={"runtime": "docker"})


@asynccontextmanager
async def checked(name: str, folder: Path, *, docker: bool = True) -> AsyncIterator[tuple[Bench, Facts]]:
    with played(name, folder) as host:
        async with bench(host.spec, change=with_docker if docker else lambda entry: entry) as found:
            await found.run(only=FIRST)
            yield found, await found.context.facts(name)


def commands(finding: Finding | None) -> str:
    assert finding is not None
    return "\n".join(finding.fix.commands) if finding.fix else ""


@pytest.mark.parametrize("name", names())
def test_every_answer_names_its_source(name: str) -> None:
    told = transcript(name)
    entries = [*told.get("tool", ()), *told.get("file", ()), *told.get("socket", ()), *told.get("answer", ())]
    entries += [told[part] for part in ("facts", "engine") if part in told]
    assert entries
    for entry in entries:
        assert entry["source"].startswith("https://"), entry


async def test_one_question_serves_the_first_three_checks(folder: Path) -> None:
    with played("arch", folder) as host:
        async with bench(host.spec, change=with_docker) as found:
            await found.run(only=FIRST)
            assert len(host.asked) == 1
            assert found.with_verdict(Verdict.OK) == {(check, "arch") for check in FIRST}


async def test_wsl_in_nat_mode_is_told_to_mirror(folder: Path) -> None:
    async with checked("wsl2-nat", folder) as (found, facts):
        assert (facts.wsl, facts.wsl_networking, facts.address) == (True, "nat", "172.28.4.2")
        finding = found.finding("system", "wsl2-nat")
        assert finding.verdict is Verdict.WARN
        assert "NAT mode" in finding.reason
        assert finding.fix is not None
        assert "networkingMode=mirrored" in finding.fix.text
        assert ".wslconfig" in finding.fix.text
        assert commands(finding) == "wsl.exe --shutdown"
        assert "New-NetFirewallHyperVRule" in open_ports(facts, "29500", ()).commands[0]


async def test_wsl_in_mirrored_mode_is_fine(folder: Path) -> None:
    async with checked("wsl2-mirrored", folder) as (found, facts):
        assert facts.wsl_networking == "mirrored"
        assert found.finding("system", "wsl2-mirrored").verdict is Verdict.OK


async def test_fedora_with_podman_in_dockers_place(folder: Path) -> None:
    async with checked("fedora-podman", folder) as (found, facts):
        assert found.finding("system", "fedora-podman").verdict is Verdict.OK
        assert facts.distribution == "fedora 41"
        assert facts.selinux_enforcing
        assert facts.groups == ("ana", "wheel")
        assert facts.firewalls == ("firewalld",)
        assert (facts.docker_cli, facts.docker_is_podman) == ("/usr/bin/docker", True)
        finding = no_engine_finding(facts, "")
        assert finding is not None
        assert finding.verdict is Verdict.FAIL
        assert "Podman" in finding.reason
        assert "dnf swap -y podman-docker moby-engine" in commands(finding)
        assert "firewall-cmd --permanent" in open_ports(facts, "29500", ("10.0.0.2",)).commands[0]


async def test_arch_has_no_version_and_no_engine(folder: Path) -> None:
    async with checked("arch", folder) as (_, facts):
        assert (facts.system, facts.distribution, facts.python) == ("Linux", "arch", "")
        assert facts.engine_sockets == ()
        assert no_engine_finding(facts, "") is None


async def test_a_stopped_snap_is_started_as_a_snap(folder: Path) -> None:
    async with checked("snap-docker", folder) as (_, facts):
        assert facts.docker_cli == "/snap/bin/docker"
        assert facts.disk_path == "/var/snap/docker/common/var-lib-docker"
        assert commands(no_engine_finding(facts, "")) == "sudo snap start docker"


async def test_a_stopped_rootless_engine_is_started_by_its_user(folder: Path) -> None:
    async with checked("rootless-docker", folder) as (_, facts):
        assert facts.rootless_engine
        finding = no_engine_finding(facts, "")
        assert commands(finding) == "systemctl --user enable --now docker"
        assert finding is not None
        assert finding.fix is not None
        assert "enable-linger ana" in finding.fix.text


async def test_macos_with_docker_desktop(folder: Path) -> None:
    async with checked("macos-docker-desktop", folder) as (found, facts):
        assert (facts.system, facts.distribution, facts.architecture) == ("Darwin", "macOS 15.1", "arm64")
        assert (facts.user, facts.user_id, facts.groups[0]) == ("ana", 501, "staff")
        assert (facts.cpu_count, facts.memory_total, facts.interface) == (10, 32 << 30, "en0")
        assert facts.memory_available == (123456 + 345678 + 12345 + 56789) * 16384
        assert facts.disk_free == 600000000 * 1024
        assert facts.docker_desktop
        assert facts.engine_socket.endswith("/.docker/run/docker.sock")
        finding = found.finding("system", "macos-docker-desktop")
        assert finding.verdict is Verdict.WARN
        assert finding.fix is not None
        assert 'runtime = "process"' in finding.fix.text
        opened = open_ports(facts, "29500", ())
        assert all("/usr/libexec/ApplicationFirewall/socketfilterfw" in each for each in opened.commands)
        assert facts.firewalls == ("macos-application-firewall",)


async def test_macos_as_a_process_host_is_fine(folder: Path) -> None:
    async with checked("macos-docker-desktop", folder, docker=False) as (found, _):
        assert found.finding("system", "macos-docker-desktop").verdict is Verdict.OK


async def test_docker_desktop_on_a_mac_is_named_with_its_setting(folder: Path) -> None:
    told = transcript("macos-docker-desktop")["engine"]

    async def engine(_: Runner) -> Any:
        return Answering(told)

    with played("macos-docker-desktop", folder) as host:
        async with bench(host.spec, change=with_docker, engine_of=engine) as found:
            await found.run(only={"engine-kind"})
            finding = found.finding("engine-kind", "macos-docker-desktop")
            assert finding.verdict is Verdict.WARN
            assert finding.fix is not None
            assert "4.34" in finding.fix.text


async def test_a_stopped_colima_is_started(folder: Path) -> None:
    async with checked("macos-colima", folder) as (_, facts):
        assert facts.colima == "/opt/homebrew/bin/colima"
        assert not facts.docker_desktop
        assert commands(no_engine_finding(facts, "")) == "colima start"


@pytest.mark.parametrize(("name", "shell"), [("windows-cmd", "cmd"), ("windows-powershell", "powershell")])
async def test_windows_tells_its_facts_by_powershell(folder: Path, name: str, shell: str) -> None:
    async with checked(name, folder) as (found, facts):
        assert facts.login_shell == shell
        assert (facts.system, facts.distribution) == ("Windows", "Microsoft Windows 11 Pro")
        assert (facts.architecture, facts.cpu_count) == ("x86_64", 16)
        assert facts.memory_total == 33481276 * 1024
        assert (facts.disk_free, facts.disk_path) == (245366784 * 1024, "C:\\")
        assert (facts.interface, facts.address, facts.mtu) == ("Ethernet", "192.168.1.40", 1500)
        assert facts.ephemeral_ports == (49152, 65535)
        assert facts.gpus[0].name == "NVIDIA GeForce RTX 4070"
        assert found.finding("shell", name).verdict is Verdict.OK
        finding = found.finding("system", name)
        assert finding.verdict is Verdict.WARN
        assert finding.fix is not None
        assert "networkingMode=mirrored" in finding.fix.text
        rule = open_ports(facts, "29900-29950", ("192.168.1.10", "192.168.1.11")).commands[0]
        assert rule.startswith("New-NetFirewallRule ")
        assert "-LocalPort 29900-29950 -RemoteAddress 192.168.1.10,192.168.1.11" in rule


@pytest.mark.parametrize("name", ["windows-cmd", "windows-powershell"])
async def test_processes_on_windows_are_refused_with_the_way_out(folder: Path, name: str) -> None:
    async with checked(name, folder, docker=False) as (found, _):
        finding = found.finding("shell", name)
        assert finding.verdict is Verdict.FAIL
        assert "wsl.exe" in commands(finding)
        assert found.finding("system", name).verdict is Verdict.SKIP


async def test_a_stopped_docker_desktop_on_windows(folder: Path) -> None:
    async with checked("windows-powershell", folder) as (_, facts):
        assert facts.engine_socket == ""
        finding = no_engine_finding(facts, "")
        assert finding is not None
        assert "somebody is logged in" in finding.reason
        assert commands(finding) == "docker desktop start"


class Answering:
    """An engine that answers as the transcript says."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = told

    async def version(self) -> Mapping[str, Any]:
        version: Mapping[str, Any] = self._told["version"]
        return version

    async def info(self) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self._told["info"]
        return info


@asynccontextmanager
async def engine_listening(path: Path) -> AsyncIterator[None]:
    """Answer the first questions of a Docker client over HTTP."""
    said = {"version": {"Version": "27.3.1", "ApiVersion": "1.47"}, "info": {"OperatingSystem": "Docker Desktop"}}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                asked = head.split()[1].rpartition("/")[2]
                body = json.dumps(said.get(asked, {})).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def logged_in(host: Played | EmbeddedHost) -> AsyncIterator[SshRunner]:
    spec = host.spec if isinstance(host, Played) else host
    async with embedded_hosts([spec]) as cluster:
        runner = await connect(cluster.hosts[0].inventory_host())
        try:
            yield runner
        finally:
            await runner.close()


async def test_the_engine_of_windows_answers_through_its_named_pipe(folder: Path) -> None:
    with played("windows-cmd", folder) as host:
        async with engine_listening(host.engine_socket), logged_in(host) as runner:
            engine = await Engine.open(runner, (await gather_facts(runner)).engine_socket)
            assert engine.api_version == "1.47"
            assert (await engine.info())["OperatingSystem"] == "Docker Desktop"
            await engine.close()


async def test_a_pipes_address_is_never_handed_to_a_shell_unread(folder: Path) -> None:
    with played("windows-cmd", folder) as host:
        async with logged_in(host) as runner:
            with pytest.raises(EngineError, match="no address of a named pipe"):
                await runner.open_unix(f"{PIPE} & calc.exe")
        assert host.asked == []


async def test_noise_of_a_start_up_file_is_ignored(folder: Path) -> None:
    (folder / "noise").write_text("echo 'Welcome to pc1! You have 3 new mails.'; printf 'clock\\t1\\n@@HTUI\\n'\n")
    noisy = EmbeddedHost("pc1", login_shell=("bash",), env={"BASH_ENV": str(folder / "noise")})
    async with bench(noisy) as found:
        assert "new mails" in (await found.context.runner("pc1").run("true")).stdout
        await found.run(only=FIRST)
        assert found.with_verdict(Verdict.OK) == {(check, "pc1") for check in FIRST}


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
async def test_fish_as_login_shell_reads_every_command_the_same() -> None:
    async with logged_in(EmbeddedHost("pc1", login_shell=(shutil.which("fish") or "",))) as runner:
        assert (await gather_facts(runner)).system
        for text in ("it's", "back\\slash", "\\\\two", "end\\", "\\'", "a'\\''b", '$HOME `id` "x" !! %self', "\\n\\t"):
            quoted = "'" + text.replace("'", "'\"'\"'") + "'"
            assert (await runner.run(f"printf %s {quoted}")).stdout == text


async def test_a_host_without_python_still_tells_its_facts(folder: Path) -> None:
    with played("snap-docker", folder) as host:
        async with logged_in(host) as runner:
            facts = await gather_facts(runner, master_address="192.168.1.10")
            assert facts.python == ""
            assert facts.cpu_count > 0
            assert abs(facts.clock_offset) < 2

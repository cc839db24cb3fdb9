from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote.checks.catalogue import CATALOGUE
from remote.checks.model import CheckResult, CheckStarted, Verdict
from remote.checks.run import run_checks, summarize
from remote.embedded import Answer, EmbeddedHost
from remote.inventory import Host
from remote.runtime import HostRunState, State
from tests.ssh.checking import HASTY, LOOPBACK, bench, play_probe, probe_configuration

THREE = (EmbeddedHost("pc1"), EmbeddedHost("pc2"), EmbeddedHost("pc3"))
NETWORK = (
    "interface",
    "reverse-dns",
    "master-port",
    "master-reachable",
    "data-ports",
    "full-packets",
    "addresses-seen",
)


@pytest.mark.slow
async def test_healthy_hosts_have_nothing_red() -> None:
    async with bench(*THREE) as found:
        await found.run()
        bad = [each for each in found.results if each.finding.verdict in {Verdict.FAIL, Verdict.UNKNOWN}]
        assert bad == []
        assert summarize(found.results).exit_code == 0
        assert {each.check_id for each in found.results} == {check.id for check in CATALOGUE}
        for check in NETWORK[1:]:
            assert (check, "pc2") in found.with_verdict(Verdict.OK) | found.with_verdict(Verdict.SKIP)
        assert found.finding("python", "pc3").reason.startswith("Python 3.")
        matrix = found.context.matrix
        assert matrix is not None
        assert len(matrix.links) == 6
        assert all(link.round_trip and link.sent_bytes_per_second for link in matrix.links.values())
        assert len({link.port for link in matrix.links.values()}) == 3, "one machine: every host has its own port"


async def test_every_result_is_announced_and_comes_after_what_it_needs() -> None:
    async with bench(*THREE) as found:
        await found.run(only={"data-ports"})
        started = {(each.check_id, each.host) for each in found.progress if isinstance(each, CheckStarted)}
        order = [(each.check_id, each.host) for each in found.results]
        assert set(order) == started
        mine = [check for check, host in order if host == "pc1"]
        assert mine == ["ssh", "shell", "system", "probe", "interface", "data-ports"]
        assert len(order) == len(set(order))


async def test_a_taken_port_turns_exactly_that_check_red_and_a_new_run_sees_it_freed() -> None:
    async with bench(*THREE, timings=HASTY) as found:
        with socket.socket() as taken:
            taken.bind((LOOPBACK, found.port))
            taken.listen()
            await found.run(only=NETWORK)
            assert found.with_verdict(Verdict.FAIL) == {("master-port", "pc1")}
            assert found.with_verdict(Verdict.UNKNOWN) == set()
            finding = found.finding("master-port", "pc1")
            assert f"port {found.port} is in use" in finding.reason
            if shutil.which("ss"):
                assert f":{found.port}" in finding.evidence.partition(";")[2], "names who listens"
            assert finding.fix is not None
            assert str(found.port + 1) in finding.fix.text
        await found.run(only={"master-port"})
        assert found.finding("master-port", "pc1").verdict is Verdict.OK


async def test_a_rejecting_host_is_the_only_red_one_and_is_named() -> None:
    hosts = (EmbeddedHost("pc1"), EmbeddedHost("pc2", respond=play_probe()), EmbeddedHost("pc3"))
    async with bench(*hosts, timings=HASTY) as found:
        await found.run(only=NETWORK)
        assert found.with_verdict(Verdict.FAIL) == {("data-ports", "pc2")}
        reason = found.finding("data-ports", "pc2").reason
        assert "pc1 is refused by pc2" in reason
        assert "pc3 is refused by pc2" in reason
        assert "REJECT" in reason
        fix = found.finding("data-ports", "pc2").fix
        assert fix is not None
        assert fix.host == "pc2"
        assert found.finding("full-packets", "pc2").verdict is Verdict.SKIP
        assert "Data ports" in found.finding("full-packets", "pc2").reason
        assert found.finding("data-ports", "pc1").verdict is Verdict.OK


@pytest.fixture
def deaf() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def listen_on_one(ports: list[int], backlog: int, deaf: list[socket.socket]) -> int:
    """Listen on the first port that is free, as a probe does: a connection of another program may have one."""
    for port in ports:
        listening = socket.socket()
        deaf.append(listening)
        try:
            listening.bind((LOOPBACK, port))
        except OSError:
            continue
        listening.listen(backlog)
        return port
    raise AssertionError(f"none of {ports} is free")


async def test_silence_is_told_from_refusal(deaf: list[socket.socket]) -> None:
    def fill_backlogs(ports: list[int]) -> int:
        """A listener whose backlog is full: Linux drops further SYNs, as a DROP rule does."""
        port = listen_on_one(ports, 0, deaf)
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((LOOPBACK, port))
            deaf.append(filler)
        return port

    hosts = (EmbeddedHost("pc1"), EmbeddedHost("pc2", respond=play_probe(fill_backlogs)))
    async with bench(*hosts, timings=HASTY) as found:
        await found.run(only={"data-ports"})
        finding = found.finding("data-ports", "pc2")
        assert finding.verdict is Verdict.FAIL
        assert "pc1 gets no answer from pc2" in finding.reason
        assert "DROP" in finding.reason


async def test_a_stranger_on_the_port_is_not_taken_for_the_peer(deaf: list[socket.socket]) -> None:
    def greet(ports: list[int]) -> int:
        return listen_on_one(ports, 128, deaf)

    hosts = (EmbeddedHost("pc1"), EmbeddedHost("pc2", respond=play_probe(greet)))
    async with bench(*hosts, timings=HASTY) as found:
        await found.run(only={"data-ports"})
        finding = found.finding("data-ports", "pc2")
        assert finding.verdict is Verdict.FAIL
        assert "something else" in finding.reason


async def test_probes_that_missed_one_another_are_tried_once_more() -> None:
    too_late = play_probe(late=1000.0)
    tries: list[float] = []

    def late_once(command: str, data: bytes) -> Answer | None:
        config = probe_configuration(command)
        if config is None:
            return None
        tries.append(config["until"])
        return too_late(command, data) if len(tries) == 1 else None

    async with bench(EmbeddedHost("pc1"), EmbeddedHost("pc2", respond=late_once), timings=HASTY) as found:
        await found.run(only={"data-ports", "master-reachable"})
        assert len(tries) == 2
        assert found.with_verdict(Verdict.UNKNOWN) == set()
        assert {("data-ports", "pc1"), ("data-ports", "pc2")} <= found.with_verdict(Verdict.OK)


async def test_a_probe_that_never_ends_leaves_the_others_their_answers() -> None:
    def hold_probe(command: str, _: bytes) -> Answer | None:
        return Answer(hold=True) if probe_configuration(command) else None

    hosts = (EmbeddedHost("pc1"), EmbeddedHost("pc2"), EmbeddedHost("pc3", respond=hold_probe))
    timings = HASTY.__class__(start=1.0, dial=2.0, linger=0.2, connect=0.5, stall=0.5, transfer=1.0, lookup=0.5)
    async with bench(*hosts, timings=timings) as found:
        await found.run(only=NETWORK)
        assert found.with_verdict(Verdict.UNKNOWN) == {("probe", "pc3")}
        assert found.finding("data-ports", "pc1").verdict is Verdict.OK
        assert "not tried from pc3" in found.finding("data-ports", "pc1").reason
        assert summarize(found.results).exit_code == 1


async def test_an_unknown_key_shows_its_fingerprint_and_stops_nobody_else() -> None:
    def unpin(host: Host) -> Host:
        return host.model_copy(update={"host_key": ""}) if host.name == "pc2" else host

    async with bench(*THREE, change=unpin) as found:
        await found.run(only=(*NETWORK, "duplicates"))
        assert found.with_verdict(Verdict.FAIL) == {("ssh", "pc2")}
        finding = found.finding("ssh", "pc2")
        assert found.cluster["pc2"].host_key in finding.reason
        assert finding.fix is not None
        assert found.finding("data-ports", "pc2").verdict is Verdict.SKIP
        assert "SSH login" in found.finding("data-ports", "pc2").reason
        assert found.finding("data-ports", "pc1").verdict is Verdict.OK
        duplicates = found.finding("duplicates", "")
        assert duplicates.verdict is Verdict.SKIP
        assert "pc2 not looked at" in duplicates.reason
        assert summarize(found.results).exit_code == 1


async def test_a_changed_key_is_red_and_says_how_to_forget_the_old_one() -> None:
    def other_pin(host: Host) -> Host:
        return host.model_copy(update={"host_key": f"SHA256:{'A' * 43}"})

    async with bench(EmbeddedHost("pc1"), change=other_pin) as found:
        await found.run(only={"ssh"})
        assert found.finding("ssh", "pc1").verdict is Verdict.FAIL
        assert "changed" in found.finding("ssh", "pc1").reason


async def test_a_refused_login_says_how_to_copy_the_key(tmp_path: Path) -> None:
    async with bench(EmbeddedHost("other")) as stranger:
        key = stranger.cluster.identity_file.read_bytes()
    identity = tmp_path / "id"
    identity.write_bytes(key)
    identity.chmod(0o600)

    def wrong_key(host: Host) -> Host:
        return host.model_copy(update={"identity_file": str(identity)})

    async with bench(EmbeddedHost("pc1"), change=wrong_key) as found:
        await found.run(only={"ssh"})
        fix = found.finding("ssh", "pc1").fix
        assert fix is not None
        assert fix.commands == (f"ssh-copy-id -p {found.cluster['pc1'].port} demo@127.0.0.1",)


async def test_a_python_without_torch_is_red(tmp_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no python3 outside the virtual environment")

    def bare(host: Host) -> Host:
        return host.model_copy(update={"python": str(python)})

    async with bench(EmbeddedHost("pc1"), change=bare) as found:
        await found.run(only={"python"})
        finding = found.finding("python", "pc1")
        assert finding.verdict is Verdict.FAIL
        assert "torch" in finding.reason or "trainer" in finding.reason


async def test_a_missing_python_is_red() -> None:
    def missing(host: Host) -> Host:
        return host.model_copy(update={"python": "/nowhere/bin/python"})

    async with bench(EmbeddedHost("pc1"), change=missing) as found:
        await found.run(only={"python", "probe"})
        assert found.finding("python", "pc1").reason == "/nowhere/bin/python is not there"
        assert found.finding("probe", "pc1").verdict is Verdict.UNKNOWN


async def test_hanging_facts_are_unknown_and_delay_nobody() -> None:
    def hang(command: str, _: bytes) -> Answer | None:
        return Answer(hold=True) if command.startswith("exec /bin/sh -s --") else None

    hosts = (EmbeddedHost("pc1"), EmbeddedHost("pc2", respond=hang))
    async with bench(*hosts) as found:
        seen = asyncio.Event()
        results: list[CheckResult] = []

        async def collect() -> None:
            async for each in run_checks(found.context, only={"system", "clock"}):
                if isinstance(each, CheckResult):
                    results.append(each)
                    if (each.check_id, each.host) == ("clock", "pc1"):
                        seen.set()

        task = asyncio.create_task(collect())
        async with asyncio.timeout(10):
            await seen.wait()
        assert ("system", "pc2") not in {(each.check_id, each.host) for each in results}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = {each.get_name() for each in asyncio.all_tasks() if each.get_name().startswith("check ")}
        assert left == set()


@pytest.mark.parametrize(("state", "verdict"), [(State.RUNNING, Verdict.FAIL), (State.EXITED, Verdict.OK)])
async def test_an_earlier_run_that_is_alive_is_red_unless_it_is_the_one_under_way(
    state: State, verdict: Verdict
) -> None:
    runs = {"pc1": (HostRunState("pc1", "run-7", state),)}
    async with bench(EmbeddedHost("pc1"), runs=runs) as found:
        await found.run(only={"stale-runs"})
        assert found.finding("stale-runs", "pc1").verdict is verdict
        found.context.current_run = "run-7"
        await found.run(only={"stale-runs"})
        assert found.finding("stale-runs", "pc1").verdict is Verdict.OK


async def test_a_host_without_an_engine_is_red_once() -> None:
    def docker(host: Host) -> Host:
        return host.model_copy(update={"runtime": "docker"})

    async with bench(EmbeddedHost("pc1"), change=docker) as found:
        await found.run(only={"engine", "engine-kind", "image", "stale-runs"})
        assert found.with_verdict(Verdict.FAIL) == {("engine", "pc1")}
        assert found.with_verdict(Verdict.UNKNOWN) == set()

"""What remote probes answer, each to its own reader: a verdict or an error of the tree, and what is told is a text."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remote.checks.addresses import _reserved
from remote.checks.engine import gpu_kept_finding
from remote.checks.gpu import cuda_finding
from remote.checks.job import gpu_use_finding, load_finding
from remote.checks.network_firewall import read_firewall
from remote.checks.reach import power_finding
from remote.claim import SinceBoot
from remote.errors import CommandFailed, OverlayError, RemoteError
from remote.facts import Facts, Gpu, gather_facts
from remote.images.neighbours import _check, _Transfer
from remote.measure import read_measurement
from remote.overlay import Overlay, OverlayHost
from remote.overlay_host import _OverlayHost, raise_overlay, take_down
from remote.plan import HostPlan, RankPlan
from remote.runner import Completed
from tests.fuzz.hostile import few, in_chunks, mangled, texts
from tests.unit.scripted import ScriptedRunner
from trainer.events import Calibrated, encode

FACTS = Facts(
    "h1",
    system="Linux",
    cpu_count=4,
    gpus=(Gpu(0, "RTX", "GPU-1", 24 << 30, "550.1", "8.9"),),
)
POSIX = (
    b"motd\n@@HTUI1\nclock\t1800000000.5\nuname\tLinux box 6.1.0 x86_64\nid\tuid=1000(ana) gid=1000(ana) "
    b"groups=1000(ana),999(docker)\ncpu_quota\t200000 100000\nmemory\tMemTotal: 100 kB MemAvailable: 50 kB\n"
    b"df\t/home/ana Filesystem 1024-blocks Used Available Capacity Mounted on /dev/sda1 100 50 50 50% /\n"
    b"address\teth0 10.0.0.1\nnetwork\teth0 0000000A 00FFFFFF\nroute\t10.0.0.2 dev eth0 src 10.0.0.1 uid 0\n"
    b"gpu\t0, RTX, GPU-1, 24576, 550.1, 8.9\nengine_socket\t/run/docker.sock rw\nephemeral_ports\t32768 60999\n"
    b"clock_end\t1800000001.5\n@@END\n"
)
WINDOWS = Path("tests/transcripts/windows.facts").read_bytes()
GPU_USE = b"GPU-1, 20000, 24576, 0x0000000000000040, 91, 100, 200\n"
FIREWALL = (
    b"on ufw\nhas nft\nhas iptables\ntable inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; "
    b"policy drop;\n\t\tct state established accept\n\t\treject with icmp\n\t}\n}\n"
    b"-P INPUT DROP\n-A INPUT -j DROP\nend\n"
)
SMI = b"| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: 12.4     |\n"
NEEDS = "NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=535"
TABLE = encode(Calibrated(rank=0, seq=0, time=1.0, samples_per_second=50.0, table=((8, 0.1), (64, 0.5)))).encode()
KEYS = b"kind kernel\nkey " + b"A" * 43 + b"=\nshaken " + b"A" * 43 + b"= 1800000000\nshaken x 0\n"
RELAY = b'43210 0011aabb\nmoved 5\nmoved 100\nend [200, "{\\"stream\\":\\"Loaded image\\"}\\n"]\n'
HOST = HostPlan(
    host="h1", runtime="process", ranks=(RankPlan(0, 0, "cpu"),), container_name="", image="",
    argv=("python3", "-m", "trainer", "--workload", "simple_cnn"), env=(), labels=(),
)  # fmt: skip


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def answers(whole: bytes) -> st.SearchStrategy[str]:
    return st.one_of(mangled(whole).map(text), texts, st.binary(max_size=80).map(text))


class WindowsRunner(ScriptedRunner):
    """A host whose POSIX shell says one thing, and its login shell another."""

    def __init__(self, posix: str, shell: str, windows: str) -> None:
        super().__init__(Completed("h1", "x", 1, posix, posix))
        self._said = [shell, windows]

    async def run_in_login_shell(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        del command, input, timeout
        said = self._said.pop(0) if self._said else ""
        return Completed("h1", "x", 0, said, said)


@few
@given(answers(POSIX), answers(b"HTUI $PSVersionTable.PSVersion.Major %OS%"), answers(WINDOWS))
@example(text(POSIX), "", "")
@example("", "HTUI .PSVersion.Major Windows_NT", text(WINDOWS))
def test_facts_are_gathered_from_whatever_answers(posix: str, shell: str, windows: str) -> None:
    with contextlib.suppress(CommandFailed):
        facts = asyncio.run(gather_facts(WindowsRunner(posix, shell, windows), clock=lambda: 1.0))
        assert all(value.isprintable() for _, value in facts.raw)


@few
@given(
    st.one_of(answers(GPU_USE), answers(SMI), answers(FIREWALL), answers(b"0.52 0.58 0.59 1/389 2\n"),
              answers(b"system=Linux\nmains=1\nlid=open\n"), answers(b"12\n")),
    st.sampled_from([0, 1]),
    st.one_of(st.just(NEEDS), mangled(NEEDS.encode()).map(text)),
)  # fmt: skip
@example("²", 0, NEEDS)
@example("9" * 5000, 0, NEEDS)
@example("1-²,5", 0, NEEDS)
@example("1f2e3d4c-0000-4000-8000-000000000000\n12.5 40.1\n", 0, NEEDS)
@example(f"GPU-1, ², {'9' * 5000}, 0x{'f' * 5000}, 1, 1, 1", 0, NEEDS)
@example(f"GPU-1, {'9' * 400}, 1, 0x40, 1, 1, 1", 0, NEEDS)
@example(f"CUDA Version: {'9' * 5000}.{'9' * 5000}", 0, NEEDS)
@example(text(SMI), 0, f"NVIDIA_REQUIRE_CUDA=cuda>={'9' * 5000}.1")
def test_every_probe_comes_to_a_verdict(reply: str, status: int, needs: str) -> None:
    findings = [
        gpu_kept_finding("h1", {"CgroupDriver": "systemd"}, reply),
        gpu_use_finding(FACTS, reply, status),
        load_finding(FACTS, reply),
        power_finding("h1", reply),
        cuda_finding(FACTS, (needs,), reply, "a:1"),
    ]
    assert all(each.reason for each in findings)
    assert isinstance(read_firewall(reply).names, tuple)
    boot = SinceBoot.parse(reply)
    assert boot is None or (boot.boot.isprintable() and boot.seconds >= 0)
    assert _reserved(replace(FACTS, raw=(("reserved_ports", reply[:4000]),))) <= set(range(65536))


@few
@given(answers(TABLE), st.sampled_from([0, 1]))
@example(text(TABLE), 0)
@example(text(TABLE).replace("0.1", "1e999"), 0)
def test_a_measurement_is_read_or_refused(said: str, status: int) -> None:
    with contextlib.suppress(CommandFailed):
        measured = read_measurement(HOST, Completed("h1", "x", status, said, ""), 1.0)
        assert all(seconds > 0 for table in measured.tables for _, seconds in table)


OVERLAY = Overlay(
    "home", "r1", "htui0", "10.99.0.0/24", 51820, 1420, "h1",
    (OverlayHost("h1", "10.99.0.1", "192.0.2.1"), OverlayHost("h2", "10.99.0.2", "192.0.2.2")),
)  # fmt: skip


@few
@given(answers(KEYS), st.sampled_from([0, 1]))
@example(text(KEYS), 0)
def test_keys_and_handshakes_of_an_overlay_are_taken_or_refused(said: str, status: int) -> None:
    runner = ScriptedRunner(Completed("h1", "x", status, said, said))
    host = _OverlayHost(OVERLAY, "h1", runner)

    async def meet() -> None:
        with contextlib.suppress(OverlayError):
            await host.up(lambda _host, what: None)
            # What the host has said is a key, for it goes into the others' command lines.
            assert len(base64.b64decode(host.key, validate=True)) == 32
            assert "" not in await host.shake(1)
        left = await take_down({"h1": runner}, "home", overlay="htui0")
        assert all(reason.isprintable() for reason in left.values())

    asyncio.run(meet())


def test_a_host_cannot_take_the_key_of_another_for_its_own() -> None:
    runners = {name: ScriptedRunner(Completed(name, "x", 0, text(KEYS), "")) for name in ("h1", "h2")}
    with pytest.raises(OverlayError, match="same WireGuard key"):
        asyncio.run(raise_overlay(OVERLAY, runners))


class Relays(ScriptedRunner):
    """Two hosts that give each other an image; one takes it and says what this test says."""

    far_address = "192.0.2.1"

    def __init__(self, said: bytes, size: int, status: int) -> None:
        super().__init__(Completed("h1", "x", status, text(said), text(said)))
        self._said, self._size = said, size

    def stream(self, command: str) -> AsyncIterator[bytes]:
        del command
        return in_chunks(self._said, self._size)


@few
@given(st.one_of(mangled(RELAY), st.binary(max_size=80)), st.sampled_from([1, 7, 4096]), st.sampled_from([0, 1]))
@example(RELAY, 4096, 0)
@example(b"", 1, 0)
@example(b"x" * 3_000_000, 1 << 20, 0)
@example(RELAY.replace(b"moved 100", b"moved " + b"9" * 400), 4096, 0)
def test_a_transfer_between_neighbours_ends_whatever_they_say(said: bytes, size: int, status: int) -> None:
    relays = Relays(said, size, status)

    async def connected(_name: str) -> Relays:
        return relays

    async def transfer() -> None:
        places = cast("Any", SimpleNamespace(connected=connected))
        one = _Transfer(places, "h1", "h2", "sha256:1", 100, lambda told: None)
        async with asyncio.timeout(30):
            _check("h2", await one.run("/run/a.sock", cast("Any", relays), "/run/b.sock"))

    with contextlib.suppress(RemoteError):
        asyncio.run(transfer())

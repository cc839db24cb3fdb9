"""Training through an encrypted overlay: what passes on the wire, what is left behind, and hosts that cannot meet."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.clusters import PATIENT, cluster_toml
from tests.rig.faults.bench import give_sudo, take_sudo
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import RIG_VARIABLE, wait_for, wait_ready
from tests.rig.places import REPOSITORY

pytestmark = pytest.mark.rig

PORT = 29500
ENCRYPTED = '[network]\nencryption = "wireguard"\n'


@pytest.fixture(scope="module")
def overlay_possible(rig_possible: None) -> None:
    """Skip where there can be no WireGuard; in CI, which installs it, only a kernel that can do none is a reason."""
    kernel = Path("/sys/module/wireguard").exists()
    if not kernel and not Path("/dev/net/tun").is_char_device():
        pytest.skip("the kernel has no WireGuard, and wireguard-go needs /dev/net/tun, which is not there")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    wanted = ("wg",) if kernel else ("wg", "wireguard-go")
    absent = [command for command in wanted if shutil.which(command, path=path) is None]
    if not absent:
        return
    reason = f"missing commands: {', '.join(absent)} (CI=true sh tests/rig/install.sh installs them on Debian)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def sudo_rig(overlay_possible: None, rig: Rig) -> Iterator[Rig]:
    """Three hosts whose login user may use sudo without a password."""
    for host in rig.hosts:
        give_sudo(host)
    yield rig
    for host in rig.hosts:
        take_sudo(host)


@dataclass
class Wire:
    """What was seen on the bridge."""

    flows: list[tuple[str, str, str, int, int, int]] = field(default_factory=list)

    def between(self, hosts: set[str], protocol: str) -> dict[tuple[int, int], int]:
        """Return the bytes between hosts by source and destination port."""
        seen: dict[tuple[int, int], int] = {}
        for name, source, target, *ports, count in self.flows:
            if name == protocol and {source, target} <= hosts:
                pair = (int(ports[0]), int(ports[1]))
                seen[pair] = seen.get(pair, 0) + int(count)
        return seen


@contextmanager
def listening(rig: Rig) -> Iterator[Wire]:
    """Listen on the bridge as long as the block runs; the value is filled at its end."""
    wire = Wire()
    command = [sys.executable, "-m", "tests.rig.sniffer"]
    process = subprocess.Popen(
        [*rig.switch.enter, *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, RIG_VARIABLE: rig.id},
    )
    try:
        wait_ready(process, "the sniffer")
        yield wire
        process.terminate()
        said, _ = process.communicate(timeout=60)
        wire.flows = [tuple(each) for each in json.loads(said)]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


def overlays(host: RigHost) -> list[str]:
    """Return the overlay's interfaces on a host."""
    return host.run("sh", "-c", "ls /sys/class/net").stdout.split("hetero-")[1:]


def reachable_outside(host: RigHost) -> list[str]:
    """Return what listens on a host, except for SSH, where others than the machine itself and its overlay reach it."""
    (interface,) = (name for name in host.run("ls", "/sys/class/net").stdout.split() if name.startswith("hetero-"))
    shown = host.run("ip", "-o", "-4", "address", "show", "dev", interface).stdout
    inside = shown.split(" inet ")[1].split("/")[0]
    listening = [line.split()[3] for line in host.run("ss", "-Hltn").stdout.splitlines()]
    assert any(each.startswith(f"{inside}:") for each in listening), f"nothing trains on {inside}: {listening}"
    return [each for each in listening if not each.startswith((f"{inside}:", "127.", "[::1]")) and each[-3:] != ":22"]


def left_behind(host: RigHost) -> str:
    """Return what of an overlay is still on a host: interfaces, processes, sockets, rules."""
    question = (
        "ls /sys/class/net | grep hetero-; pgrep -x wireguard-go; ls /run/wireguard /run/lock | grep hetero-; "
        "iptables -S | grep hetero-tui; find /run /tmp /srv -name '*.key' 2>/dev/null; true"
    )
    return host.run("sh", "-c", question).stdout.strip()


def test_only_encrypted_packets_pass_between_the_hosts_and_nothing_stays(sudo_rig: Rig, tmp_path: Path) -> None:
    text = cluster_toml(sudo_rig, {"epochs": 200, "samples": 1920}) + ENCRYPTED + PATIENT
    client = Client(sudo_rig, tmp_path, text)
    hosts = {host.address for host in sudo_rig.hosts}
    with listening(sudo_rig) as wire:
        with client.started("up", "--skip-checks") as process:
            client.wait_steps("h1", 5, timeout=300)
            assert [len(overlays(host)) for host in sudo_rig.hosts] == [1, 1, 1]
            client.wait_said("training")
            assert [reachable_outside(host) for host in sudo_rig.hosts] == [[], [], []]
            # The control plane dies: the overlay stays, and training goes on in it.
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        client.wait_steps("h3", 5, timeout=300)
        stopped = client.document("stop", timeout=240)
        assert len(stopped["stopped"]) == 1
        wait_for(lambda: not any(map(left_behind, sudo_rig.hosts)), "an overlay that is gone")
    assert wire.between(hosts, "tcp") == {}
    udp = wire.between(hosts, "udp")
    assert set(udp) == {(PORT, PORT)}
    assert udp[PORT, PORT] > 10e6, "the gradients of ten steps did not pass here"

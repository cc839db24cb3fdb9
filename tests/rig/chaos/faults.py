"""What goes wrong. Each fault is injected, held for a while and healed; it says whether the host's part survives it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.rig.chaos.world import World
from tests.rig.hosts import RigHost
from tests.rig.machine import wait_for


@dataclass(slots=True)
class Scene:
    """What a fault may touch."""

    world: World
    client: subprocess.Popen[str]
    random: random.Random

    def host(self) -> RigHost:
        """Return any host."""
        return self.random.choice(self.world.rig.hosts)

    def worker(self) -> RigHost:
        """Return any host but the master."""
        return self.random.choice(self.world.rig.hosts[1:])


Inject = Callable[[Scene], "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in words, and what it may have ended."""

    text: str
    ended: tuple[str, ...] = ()
    """Hosts whose part of the run is over."""
    client_killed: bool = False
    run_over: bool = False
    """The master's part is over, so everybody's is."""


def kill_rank(scene: Scene) -> Outcome:
    """SIGKILL a rank: its agent starts it again."""
    host = scene.host()
    for pid in scene.world.ranks(host):
        host.run("kill", "-KILL", str(pid), check=False)
    return Outcome(f"kill -9 of the rank on {host.name}")


def freeze_rank(scene: Scene) -> Outcome:
    """SIGSTOP a rank for longer than its heartbeat allows, then let it go on."""
    host, seconds = scene.host(), scene.random.uniform(0.5, 4.0)
    pids = [str(pid) for pid in scene.world.ranks(host)]
    if pids:
        host.run("kill", "-STOP", *pids, check=False)
        _hold(seconds)
        host.run("kill", "-CONT", *pids, check=False)
    return Outcome(f"SIGSTOP of the rank on {host.name} for {seconds:.1f} s")


def kill_agent(scene: Scene) -> Outcome:
    """SIGKILL a worker's agent: its container or process group ends with it."""
    host = scene.worker()
    for pid in scene.world.agents(host):
        host.run("kill", "-KILL", str(pid), check=False)
    return Outcome(f"kill -9 of the agent on {host.name}", ended=(host.name,))


def cut_connections(scene: Scene) -> Outcome:
    """Kill every SSH session of a host."""
    host = scene.host()
    host.kill_connections()
    return Outcome(f"SSH sessions of {host.name} killed")


def kill_sshd(scene: Scene) -> Outcome:
    """Kill sshd with its sessions, and start it again after a while."""
    host, seconds = scene.host(), scene.random.uniform(0.2, 3.0)
    host.run("pkill", "-KILL", "-x", "sshd", check=False)
    _hold(seconds)
    host.start_ssh()
    return Outcome(f"sshd of {host.name} gone for {seconds:.1f} s")


def partition(scene: Scene) -> Outcome:
    """Drop every packet between two hosts."""
    one, other = scene.random.sample(scene.world.rig.hosts, 2)
    seconds = scene.random.uniform(0.5, 4.0)
    rule = ("INPUT", "-s", other.address, "-j", "DROP")
    one.iptables("-A", *rule)
    _hold(seconds)
    one.iptables("-D", *rule)
    return Outcome(f"{one.name} deaf to {other.name} for {seconds:.1f} s")


def pull_cable(scene: Scene) -> Outcome:
    """Take a worker off the network: no SSH, no peers."""
    host, seconds = scene.worker(), scene.random.uniform(0.5, 6.0)
    host.link_down()
    _hold(seconds)
    host.link_up()
    return Outcome(f"cable of {host.name} out for {seconds:.1f} s")


def cut_off_client(scene: Scene) -> Outcome:
    """Take this program's machine off the network, as a suspended laptop is: no host hears it, the hosts each other."""
    return cut_off_client_for(scene.random.uniform(0.5, 8.0), scene)


def cut_off_client_for(seconds: float, scene: Scene) -> Outcome:
    """The same for so many seconds."""
    rule = ("INPUT", "-s", scene.world.rig.switch.master_address, "-j", "DROP")
    for host in scene.world.rig.hosts:
        host.iptables("-A", *rule)
    _hold(seconds)
    for host in scene.world.rig.hosts:
        host.iptables("-D", *rule)
    return Outcome(f"the client off the network for {seconds:.1f} s")


def kill_client(scene: Scene) -> Outcome:
    """SIGKILL this program on the master's side."""
    scene.client.send_signal(signal.SIGKILL)
    scene.client.wait(timeout=60)
    return Outcome("kill -9 of the client", client_killed=True)


def freeze_client(scene: Scene) -> Outcome:
    """Suspend this program, as a closed lid does."""
    return freeze_client_for(scene.random.uniform(0.5, 5.0), scene)


def freeze_client_for(seconds: float, scene: Scene) -> Outcome:
    """The same for so many seconds."""
    scene.client.send_signal(signal.SIGSTOP)
    _hold(seconds)
    scene.client.send_signal(signal.SIGCONT)
    return Outcome(f"client suspended for {seconds:.1f} s")


def fill_disk(scene: Scene) -> Outcome:
    """Fill the disk that holds a host's runs, then make room again."""
    host, seconds = scene.host(), scene.random.uniform(0.5, 4.0)
    host.run("sh", "-c", "cat /dev/zero > /srv/root/.cache/filler 2>/dev/null; true")
    _hold(seconds)
    host.run("rm", "-f", "/srv/root/.cache/filler")
    return Outcome(f"disk of {host.name} full for {seconds:.1f} s")


def kill_container(scene: Scene) -> Outcome:
    """``docker kill`` a worker's container."""
    host = scene.worker()
    for name in host.containers("label=hetero-tui.run"):
        host.docker("kill", name, check=False)
    return Outcome(f"container of {host.name} killed", ended=(host.name,))


def kill_engine(scene: Scene) -> Outcome:
    """SIGKILL a worker's dockerd and containerd, and start them again: they tell what they find running to end."""
    host, seconds = scene.worker(), scene.random.uniform(0.2, 2.0)
    host.kill_engine()
    _hold(seconds)
    host.start_engine()
    host.wait_engine()
    text = f"engine of {host.name} killed and started after {seconds:.1f} s"
    return Outcome(text, ended=(host.name,))


def restart_worker(scene: Scene) -> Outcome:
    """Power off a worker and boot it."""
    host = scene.worker()
    scene.world.restart(host)
    return Outcome(f"{host.name} lost power", ended=(host.name,))


def restart_everything(scene: Scene) -> Outcome:
    """Power off all hosts and boot them."""
    for host in scene.world.rig.hosts:
        scene.world.restart(host)
    names = tuple(host.name for host in scene.world.rig.hosts)
    return Outcome("all hosts lost power", ended=names, run_over=True)


_COMMON: Final[dict[Inject, int]] = {
    kill_rank: 4,
    freeze_rank: 3,
    cut_connections: 4,
    kill_sshd: 3,
    partition: 3,
    pull_cable: 3,
    cut_off_client: 3,
    kill_client: 4,
    freeze_client: 2,
    kill_agent: 1,
    restart_worker: 1,
    restart_everything: 1,
}
FAULTS: Final[dict[str, dict[Inject, int]]] = {
    "process": _COMMON | {fill_disk: 3},
    "docker": _COMMON | {kill_container: 2, kill_engine: 2},
}
"""Faults with their weights, by runtime."""


def choose(runtime: str, source: random.Random) -> list[Inject]:
    """Return one fault, or two to strike one behind the other."""
    weighted = FAULTS[runtime]
    return source.choices(list(weighted), list(weighted.values()), k=source.choice((1, 1, 1, 2)))


def _hold(seconds: float) -> None:
    """Let a fault last: the time is the fault."""
    time.sleep(seconds)


@contextmanager
def healed(world: World) -> Iterator[None]:
    """Take back what a fault that failed half-way has left."""
    try:
        yield
    finally:
        for host in world.rig.hosts:
            host.iptables("--flush")
            host.link_up()
            if not _has_sshd(host):
                host.start_ssh()
            wait_for(partial(_has_sshd, host), f"sshd of {host.name}")


def _has_sshd(host: RigHost) -> bool:
    return bool(host.run("pgrep", "-x", "sshd", check=False).stdout)

"""How soon a person reads who died and of what: ``python -m benchmarks.naming [--quick] [--json FILE]``.

Real faults in a real run on the rig (three machines of Linux namespaces, each with its own engine), followed by
``hetero-tui up``. What is measured lasts from just before the fault is injected, so the injection is included, to the
line on the client's standard error that names the host or rank together with the cause.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Figure, Options, at_most, failed, main, skipped
from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.conftest import missing
from tests.rig.hosts import Rig, RigHost
from tests.rig.image import prepare_image
from tests.rig.machine import wait_for
from tests.rig.places import RigError, cache_folder

GOAL: Final = 5.0
LOOK_SECONDS: Final = 0.02
START_SECONDS: Final = 240.0
NAMED_SECONDS: Final = 90.0
"""After so long without the line the measurement counts as broken."""
PREFIX: Final = "named_after_s_"
ELASTIC: Final = (
    "rank_stopped", "rank_killed", "link_down", "master_cut_off", "workers_cut_off", "master_frozen", "sshd_killed",
    "agent_killed", "engine_killed",
)  # fmt: skip
NOT_ELASTIC: Final = ("rank_stopped_not_elastic", "link_down_not_elastic", "container_killed_not_elastic")
"""The last ones of each run take a host away for good."""


@dataclass(slots=True)
class Watcher:
    """A person who reads what the client says."""

    client: Client

    def _count(self, pattern: str) -> int:
        return len(re.findall(pattern, (self.client.folder / "client.log").read_text(), re.MULTILINE))

    def seconds_until(self, pattern: str, inject: Callable[[], object]) -> float:
        """Inject a fault and return the seconds until one more line matches.

        Raises:
            RigError: no line does.
        """
        before = self._count(pattern)
        began = time.monotonic()
        inject()
        detail = self.client.log
        wait_for(
            lambda: self._count(pattern) > before, pattern, timeout=NAMED_SECONDS, interval=LOOK_SECONDS, detail=detail
        )
        return time.monotonic() - began

    def healed(self, host: RigHost, pattern: str, inject: Callable[[], object], heal: Callable[[], object]) -> float:
        """Measure a fault, take it back, and return the seconds once the host's rank makes steps again.

        Raises:
            RigError: no line matches.
        """
        try:
            seconds = self.seconds_until(pattern, inject)
        finally:
            heal()
        self.settle(host.name)
        return seconds

    def settle(self, host: str) -> None:
        """Wait until the rank of a host makes steps again."""
        self.client.wait_steps(host, 2, timeout=START_SECONDS)


def figures(options: Options) -> Iterator[Figure]:
    """Yield one figure for each way to die."""
    if reason := missing():
        yield from (skipped(PREFIX + each, reason, "s") for each in (*ELASTIC, *NOT_ELASTIC))
        return
    with Rig(hosts=3, image=prepare_image(cache_folder())) as rig:
        for is_elastic, faults in ((True, ELASTIC), (False, NOT_ELASTIC)):
            wanted = [each for each in faults if options.wants(PREFIX + each)]
            if wanted:
                yield from _one_run(rig, wanted, is_elastic=is_elastic)


def _one_run(rig: Rig, wanted: list[str], *, is_elastic: bool) -> Iterator[Figure]:
    training = {"epochs": 1000, "elastic": is_elastic}
    with tempfile.TemporaryDirectory(prefix="hetero-naming-") as folder:
        text = cluster_toml(rig, training) + f"[limits]\nlaunch_seconds = {START_SECONDS}\n"
        client = Client(rig, Path(folder), text)
        with client.started("up", "--skip-checks"):
            client.wait_said(" go", timeout=START_SECONDS)
            client.wait_steps("h3", 3, timeout=START_SECONDS)
            watcher = Watcher(client)
            for name in wanted:
                fault = _FAULTS[name.removesuffix("_not_elastic")]
                try:
                    seconds = fault(rig, watcher)
                except (AssertionError, RigError) as error:
                    yield failed(PREFIX + name, str(error).splitlines()[0][:200], "s")
                    break
                anchor = "fault injected to the line on the client, default limits"
                yield at_most(PREFIX + name, seconds, GOAL, anchor=anchor)
        client.run("stop", "--discard", timeout=120)


def _rank_stopped(rig: Rig, watcher: Watcher) -> float:
    with _stopped(rig.host("h2")) as stop:
        seconds = watcher.seconds_until(r"rank 1\b.*no sign of life", stop)
    watcher.settle("h2")
    return seconds


def _rank_killed(rig: Rig, watcher: Watcher) -> float:
    seconds = watcher.seconds_until(r"^h2: .*rank 1 .*SIGKILL", lambda: _signal(rig.host("h2"), signal.SIGKILL))
    watcher.settle("h2")
    return seconds


def _link_down(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h3")
    return watcher.healed(host, r"^h3: error: no contact: host unreachable", host.link_down, host.link_up)


def _master_cut_off(rig: Rig, watcher: Watcher) -> float:
    with _cut_between(rig.host("h1"), rig.host("h3")) as cut:
        seconds = watcher.seconds_until(r"^h[12]: .*rank 2 was lost: no sign of life", cut)
    watcher.settle("h3")
    return seconds


def _workers_cut_off(rig: Rig, watcher: Watcher) -> float:
    with _cut_between(rig.host("h2"), rig.host("h3")) as cut:
        seconds = watcher.seconds_until(r"^h1: .*rank [12] gets no answer from rank [12]", cut)
    watcher.settle("h3")
    return seconds


def _master_frozen(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h1")
    return watcher.healed(
        host,
        r"^h[23]: .*no sign of life from the coordinator",
        lambda: host.docker("pause", *host.containers()),
        lambda: host.docker("unpause", *host.containers()),
    )


def _sshd_killed(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h2")
    pattern = r"^h2: error: no contact: host unreachable"
    return watcher.healed(host, pattern, lambda: host.run("pkill", "-KILL", "-x", "sshd"), host.start_ssh)


def _agent_killed(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h2")
    return watcher.seconds_until(
        r"^h2: error: ended: exited 137", lambda: host.run("pkill", "-KILL", "-f", "--", "-m trainer ")
    )


def _container_killed(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h2")
    return watcher.seconds_until(r"^h2: error: ended: exited 137", lambda: host.docker("kill", *host.containers()))


def _engine_killed(rig: Rig, watcher: Watcher) -> float:
    host = rig.host("h3")
    try:
        return watcher.seconds_until(r"^h3: error: no contact: its engine is gone", host.kill_engine)
    finally:
        host.start_engine()
        host.wait_engine()


_FAULTS: Final[dict[str, Callable[[Rig, Watcher], float]]] = {
    "rank_stopped": _rank_stopped,
    "rank_killed": _rank_killed,
    "link_down": _link_down,
    "master_cut_off": _master_cut_off,
    "workers_cut_off": _workers_cut_off,
    "master_frozen": _master_frozen,
    "sshd_killed": _sshd_killed,
    "agent_killed": _agent_killed,
    "container_killed": _container_killed,
    "engine_killed": _engine_killed,
}


@contextmanager
def _stopped(host: RigHost) -> Iterator[Callable[[], None]]:
    """Give what stops the rank of a host; it goes on afterwards."""
    try:
        yield lambda: _signal(host, signal.SIGSTOP)
    finally:
        _signal(host, signal.SIGCONT)


@contextmanager
def _cut_between(one: RigHost, other: RigHost) -> Iterator[Callable[[], None]]:
    """Give what lets no packet pass between two hosts; both are still reached by SSH. It is mended afterwards."""
    rules = [(here, ("INPUT", "-s", there.address, "-j", "DROP")) for here, there in ((one, other), (other, one))]

    def cut() -> None:
        for here, rule in rules:
            here.iptables("-A", *rule)

    try:
        yield cut
    finally:
        for here, _ in rules:
            here.iptables("--flush")


def _signal(host: RigHost, number: signal.Signals) -> None:
    host.run("pkill", f"-{number.name.removeprefix('SIG')}", "-f", "trainer[.]rank")


if __name__ == "__main__":
    sys.exit(main("naming", figures))

"""The hosts of a chaos run as nobody but the tests sees them: their processes, their own logs, what is left there."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.rig.clusters import TomlValue, cluster_toml
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import LOGIN_USER
from tests.rig.places import REPOSITORY

Runtime = Literal["process", "docker"]
SPEED: Final = 60.0
"""Samples a second of each host, simulated: the ranks of all hosts share this machine's cores."""
DISK: Final = "24m"
"""Size of the disk that holds a host's runs with runtime ``process``: small enough to fill."""
_RUNS: Final = "/srv/root/.cache/hetero-tui/runs"
_RUN_LABEL: Final = "label=hetero-tui.run"
TRAINING: Final[Mapping[str, TomlValue]] = {
    "workload": "simple_cnn",
    "global_batch": 24,
    "samples": 24_000,
    "epochs": 100,
    "checkpoint_every": 10,
}


@dataclass(frozen=True, slots=True)
class World:
    """A rig and how its hosts run ranks."""

    rig: Rig
    runtime: Runtime

    def inventory(self, **training: TomlValue) -> str:
        """Return the cluster file."""
        each: dict[str, TomlValue] = {"simulated_samples_per_second": SPEED, "devices": "cpu"}
        if self.runtime == "process":
            each |= {"runtime": "process", "python": sys.executable}
        user = "root" if self.runtime == "process" else LOGIN_USER
        limits = "[limits]\nlost_host_seconds = 5.0\nno_contact_seconds = 4.0\nlaunch_seconds = 240.0\n"
        text = cluster_toml(self.rig, {**TRAINING, **training}, user=user, each_host=each) + limits
        if self.runtime == "docker":
            return text
        # The trainer of this checkout, whatever the environment has installed.
        return text.replace("[training.env]\n", f"[training.env]\nPYTHONPATH = {json.dumps(str(REPOSITORY))}\n")

    def prepare(self) -> None:
        """Give hosts with runtime ``process`` a small disk of their own for runs, and take their engines away."""
        if self.runtime == "docker":
            return
        for host in self.rig.hosts:
            host.stop_engine()
            host.run("mkdir", "-p", "/srv/root/.cache")
            host.run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", "/srv/root/.cache")

    def restart(self, host: RigHost) -> None:
        """Cut a host's power and boot it again."""
        host.restart()
        if self.runtime == "process":
            host.stop_engine()
            # What was on the small disk went with the memory it was made of, as with a machine that was set up anew.
            host.run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", "/srv/root/.cache")

    def ranks(self, host: RigHost) -> list[int]:
        """Return the process ids, inside the host, of its ranks."""
        return self._processes(host, "trainer[.]rank")

    def agents(self, host: RigHost) -> list[int]:
        """Return the process ids, inside the host, of its agents."""
        return self._processes(host, "-P -m trainer ")

    @staticmethod
    def _processes(host: RigHost, pattern: str) -> list[int]:
        found = host.run("pgrep", "-f", "--", f"python.*{pattern}", check=False).stdout.split()
        return [int(pid) for pid in found]

    def own_log(self, host: RigHost, run_id: str) -> list[str]:
        """Return the complete lines that the host itself keeps of a run, in their order; none where it keeps none."""
        if self.runtime == "process":
            path = f"{_RUNS}/{run_id}/{host.name}/log"
            text = host.run("sh", "-c", f"cat {shlex.quote(path)} 2>/dev/null || true").stdout
        else:
            found = host.containers(_RUN_LABEL) if host.engine_answers() else []
            # The client may remove the container of a run that is over at any moment.
            text = host.docker("logs", found[0], check=False) if found else ""
            text += "\n" if text else ""
        return text.split("\n")[:-1]

    def leftovers(self) -> list[str]:
        """Return everything of any run that is still on the hosts."""
        left = []
        for host in self.rig.hosts:
            left += [f"{host.name}: process {pid}" for pid in (*self.ranks(host), *self.agents(host))]
            left += [f"{host.name}: {path}" for path in self._files(host)]
            if self.runtime == "docker":
                left += [f"{host.name}: container {name}" for name in host.containers()]
            tunnels = host.run("pgrep", "-af", "dial-stdio|host_process", check=False).stdout.splitlines()
            left += [f"{host.name}: {line}" for line in tunnels]
        return left

    @staticmethod
    def _files(host: RigHost) -> list[str]:
        """Return what lies about: runs that were not removed, and temporary files of this program."""
        find = f"find {_RUNS} /tmp /srv/{LOGIN_USER} -mindepth 1 2>/dev/null | grep -e {_RUNS} -e hetero || true"
        found = host.run("sh", "-c", find).stdout.splitlines()
        return [path for path in found if "/torch" not in path and not path.startswith(str(REPOSITORY))]


def temporary_files(folder: Path) -> list[Path]:
    """Return what an unfinished transfer or a killed client left behind in a folder of runs."""
    return [path for path in folder.rglob(".*") if path.name.startswith((".fetching-", ".part"))]


def as_json(value: object) -> str:
    """Return one line of JSON, for the summary."""
    return json.dumps(value, sort_keys=True)

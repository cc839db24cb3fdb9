"""A person in front of a cluster with a fault: runs the checklist, and then runs the very commands of its fixes.

The hosts let the login user use sudo without a password, and know the two services fixes ask for (``systemctl`` and
``timedatectl``), because namespaces have no systemd: small scripts in ``/srv/bin`` that do the same thing to this
host's dockerd and clock. Everything else in a fix is the system's own program.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remote.checks.catalogue import CATALOGUE
from remote.checks.context import CheckContext
from remote.checks.model import CheckResult, Finding, Fix, Verdict
from remote.checks.network_report import ProbeTimings
from remote.checks.run import run_checks
from remote.errors import HostKeyUnknown
from remote.hosts import Hosts
from remote.inventory import parse_inventory
from remote.known_hosts import KnownHosts
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import LOGIN_USER, RIG_VARIABLE
from tests.rig.places import REPOSITORY

HASTY = ProbeTimings(dial=6.0, linger=1.0, connect=1.0, stall=2.5, transfer=6.0, lookup=1.0)
TOOLS = "/srv/bin"
CLOCK = "/srv/clock"
"""Holds how far the host's clock is off, in libfaketime's words; a right clock where there is no such file."""
OF_THE_MACHINE = frozenset({"load", "memory", "power"})
"""Checks of what the rig's hosts share with the machine the tests run on."""
NOISY = frozenset({"link-speed"})
"""Checks that warn when the machine's cores, which move the rig's packets, are busy with something else."""
SLOW = frozenset({"image-python", "same-torch"})
"""Checks that import torch in a container on every host."""
EVERYTHING = tuple(check.id for check in CATALOGUE if check.id not in OF_THE_MACHINE)
QUICK = tuple(name for name in EVERYTHING if name not in SLOW)

_SYSTEMCTL = """\
#!/bin/sh
# What systemd does for docker.service on a host that has it.
case "$*" in
    "enable --now docker" | "restart docker") ;;
    *) echo "systemctl: the rig knows docker only, not: $*" >&2; exit 1 ;;
esac
rm -f /run/docker.pid
export {variable}={rig}
setsid --fork sh -c 'exec {dockerd} >>/run/dockerd.log 2>&1 </dev/null'
for _ in $(seq 300); do
    docker version >/dev/null 2>&1 && exit 0
    sleep 0.1
done
echo 'docker.service did not come up' >&2
exit 1
"""
_TIMEDATECTL = f"""\
#!/bin/sh
# What setting the clock by the network comes to on a host whose clock is wrong.
[ "$*" = "set-ntp true" ] || {{ echo "timedatectl: the rig knows set-ntp only, not: $*" >&2; exit 1; }}
rm -f {CLOCK}
"""


def give_sudo(host: RigHost) -> None:
    """Let the login user become root, and put the services' commands in root's path."""
    dockerd = shlex.join(host.engine_command())
    tools = {
        "systemctl": _SYSTEMCTL.format(variable=RIG_VARIABLE, rig=host.rig_id, dockerd=dockerd),
        "timedatectl": _TIMEDATECTL,
    }
    host.run("mkdir", "-p", TOOLS)
    for name, text in tools.items():
        host.run("sh", "-c", f"cat >{TOOLS}/{name} && chmod 755 {TOOLS}/{name}", input=text)
    path = f"{TOOLS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    rule = f'Defaults secure_path="{path}"\n{LOGIN_USER} ALL=(ALL) NOPASSWD: ALL\n'
    host.run("sh", "-c", "umask 227 && cat >/etc/sudoers.d/rig", input=rule)


def take_sudo(host: RigHost) -> None:
    """Take back what ``give_sudo`` gave."""
    host.run("rm", "-rf", "/etc/sudoers.d/rig", TOOLS)


async def _nobody(_: HostKeyUnknown) -> bool:
    return False


class Checklist:
    """The checklist on one ``cluster.toml``, over connections that stay open."""

    def __init__(self, text: str, known_hosts: KnownHosts | None = None, timings: ProbeTimings = HASTY) -> None:
        self.hosts = Hosts(parse_inventory(text), known_hosts=known_hosts)
        self.context = CheckContext(
            self.hosts.inventory,
            runner=self.hosts.runner,
            gather=self.hosts.gather,
            engine=self.hosts.engine,
            runs=self.hosts.runs,
            timings=timings,
        )
        self.results: dict[tuple[str, str], Finding] = {}

    async def connect(self) -> None:
        """Connect to every host that has no connection; nobody accepts an unknown key."""
        await self.hosts.connect(_nobody)

    async def new_login(self) -> None:
        """End every connection and log in again."""
        await self.hosts.close()
        await self.connect()

    async def run(self, *only: str) -> None:
        """Run checks and what they need; ``results`` holds what came out of this run."""
        self.results = {
            (each.check_id, each.host): each.finding
            async for each in run_checks(self.context, only or QUICK)
            if isinstance(each, CheckResult)
        }

    def with_verdict(self, *verdicts: Verdict) -> dict[tuple[str, str], str]:
        """Return the reason of each result that came out so."""
        return {
            place: found.reason
            for place, found in self.results.items()
            if found.verdict in verdicts and not (found.verdict is Verdict.WARN and place[0] in NOISY)
        }


@dataclass
class Bench:
    """The rig, and a folder with the person's ``cluster.toml`` and tools."""

    rig: Rig
    folder: Path

    def host(self, name: str) -> RigHost:
        """Return a host of the rig."""
        return self.rig.host(name)

    def write_tools(self) -> None:
        """Make the ``ssh`` and ``hetero-tui`` of the person's path use the rig's keys and this checkout."""
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        trust = f"-i {self.rig.identity_file} -o UserKnownHostsFile={self.rig.known_hosts}"
        ssh = f"exec /usr/bin/ssh {trust} -o BatchMode=yes"
        for name, line in (("ssh", ssh), ("hetero-tui", f"exec {sys.executable} -m hetero_tui")):
            (tools / name).write_text(f'#!/bin/sh\n{line} "$@"\n')
            (tools / name).chmod(0o755)

    def run_fix(self, fix: Fix, *positions: int) -> str:
        """Run the commands of a fix, or those at ``positions``, where it says they are to be run; return their output.

        Raises:
            RigError, CalledProcessError: one of them failed.
        """
        chosen = [fix.commands[position] for position in positions] if positions else list(fix.commands)
        assert chosen, f"there is no command in: {fix.text}"
        return "".join(
            self.rig.ssh(fix.host, command).stdout if fix.host else self._run_here(command) for command in chosen
        )

    def _run_here(self, command: str) -> str:
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(REPOSITORY),
        }
        argv = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, f"`{command}` exited {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def changed_file(host: RigHost, path: str) -> Iterator[None]:
    """Keep a file of a host, and put it back at the end."""
    host.run("cp", "-a", path, f"{path}.kept")
    try:
        yield
    finally:
        # Written, not renamed: containers and the overlay may hold the file itself.
        host.run("sh", "-c", f"cat {path}.kept >{path} && rm {path}.kept")

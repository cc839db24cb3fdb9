"""Ansible, pyinfra and parallel-ssh, each asking all targets the same ten questions.

They are installed from PyPI into a virtual environment of their own, which is thrown away; none of them is a
dependency. Each runs as its users run it, in as many forks or greenlets as there are targets, with host keys checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checklist_targets import Targets

PINS = ("ansible-core==2.19.14", "pyinfra==3.10.0", "parallel-ssh==2.16.0")
INSTALL_SECONDS = 600
RUN_SECONDS = 300

QUESTIONS = (
    "uname -a",
    "cat /etc/os-release",
    "id",
    "nproc",
    "cat /proc/meminfo",
    "df -Pk /",
    "ip -4 addr",
    "ip route",
    "date +%s",
    "command -v docker python3 nvidia-smi || true",
)
"""Ten facts, each one command: less than what this program reads in one script."""

_PARALLEL_SSH = """
import json, sys
from pssh.clients import ParallelSSHClient
asked = json.load(sys.stdin)
client = ParallelSSHClient(asked["addresses"], user=asked["user"], port=asked["port"], pkey=asked["key"],
                           pool_size=len(asked["addresses"]), allow_agent=False)
answers = 0
for question in asked["questions"]:
    for output in client.run_command(question):
        list(output.stdout)
        answers += output.exit_code == 0
print(json.dumps({"answers": answers}))
"""

_PYINFRA = """
from pyinfra.operations import server
{operations}
"""


class PeerError(Exception):
    """A peer could not be installed or did not answer; the message says what was run and what came back."""


def install(folder: Path) -> Path:
    """Make the virtual environment and return its folder of programs.

    Raises:
        PeerError: there is no way to PyPI, or a package cannot be installed.
    """
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PINS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise PeerError(f"`{' '.join(command[:3])} …` exited {done.returncode} and said: {said[:300]}")
    return folder / "bin"


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool, ready to run."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    input: str
    succeeded: Callable[[str], bool]
    """Whether what it printed says that every target answered every question."""

    def run(self) -> float:
        """Run it once and return the seconds from its start to its end.

        Raises:
            PeerError: it failed, or not every target answered.
        """
        started = time.perf_counter()
        done = subprocess.run(
            self.command,
            input=self.input,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            env=os.environ | self.environment,
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0 or not self.succeeded(done.stdout + done.stderr):
            raise PeerError(f"{self.name} exited {done.returncode} and said: {(done.stdout + done.stderr)[-400:]}")
        return seconds


def peers(programs: Path, targets: Targets, count: int, folder: Path) -> tuple[Peer, ...]:
    """Return the peers, set up for the first ``count`` targets; their files go into ``folder``."""
    folder.mkdir(parents=True)
    return (
        _ansible(programs, targets, count, folder),
        _pyinfra(programs, targets, count, folder),
        _parallel_ssh(programs, targets, count),
    )


def _ansible(programs: Path, targets: Targets, count: int, folder: Path) -> Peer:
    """``raw``, its fastest way: it needs no Python on the host and copies nothing there."""
    hosts = "".join(f"{address} ansible_port={targets.port}\n" for address in targets.addresses[:count])
    (folder / "inventory.ini").write_text(f"[all]\n{hosts}")
    tasks = "".join(f"    - raw: {json.dumps(question)}\n" for question in QUESTIONS)
    (folder / "play.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}")
    command = (
        str(programs / "ansible-playbook"),
        "-i",
        str(folder / "inventory.ini"),
        f"--forks={count}",
        f"--user={targets.user}",
        f"--private-key={targets.identity_file}",
        f"--ssh-common-args=-F /dev/null -o UserKnownHostsFile={targets.known_hosts}",
        str(folder / "play.yml"),
    )
    # Control sockets of an earlier run would save it the logins, and their paths must be short.
    environment = {
        "ANSIBLE_HOME": str(folder / "a"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "c"),
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=1s",
        "ANSIBLE_NOCOLOR": "1",
    }
    done = f"ok={len(QUESTIONS)}"
    return Peer("ansible", command, environment, "", lambda said: said.count(done) == count)


def _pyinfra(programs: Path, targets: Targets, count: int, folder: Path) -> Peer:
    settings = {
        "ssh_port": targets.port,
        "ssh_user": targets.user,
        "ssh_key": str(targets.identity_file),
        "ssh_known_hosts_file": str(targets.known_hosts),
        "ssh_strict_host_key_checking": "yes",
    }
    hosts = [(address, settings) for address in targets.addresses[:count]]
    (folder / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    operations = "\n".join(f"server.shell(commands=[{question!r}])" for question in QUESTIONS)
    (folder / "deploy.py").write_text(_PYINFRA.format(operations=operations))
    command = (
        str(programs / "pyinfra"),
        "-y",
        "--parallel",
        str(count),
        str(folder / "inventory.py"),
        str(folder / "deploy.py"),
    )
    last = f"[{targets.addresses[count - 1]}]"
    return Peer(
        "pyinfra", command, {"NO_COLOR": "1"}, "", lambda said: last in said and "No hosts remaining" not in said
    )


def _parallel_ssh(programs: Path, targets: Targets, count: int) -> Peer:
    asked = {
        "addresses": targets.addresses[:count],
        "user": targets.user,
        "port": targets.port,
        "key": str(targets.identity_file),
        "questions": QUESTIONS,
    }
    done = f'"answers": {count * len(QUESTIONS)}}}'
    command = (str(programs / "python"), "-c", _PARALLEL_SSH)
    return Peer("parallel-ssh", command, {}, json.dumps(asked), lambda said: done in said)

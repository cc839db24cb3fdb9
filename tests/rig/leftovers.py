"""What a rig leaves when it is killed: its folder and its cgroups.

Processes, mounts and networks end with their owner.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import time
from pathlib import Path

import psutil

from tests.rig.machine import RIG_VARIABLE
from tests.rig.places import RigError, locked

PREFIX = "htrig-"
"""Begins the name of every folder and cgroup of a rig, and of nothing else."""
_CGROUPS = Path("/sys/fs/cgroup")


class Claim:
    """A new folder that belongs to this process for as long as it lives."""

    def __init__(self, cache: Path) -> None:
        rigs = cache / "rigs"
        rigs.mkdir(exist_ok=True)
        with locked(cache / "rigs.lock"):
            sweep(rigs)
            self.id = PREFIX + secrets.token_hex(4)
            self.folder = rigs / self.id
            self.folder.mkdir()
            self._lock = (self.folder / "owner").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        """Remove everything that carries this claim's name."""
        remove(self.folder)
        self._lock.close()


def processes(rig_id: str) -> list[psutil.Process]:
    """Return the processes started for a rig that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RIG_VARIABLE) == rig_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile, or a kernel thread
    return found


def cgroups(rig_id: str) -> list[Path]:
    """Return a rig's cgroups, in every hierarchy of version 1 or in the one of version 2."""
    return sorted([*_CGROUPS.glob(f"{rig_id}-*"), *_CGROUPS.glob(f"*/{rig_id}-*")])


def remove(folder: Path) -> None:
    """End what runs in a rig's name and remove its cgroups and its folder.

    Raises:
        RigError: a cgroup is still in use.
    """
    rig_id = folder.name
    if not rig_id.startswith(PREFIX):
        raise RigError(f"{folder} is no folder of a rig")
    deadline = time.monotonic() + 60.0
    while left := processes(rig_id):
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=0.2)
        if time.monotonic() > deadline:
            raise RigError(f"{rig_id}: these processes do not end: {left}")
    for cgroup in cgroups(rig_id):
        _remove_cgroup(cgroup, deadline)
    shutil.rmtree(folder)


def _remove_cgroup(top: Path, deadline: float) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError as problem:  # a dead process stays a member for a moment
                if time.monotonic() > deadline:
                    raise RigError(f"cgroup {folder}: {problem.strerror}") from problem
                time.sleep(0.02)


def sweep(rigs: Path) -> None:
    """Remove the rigs whose owner has ended. A running rig's owner holds its lock and is left alone."""
    for folder in rigs.glob(f"{PREFIX}*"):
        with (folder / "owner").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove(folder)

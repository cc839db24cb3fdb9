"""CPU quotas through control groups, version 1 or 2: unlike machines on one machine. Needs root."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD: Final = 0.010
"""Seconds of the quota's period: short against a step, or a rank stands still for much of one."""


def unavailable() -> str:
    """Return why quotas cannot be set here; empty when they can."""
    base = _base()
    if base is None:
        return "no CPU control group is mounted"
    if not os.access(base, os.W_OK):
        return f"{base} is not writable: run as root"
    return ""


def _base() -> Path | None:
    if (ROOT / "cpu" / "cpu.cfs_quota_us").exists() or (ROOT / "cpu" / "cgroup.procs").exists():
        return ROOT / "cpu"
    return ROOT if (ROOT / "cgroup.controllers").exists() else None


EMPTY_SECONDS: Final = 10.0
"""How long a group may take to become empty."""


class CpuQuota:
    """A control group that holds its processes down to a part of one CPU.

    Its processes stay on one CPU, as those of a slow machine would: the kernel deals a quota out to the CPUs in
    slices, and a process whose threads move loses what is left of its slice on the CPU it leaves.
    """

    def __init__(self, name: str, cpus: float, processor: int) -> None:
        """Make the group; ``processor`` is the index of the CPU among those this process may use.

        Raises:
            OSError: control groups cannot be written here; see :func:`unavailable`.
        """
        base = _base()
        if base is None:
            raise OSError("no CPU control group is mounted")
        self._version_2 = base == ROOT
        if self._version_2:
            (base / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
        self._folder = base / f"hetero-benchmark-{os.getpid()}-{name}"
        self._folder.mkdir()
        if not self._version_2:
            (self._folder / "cpu.cfs_period_us").write_text(f"{PERIOD * 1e6:.0f}", encoding="ascii")
        # Whatever else runs must not take what the quota grants: the quotas together are less than the machine.
        if self._version_2:
            (self._folder / "cpu.weight").write_text("10000", encoding="ascii")
        else:
            (self._folder / "cpu.shares").write_text("262144", encoding="ascii")
        usable = sorted(os.sched_getaffinity(0))
        self._processor = usable[processor % len(usable)]
        self.cpus = 0.0
        self.set(cpus)

    def set(self, cpus: float) -> None:
        """Change the quota; it holds at once."""
        microseconds = f"{cpus * PERIOD * 1e6:.0f}"
        if self._version_2:
            (self._folder / "cpu.max").write_text(f"{microseconds} {PERIOD * 1e6:.0f}", encoding="ascii")
        else:
            (self._folder / "cpu.cfs_quota_us").write_text(microseconds, encoding="ascii")
        self.cpus = cpus

    def add(self, process_id: int) -> None:
        """Hold a process down, with all its threads, present and future."""
        (self._folder / "cgroup.procs").write_text(str(process_id), encoding="ascii")
        for thread in Path(f"/proc/{process_id}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                # The thread has ended since it was listed.
                os.sched_setaffinity(int(thread.name), {self._processor})

    def release(self, process_id: int) -> None:
        """Let a process out again: one that stands still, but for its heartbeat, would use up what others are due."""
        (self._folder.parent / "cgroup.procs").write_text(str(process_id), encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the group; processes that are still in it go back to where they came from."""
        deadline = time.monotonic() + EMPTY_SECONDS
        while True:
            for process_id in (self._folder / "cgroup.procs").read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    # It ended since the list was read.
                    self.release(int(process_id))
            try:
                self._folder.rmdir()
            except OSError:
                # A process that was just killed is still in the group, though it is no longer listed.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            return

"""Processes under CPU quotas that do what a line on their standard input says, and answer with a line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.trainer_cluster import REPOSITORY, RunFailed
from benchmarks.trainer_quota import CpuQuota


class Asked:
    """One process in each quota; it has printed its process id before it is held down. A context manager."""

    def __init__(
        self, module: str, arguments: Sequence[Sequence[str]], quotas: Sequence[CpuQuota],
        environments: Sequence[dict[str, str]] = (),
    ) -> None:  # fmt: skip
        """Start ``python -m module`` once for each quota, with its own arguments and environment.

        Raises:
            RunFailed: a process ended badly.
        """
        self._module = module
        given = environments or [{}] * len(quotas)
        self._processes = [_start(module, *each) for each in zip(arguments, given, strict=True)]
        for process, quota in zip(self._processes, quotas, strict=True):
            quota.add(self._answer(process))

    def ask(self, lines: Sequence[str]) -> list[Any]:
        """Send a line to each process, all at the same time, and return their answers.

        Raises:
            RunFailed: a process ended badly.
        """
        for process, line in zip(self._processes, lines, strict=True):
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        return [self._answer(process) for process in self._processes]

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise RunFailed(f"a process of {self._module} ended badly")
        return json.loads(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _start(module: str, arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    values = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY),
        # Peers and ideals get the allocator settings too: only the balance is compared.
        "MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000",
    } | environment  # fmt: skip
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=values, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

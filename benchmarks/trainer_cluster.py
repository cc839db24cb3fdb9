"""Real agents and ranks of one run on this machine, each rank a host of its own, driven as the launcher drives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from benchmarks.trainer_network import Network
from benchmarks.trainer_quota import CpuQuota
from trainer.events import Event, Failed, Hello, Output, Shares, Step, decode

REPOSITORY: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 180.0
"""A rank held down to an eighth of a CPU needs long to import torch again after it was killed."""

E = TypeVar("E", bound=Event)


class RunFailed(RuntimeError):
    """A run did not do what the benchmark waits for; the message has the end of its story."""


@dataclass(slots=True)
class _Host:
    process: subprocess.Popen[str]
    control: Path
    events: list[Event] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


class TrainerRun:
    """One run with one rank a host. A context manager: nothing is left running."""

    def __init__(
        self,
        ranks: int,
        options: Sequence[str],
        *,
        quotas: Sequence[CpuQuota] = (),
        speeds: Sequence[float] = (),
        network: Network | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the agents; :meth:`go` lets the ranks begin.

        Args:
            ranks: Number of hosts with one rank each.
            options: Command line of ``python -m trainer``.
            quotas: CPU quota of each rank; a rank enters it after its hello, so importing torch is not held down.
            speeds: Simulated samples per second of each rank.
            network: Namespaces to run in; loopback without.
            environment: Further variables for all ranks.
        """
        self._quotas = quotas
        self._folder = tempfile.TemporaryDirectory(prefix="hetero-benchmark-")
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._hosts: list[_Host] = []
        self._sent = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(ranks):
            control = Path(self._folder.name) / f"control{rank}"
            control.mkdir()
            values = {
                "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": "1", "NODE_RANK": str(rank),
                "MASTER_ADDR": network.address(0) if network else "127.0.0.1", "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": network.interface if network else "lo", "OMP_NUM_THREADS": "1",
                "PYTHONUNBUFFERED": "1", "MALLOC_MMAP_THRESHOLD_": "2000000000",
                "MALLOC_TRIM_THRESHOLD_": "4000000000", "HETERO_RUN_ID": f"benchmark-{port}",
                "HETERO_HOST": f"host{rank}", "HETERO_BACKEND": "gloo", "HETERO_DEVICES": "cpu",
                "HETERO_RANKS": str(rank), "HETERO_MASTER": "1" if rank == 0 else "0",
                "HETERO_CONTROL": str(control), "HETERO_OUTPUT": str(Path(self._folder.name) / f"output{rank}"),
                "PYTHONPATH": str(REPOSITORY),
            }  # fmt: skip
            if speeds:
                values["HETERO_SIMULATED_SAMPLES_PER_SECOND"] = str(speeds[rank])
            prefix = network.command(rank) if network else ()
            process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "trainer", *options],
                env={**os.environ, **values, **(environment or {})},
                cwd=self._folder.name,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            host = _Host(process, control)
            self._hosts.append(host)
            thread = threading.Thread(target=self._read, args=(host,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def go(self) -> None:
        """Wait for every hello, put the ranks into their quotas, and let them begin."""
        for rank in range(len(self._hosts)):
            self.wait_for(lambda rank=rank: bool(self.of(Hello, rank)), f"hello of rank {rank}")  # type: ignore[misc]  # bound now
            if self._quotas:
                self._quotas[rank].add(self.process_of(rank))
        self.send("go")

    def _read(self, host: _Host) -> None:
        assert host.process.stdout is not None
        for line in host.process.stdout:
            event = decode(line.rstrip("\n"))
            with self._changed:
                if event is None:
                    host.plain.append(line)
                else:
                    host.events.append(event)
                self._changed.notify_all()

    def send(self, command: str, ranks: Sequence[int] | None = None, **values: object) -> None:
        """Drop a control message for all hosts, or for those of some ranks."""
        self._sent += 1
        name = f"{time.time_ns() + self._sent}-{command}.json"
        for rank, host in enumerate(self._hosts):
            if ranks is None or rank in ranks:
                part = host.control / f".{name}"
                part.write_text(json.dumps({"command": command, **values}), encoding="utf-8")
                part.rename(host.control / name)

    def of(self, event_type: type[E], rank: int | None = None) -> list[E]:
        """Return the events of a type so far, of one rank or of all."""
        return [
            event
            for host in self._hosts
            for event in list(host.events)
            if isinstance(event, event_type) and rank in (None, event.rank)
        ]

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = START_SECONDS) -> None:
        """Wait until ``condition`` holds.

        Raises:
            RunFailed: it did not, or the run ended before.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                over = all(host.process.poll() is not None for host in self._hosts)
                if left <= 0 or over:
                    told = "the run ended" if over else f"not within {timeout:g} s"
                    raise RunFailed(f"waiting for {what}: {told}\n{self.story()}")
                self._changed.wait(min(left, 1.0))

    def wait_for_step(self, step: int, rank: int = 0, timeout: float = START_SECONDS) -> None:
        """Wait until a rank has finished a step."""
        self.wait_for(
            lambda: any(event.step >= step for event in self.of(Step, rank)[-1:]),
            f"step {step} of rank {rank}",
            timeout,
        )

    def newest_step(self, rank: int = 0) -> int:
        """Return the number of a rank's newest finished step; -1 before the first."""
        steps = self.of(Step, rank)
        return steps[-1].step if steps else -1

    def run_steps(self, count: int) -> range:
        """Let the run do ``count`` more steps and return their numbers."""
        begin = self.newest_step() + 1
        self.wait_for_step(begin + count - 1)
        return range(begin, begin + count)

    def change_policy(self, policy: str) -> None:
        """Change the policy and wait until it is in force."""
        before = len(self.of(Shares))
        self.send("policy", policy=policy)
        self.wait_for(lambda: any(event.policy == policy for event in self.of(Shares)[before:]), f"policy {policy}")

    def process_of(self, rank: int) -> int:
        """Return the process id of a rank, from its newest hello."""
        return self.of(Hello, rank)[-1].process_id

    def kill(self, rank: int, number: signal.Signals) -> float:
        """Send a signal to a rank's process and return the time on the events' clock."""
        os.kill(self.process_of(rank), number)
        return time.time()

    def story(self) -> str:
        """Return the last things said, for a message."""
        lines = []
        for rank, host in enumerate(self._hosts):
            told = [event for event in host.events if isinstance(event, (Failed, Output))]
            lines += [f"  host{rank}: {str(event)[:500]}" for event in [*told[-8:], *host.events[-2:]]]
            lines += [f"  host{rank}: {line.rstrip()[:300]}" for line in host.plain[-5:]]
        return "\n".join(lines)

    def stop(self) -> None:
        """Ask the run to end and wait for it.

        Raises:
            RunFailed: an agent ended badly or did not end.
        """
        self.send("stop")
        self.wait_for_end()

    def wait_for_end(self, timeout: float = START_SECONDS) -> None:
        """Wait until all agents have ended well.

        Raises:
            RunFailed: one ended badly or did not end.
        """
        deadline = time.monotonic() + timeout
        for rank, host in enumerate(self._hosts):
            try:
                code = host.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise RunFailed(f"the agent of rank {rank} did not end\n{self.story()}") from None
            if code != 0:
                raise RunFailed(f"the agent of rank {rank} ended with exit code {code}\n{self.story()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever still runs; a rank dies with its agent, a stopped one is woken for it."""
        for host in self._hosts:
            if host.process.poll() is None:
                host.process.kill()
            for event in [event for event in host.events if isinstance(event, Hello)]:
                with contextlib.suppress(ProcessLookupError):
                    # The rank has ended already; only one that is stopped or its agent's orphan is still there.
                    os.kill(event.process_id, signal.SIGCONT)
        for host in self._hosts:
            host.process.wait()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()


def throughput(steps: Sequence[Step]) -> float:
    """Return samples per second of the whole group over some steps of one rank."""
    return sum(step.global_batch for step in steps) / sum(step.duration for step in steps)

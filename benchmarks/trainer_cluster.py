"""Real agents and ranks on this machine, driven as the launcher drives them. For the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from benchmarks.trainer_network import Network
from benchmarks.trainer_quota import CpuQuota
from trainer.events import Event, Failed, Hello, Notice, Output, Shares, Step, decode

REPOSITORY: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 180.0
"""A rank held down to an eighth of a CPU needs long to measure itself."""

E = TypeVar("E", bound=Event)


class RunFailed(RuntimeError):
    """A run did not do what is waited for; the message has the end of its story."""


@dataclass(slots=True)
class Host:
    """One agent and what it said."""

    process: subprocess.Popen[str]
    control: Path
    output: Path
    reader: threading.Thread
    events: list[Event] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


class Cluster:
    """The hosts of one run. A context manager: nothing is left running."""

    def __init__(self, folder: Path) -> None:
        """``folder`` takes the control and output folders of the hosts."""
        self._folder = folder
        self._changed = threading.Condition()
        self._sent = 0
        self._quotas: Sequence[CpuQuota] = ()
        self.hosts: list[Host] = []

    def start(
        self,
        layout: Sequence[int],
        options: Sequence[str],
        *,
        quotas: Sequence[CpuQuota] = (),
        speeds: Sequence[float] = (),
        network: Network | None = None,
        environment: Mapping[str, str] | None = None,
        devices: Sequence[str] = (),
        go: bool = True,
    ) -> None:
        """Start one agent for each number of ranks in ``layout``.

        Args:
            layout: Ranks of each host.
            options: Command line of ``python -m trainer``.
            quotas: CPU quota of each rank; a rank enters it in :meth:`go`, so importing torch is not held down.
            speeds: Simulated samples per second of the ranks of each host.
            network: Namespaces to run in; loopback without.
            environment: Further variables for all ranks.
            devices: Torch devices of each host's ranks, comma between them; processors without.
            go: Let the ranks begin as soon as they are ready; without it, or with quotas, :meth:`go` does.
        """
        self._quotas = quotas
        port, world_size, first = free_port(), sum(layout), 0
        for number, ranks in enumerate(layout):
            control, output = self._folder / f"control{number}", self._folder / f"output{number}"
            control.mkdir(parents=True, exist_ok=True)
            values = {
                "RANK": str(first), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(ranks),
                "NODE_RANK": str(number), "MASTER_ADDR": network.address(0) if network else "127.0.0.1",
                "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": network.interface if network else "lo",
                "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "MALLOC_MMAP_THRESHOLD_": "2000000000",
                "MALLOC_TRIM_THRESHOLD_": "4000000000", "HETERO_RUN_ID": f"local-{port}",
                "HETERO_HOST": f"host{number}", "HETERO_BACKEND": "gloo",
                "HETERO_DEVICES": devices[number] if devices else "cpu",
                "HETERO_RANKS": ",".join(str(first + each) for each in range(ranks)),
                "HETERO_MASTER": "1" if number == 0 else "0", "HETERO_CONTROL": str(control),
                "HETERO_OUTPUT": str(output), "PYTHONPATH": str(REPOSITORY),
            }  # fmt: skip
            if speeds:
                values["HETERO_SIMULATED_SAMPLES_PER_SECOND"] = str(speeds[number])
            process = subprocess.Popen(
                [*(network.command(number) if network else ()), sys.executable, "-P", "-m", "trainer", *options],
                env={**os.environ, **values, **(environment or {})},
                cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            host = Host(process, control, output, threading.Thread(target=self._read, args=(number,), daemon=True))
            self.hosts.append(host)
            host.reader.start()
            first += ranks
        if go and not quotas:
            self.send("go")

    def go(self) -> None:
        """Wait for every hello, put the ranks into their quotas, and let them begin."""
        for rank in range(len(self.hosts)):
            self.wait_for(lambda rank=rank: bool(self.of(Hello, rank)), f"hello of rank {rank}")  # type: ignore[misc]  # bound now
            if self._quotas:
                self._quotas[rank].add(self.process_of(rank))
        self.send("go")

    def _read(self, number: int) -> None:
        host = self.hosts[number]
        assert host.process.stdout is not None
        with host.process.stdout:
            for line in host.process.stdout:
                event = decode(line.rstrip("\n"))
                with self._changed:
                    if event is None:
                        host.plain.append(line)
                    else:
                        host.events.append(event)
                    self._changed.notify_all()

    def send(self, command: str, hosts: Sequence[int] | None = None, **values: object) -> None:
        """Drop a control message into the folders of the given hosts, all by default."""
        self._sent += 1
        name = f"{time.time_ns() + self._sent}-{command}.json"
        for number, host in enumerate(self.hosts):
            if hosts is None or number in hosts:
                part = host.control / f".{name}"
                part.write_text(json.dumps({"command": command, **values}), encoding="utf-8")
                part.rename(host.control / name)

    def of(self, event_type: type[E], rank: int | None = None) -> list[E]:
        """Return the events of a type so far, of one rank or of all, host by host."""
        return [
            event
            for host in self.hosts
            for event in list(host.events)
            if isinstance(event, event_type) and rank in (None, event.rank)
        ]

    def wait_for(
        self, condition: Callable[[], bool], what: str = "a condition", timeout: float = START_SECONDS
    ) -> None:
        """Wait until ``condition`` holds.

        Raises:
            RunFailed: it did not, or all was said before.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                over = not any(host.reader.is_alive() for host in self.hosts)
                if over and condition():
                    return
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

    def steps_in(self, window: range, rank: int = 0) -> list[Step]:
        """Return what a rank told of some steps."""
        return [event for event in self.of(Step, rank) if event.step in window]

    def change_policy(self, policy: str) -> None:
        """Change the policy and wait until it is in force."""

        def changes() -> int:
            return sum(event.policy == policy for event in self.of(Shares))

        before = changes()
        self.send("policy", policy=policy)
        self.wait_for(lambda: changes() > before, f"policy {policy}")

    def pause(self) -> None:
        """Let the run stand still, and wait until it does."""
        self._command_and_wait("pause", "paused")

    def resume(self) -> None:
        """Let a paused run go on."""
        self._command_and_wait("resume", "resumed")

    def _command_and_wait(self, command: str, answer: str) -> None:
        def answers() -> int:
            return sum(event.text == answer for event in self.of(Notice))

        before = answers()
        self.send(command)
        self.wait_for(lambda: answers() > before, f"being {answer}")

    def process_of(self, rank: int) -> int:
        """Return the process id of a rank, from its newest hello."""
        return self.of(Hello, rank)[-1].process_id

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to a rank's process and return the time on the events' clock."""
        os.kill(self.process_of(rank), number)
        return time.time()

    def story(self) -> str:
        """Return the last things said, for a message."""
        lines = []
        for number, host in enumerate(self.hosts):
            told = [event for event in host.events if isinstance(event, (Failed, Output))]
            last = host.events[-25:]
            lines += [f"  host{number}: {str(event)[:500]}" for event in told[-8:] if event not in last]
            lines += [f"  host{number}: {str(event)[:500]}" for event in last]
            lines += [f"  host{number}: {line.rstrip()[:300]}" for line in host.plain[-10:]]
        return "\n".join(lines)

    def output(self) -> str:
        """Return everything the ranks printed."""
        return "\n".join(event.text for event in self.of(Output))

    def wait(self, timeout: float = START_SECONDS) -> list[int]:
        """Wait for the end of all agents and return their exit codes.

        Raises:
            RunFailed: one did not end.
        """
        deadline = time.monotonic() + timeout
        codes = []
        for number, host in enumerate(self.hosts):
            try:
                codes.append(host.process.wait(timeout=max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                raise RunFailed(f"the agent of host{number} still runs after {timeout:g} s\n{self.story()}") from None
        for host in self.hosts:
            host.reader.join()
        if any(codes):
            # A test shows it only when it goes on to fail.
            print(self.story())
        return codes

    def stop(self) -> None:
        """Ask the run to end and wait for it.

        Raises:
            RunFailed: an agent ended badly or did not end.
        """
        self.send("stop")
        codes = self.wait()
        if any(codes):
            raise RunFailed(f"the agents ended with exit codes {codes}\n{self.story()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever still runs; a rank dies with its agent, a stopped one is woken for it."""
        for host in self.hosts:
            if host.process.poll() is None:
                host.process.kill()
            for event in [event for event in host.events if isinstance(event, Hello)]:
                with contextlib.suppress(ProcessLookupError):
                    # The rank has ended already; only one that is stopped or its agent's orphan is still there.
                    os.kill(event.process_id, signal.SIGCONT)
        for host in self.hosts:
            host.process.wait()
            host.reader.join()


@contextlib.contextmanager
def trainer_run(
    ranks: int,
    options: Sequence[str],
    *,
    quotas: Sequence[CpuQuota] = (),
    speeds: Sequence[float] = (),
    network: Network | None = None,
) -> Iterator[Cluster]:
    """Start a run with one rank a host, in a folder of its own; :meth:`Cluster.go` lets the ranks begin."""
    with tempfile.TemporaryDirectory(prefix="hetero-benchmark-") as folder, Cluster(Path(folder)) as run:
        run.start([1] * ranks, options, quotas=quotas, speeds=speeds, network=network, go=False)
        yield run


def free_port() -> int:
    """Return a port nobody listens on, from below those that the kernel gives to connections.

    Between this look and the agent's start any connection of any program may be given a port of the kernel's own
    choice, and the agent then says "address already in use".
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


def throughput(steps: Sequence[Step]) -> float:
    """Return samples per second of the whole group over some steps of one rank."""
    return sum(step.global_batch for step in steps) / sum(step.duration for step in steps)

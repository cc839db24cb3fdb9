"""Real agents and ranks on this machine, talking over loopback, for the tests of the trainer."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from trainer.events import Event, Hello, Output, decode

E = TypeVar("E", bound=Event)
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Host:
    """One agent."""

    process: subprocess.Popen[str]
    control: Path
    output: Path
    events: list[Event] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


class Cluster:
    """Several hosts of one run. Use as a context manager: nothing is left running."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hosts: list[Host] = []
        self._changed = threading.Condition()
        self._messages = 0
        self._threads: list[threading.Thread] = []

    def start(
        self,
        layout: Sequence[int],
        options: Sequence[str],
        *,
        speeds: Sequence[float] = (),
        environment: dict[str, str] | None = None,
        go: bool = True,
    ) -> None:
        """Start one agent for each number of ranks in ``layout``; ``speeds`` are simulated samples/s of each host."""
        world_size = sum(layout)
        port = _free_port()
        first = 0
        for number, ranks in enumerate(layout):
            control, output = self._folder / f"control{number}", self._folder / f"output{number}"
            control.mkdir(parents=True, exist_ok=True)
            values = {
                "RANK": str(first), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(ranks),
                "NODE_RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HETERO_RUN_ID": f"test-{port}",
                "HETERO_HOST": f"host{number}", "HETERO_BACKEND": "gloo", "HETERO_DEVICES": "cpu",
                "HETERO_RANKS": ",".join(str(first + each) for each in range(ranks)),
                "HETERO_MASTER": "1" if number == 0 else "0",
                "HETERO_CONTROL": str(control), "HETERO_OUTPUT": str(output), "PYTHONPATH": str(REPOSITORY),
            }  # fmt: skip
            if speeds:
                values["HETERO_SIMULATED_SAMPLES_PER_SECOND"] = str(speeds[number])
            self._start_host(control, output, options, {**os.environ, **values, **(environment or {})})
            first += ranks
        if go:
            self.send("go")

    def _start_host(self, control: Path, output: Path, options: Sequence[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *options],
            env=environment, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        host = Host(process, control, output)
        self.hosts.append(host)
        thread = threading.Thread(target=self._read, args=(host,))
        thread.start()
        self._threads.append(thread)

    def _read(self, host: Host) -> None:
        assert host.process.stdout is not None
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
        self._messages += 1
        name = f"{time.time_ns() + self._messages}-{command}.json"
        for number, host in enumerate(self.hosts):
            if hosts is None or number in hosts:
                part = host.control / f".{name}"
                part.write_text(json.dumps({"command": command, **values}), encoding="utf-8")
                part.rename(host.control / name)

    def of(self, event_type: type[E], rank: int | None = None) -> list[E]:
        """Return all events of a type so far, of one rank or of all, host by host."""
        return [
            event
            for host in self.hosts
            for event in list(host.events)
            if isinstance(event, event_type) and rank in (None, event.rank)
        ]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 120.0) -> None:
        """Wait until ``condition`` holds, or fail with everything that was said."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout=timeout):
                raise AssertionError(f"not within {timeout} s:\n{self.story()}")

    def wait(self, timeout: float = 180.0) -> list[int]:
        """Wait for the end of all agents and return their exit codes."""
        deadline = time.monotonic() + timeout
        codes = []
        for host in self.hosts:
            try:
                codes.append(host.process.wait(timeout=max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still running after {timeout} s:\n{self.story()}") from None
        for thread in self._threads:
            thread.join()
        if any(codes):
            # Shown only when the test goes on to fail.
            print(self.story())
        return codes

    def process_of(self, rank: int) -> int:
        """Return the process id of a rank, from its newest hello."""
        return self.of(Hello, rank)[-1].process_id

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a rank's process."""
        os.kill(self.process_of(rank), number)

    def story(self) -> str:
        """Return the last events of each host, for a failing test."""
        lines = []
        for number, host in enumerate(self.hosts):
            lines += [f"host{number}: {str(event)[:600]}" for event in host.events[-25:]]
            lines += [f"host{number} plain: {line[:300]}" for line in host.plain[-10:]]
        return "\n".join(lines)

    def output(self) -> str:
        """Return everything the ranks printed."""
        return "\n".join(event.text for event in self.of(Output))

    def close(self) -> None:
        """End whatever still runs."""
        for host in self.hosts:
            for event in [event for event in host.events if isinstance(event, Hello)]:
                with contextlib.suppress(ProcessLookupError):
                    if host.process.poll() is None:
                        os.kill(event.process_id, signal.SIGCONT)
            if host.process.poll() is None:
                host.process.kill()
            host.process.wait()
        for thread in self._threads:
            thread.join()
        for host in self.hosts:
            if host.process.stdout is not None:
                host.process.stdout.close()


def _free_port() -> int:
    """Return a port nobody listens on, from below those that the kernel gives to connections.

    Between this look and the agent's start any connection of any program may be given a port of the kernel's own
    choice, and the agent then says "address already in use".
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Give a cluster that is gone afterwards."""
    running = Cluster(folder)
    try:
        yield running
    finally:
        running.close()

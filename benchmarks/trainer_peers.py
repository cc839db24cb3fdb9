"""The same faults for torchft and for torchrun's elastic agent: how long the survivors stand still."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from benchmarks.trainer_cluster import REPOSITORY, RunFailed, free_port
from benchmarks.trainer_network import Network

Peer = Literal["torchft", "torchrun"]
Fault = Literal["kill", "stop", "link"]
RANKS: Final = 3
LOST: Final = 2
READY: Final = "ready to begin"
"""What a replica of torchft says before it waits for a line on its standard input."""
STEPS_BEFORE: Final = 15
STEPS_AFTER: Final = 6
START_SECONDS: Final = 120.0
LONGEST_SECONDS: Final = 45.0
"""A peer that has not gone on after so long counts as one that does not."""


class DidNotGoOn(Exception):
    """The survivors did no step within :data:`LONGEST_SECONDS`."""


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[str]
    ends: list[float] = field(default_factory=list)
    """When each of its steps ended."""
    together: int = 0
    """Steps in a row that all ranks took part in, up to now."""
    worker: int = 0
    """Process id of the rank itself, which torchrun starts as a child."""
    ready: bool = False
    said: list[str] = field(default_factory=list)

    def last_words(self) -> str:
        """Return the end of what it said."""
        return "".join(self.said[-5:])[-400:]


@dataclass(slots=True)
class _Run:
    network: Network | None
    changed: threading.Condition = field(default_factory=threading.Condition)
    processes: list[_Process] = field(default_factory=list)

    def address(self, rank: int) -> str:
        return self.network.address(rank) if self.network else "127.0.0.1"

    def start(self, rank: int, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        prefix = self.network.command(rank) if self.network else ()
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", *command],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def follow(self, process: subprocess.Popen[str]) -> None:
        followed = _Process(process, worker=process.pid)
        self.processes.append(followed)
        threading.Thread(target=self._read, args=(followed,), daemon=True).start()

    def _read(self, followed: _Process) -> None:
        assert followed.process.stdout is not None
        for line in followed.process.stdout:
            with self.changed:
                # A peer's own log goes to the same pipe and may come before it in the line.
                _, found, rest = line.partition('{"time"')
                if found:
                    told = json.JSONDecoder().raw_decode(found + rest)[0]
                    followed.ends.append(told["time"])
                    followed.worker = told["pid"]
                    followed.together = followed.together + 1 if told["participants"] == RANKS else 0
                else:
                    followed.ready = followed.ready or READY in line
                    followed.said.append(line)
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, while all processes live."""
        with self.changed:
            self.changed.wait_for(
                lambda: condition() or any(each.process.poll() is not None for each in self.processes),
                timeout=START_SECONDS,
            )
            return condition()

    def begin(self) -> None:
        """Let the processes begin together, once each has said that it is ready.

        Raises:
            RunFailed: one did not become ready.
        """
        if not self._wait(lambda: all(each.ready for each in self.processes)):
            raise RunFailed(f"a replica did not become ready: {self.story()}")
        for each in self.processes:
            assert each.process.stdin is not None
            each.process.stdin.write("\n")
            each.process.stdin.flush()

    def story(self) -> str:
        """Return what each process last said, for a message."""
        return " | ".join(f"rank {rank}: {each.last_words()}" for rank, each in enumerate(self.processes))

    def wait_until_together(self) -> bool:
        """Wait until every rank has done some steps in a row with all the others."""
        return self._wait(lambda: all(each.together >= STEPS_BEFORE for each in self.processes))

    def wait_for_steps(self, after: float, count: int, timeout: float) -> bool:
        """Wait until the first rank has done ``count`` steps after a time."""
        with self.changed:
            return self.changed.wait_for(
                lambda: sum(end > after for end in self.processes[0].ends) >= count, timeout=timeout
            )


def pause(peer: Peer, fault: Fault) -> float:
    """Return for how many seconds the survivors of a fault do no step, beyond a step's own time.

    Raises:
        DidNotGoOn: they never went on.
        RunFailed: the peer did not even train before the fault.
    """
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(RANKS)) if fault == "link" else None
        run = stack.enter_context(_torchft(network) if peer == "torchft" else _torchrun(network))
        if not run.wait_until_together():
            raise RunFailed(f"{peer} did not train with all ranks: {run.story()}")
        usual = (run.processes[0].ends[-1] - run.processes[0].ends[-6]) / 5
        struck = time.time()
        _strike(run, fault)
        if not run.wait_for_steps(struck, STEPS_AFTER, LONGEST_SECONDS):
            said = " | ".join(line.strip() for line in run.processes[0].said[-3:])[-300:]
            raise DidNotGoOn(f"{peer} had not gone on {LONGEST_SECONDS:.0f} s after the fault; last said: {said}")
        ends = run.processes[0].ends
        gaps = [later - earlier for earlier, later in pairwise(ends) if later > struck]
        return max(0.0, max(gaps) - usual)


def _strike(run: _Run, fault: Fault) -> None:
    if fault == "link":
        assert run.network is not None
        run.network.unplug(LOST)
        return
    number = signal.SIGKILL if fault == "kill" else signal.SIGSTOP
    # A lost machine loses its launcher too: whoever is in the session of the rank's process goes with it.
    for process_id in {run.processes[LOST].process.pid, run.processes[LOST].worker}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, number)


@contextlib.contextmanager
def _torchft(network: Network | None) -> Iterator[_Run]:
    run = _Run(network)
    with contextlib.ExitStack() as stack:
        environment = {"GLOO_SOCKET_IFNAME": network.interface if network else "lo"}
        server = run.start(0, ["benchmarks.trainer_peer_rank", "lighthouse", run.address(0)], environment)
        stack.callback(_end, server)
        # The server announces the machine's name, which need not resolve: only the port counts.
        lighthouse = f"http://{run.address(0)}:{_port_in(server)}"
        for rank in range(RANKS):
            arguments = ["torchft", run.address(rank), lighthouse, f"replica{rank}"]
            process = run.start(rank, ["benchmarks.trainer_peer_rank", *arguments], environment)
            stack.callback(_end, process)
            run.follow(process)
        run.begin()
        yield run


def _port_in(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    told: list[str] = []
    for line in server.stdout:
        told.append(line)
        if address := re.fullmatch(r"http://\S+:(\d+)", line.strip()):
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return int(address[1])
    raise RunFailed(f"torchft's lighthouse did not start: {''.join(told[-5:])[-500:]}")


@contextlib.contextmanager
def _torchrun(network: Network | None) -> Iterator[_Run]:
    run = _Run(network)
    port = free_port()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hetero-benchmark-"))
        script = Path(folder) / "worker.py"
        script.write_text("from benchmarks.trainer_peer_rank import torchrun_worker\ntorchrun_worker()\n", "utf-8")
        environment = {"GLOO_SOCKET_IFNAME": network.interface if network else "lo"}
        for rank in range(RANKS):
            command = [
                "torch.distributed.run", f"--nnodes=1:{RANKS}", "--nproc-per-node=1", "--max-restarts=100",
                "--rdzv-backend=c10d", f"--rdzv-endpoint={run.address(0)}:{port}", "--rdzv-id=benchmark",
                f"--local-addr={run.address(rank)}", f"--rdzv-conf=is_host={int(rank == 0)}", str(script),
            ]  # fmt: skip
            process = run.start(rank, command, environment)
            stack.callback(_end, process)
            run.follow(process)
        yield run


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with everything it started: each leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

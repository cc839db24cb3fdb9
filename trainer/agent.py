"""The agent of one host: starts its ranks, relays what they say, and tells the end. It does not import torch.

On the master host it also starts the process with the TCPStore and the coordinator, which outlives any rank.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

from trainer.environment import HostEnvironment
from trainer.errors import StartError
from trainer.events import MAX_EVENT_BYTES, Emitter, Failed, Notice, Output
from trainer.listening import dialled_locally, listen_on
from trainer.options import Options

MAX_OUTPUT_CHARACTERS: Final = 8192
FULL_DISK_SECONDS: Final = 0.2
"""Until a full disk is tried again."""
DRAIN_SECONDS: Final = 2.0
"""How long the relays may go on after their process ended: a child of its own may hold the pipe open."""
PYTHON: Final = (sys.executable, *(["-P"] if sys.flags.safe_path else []))
"""The interpreter of the ranks: where the agent does not look for modules in the current folder, neither do they."""
SCRIPT_SILENCE_SECONDS: Final = 60.0
SAME_REQUEST_SECONDS: Final = 1.0
_SEQ: Final = re.compile(r'"seq":(\d+)')


@dataclass(slots=True)
class _Rank:
    """One rank's process and what is known of it."""

    rank: int
    local_rank: int
    device: str
    process: subprocess.Popen[bytes]
    relays: list[threading.Thread]
    next_seq: int = 0
    restarts: int = 0
    reported_failure: bool = False
    is_prepared: bool = False
    """Its script trains through this package: the rank can be lost and come back."""
    exit_code: int | None = None


class Agent:
    """Runs one host's ranks to their end."""

    def __init__(self, host: HostEnvironment, options: Options, arguments: Sequence[str]) -> None:
        """``arguments`` is the command line, which the ranks get as it is."""
        self._host = host
        self._options = options
        self._arguments = list(arguments)
        self._writing = threading.Lock()
        self._emitter = Emitter(-1, self._write_line)
        self._store: subprocess.Popen[bytes] | None = None
        self._store_relays: list[threading.Thread] = []
        self._port = host.master_port
        self._ranks: list[_Rank] = []
        self._asked_to_stop = 0.0
        self._alive_read, self._alive_write = os.pipe()

    def run(self) -> int:
        """Start everything, wait for the end, and return the exit code: the first bad rank's, or 0.

        Raises:
            StartError: the store of the master host could not be started.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if self._host.is_master:
            self._start_store()
        pairs = zip(self._host.ranks, self._host.devices, strict=True)
        for local_rank, (rank, device) in enumerate(pairs):
            self._ranks.append(self._start_rank(rank, local_rank, device))
        first_bad = self._wait_for_ranks()
        self._end_store()
        return first_bad

    # ------------------------------------------------------------------ store

    def _start_store(self) -> None:
        """Start the process with the store and wait until it listens."""
        listening = listen_on(self._host.master_address, self._port)
        self._port = int(listening.getsockname()[1])
        settings = {
            "run_id": self._host.run_id,
            "address": dialled_locally(listening),
            "dialled": self._host.master_address,
            "port": self._port,
            "world_size": self._host.world_size,
            # A script's own process group does not survive a lost rank, and it may keep Python busy for long.
            "elastic": self._options.elastic and not self._options.script,
            "heartbeat_timeout": SCRIPT_SILENCE_SECONDS if self._options.script else self._options.heartbeat_timeout,
            "inherited_socket": listening.fileno(),
        }
        self._store = subprocess.Popen(
            [*PYTHON, "-m", "trainer.store", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(listening.fileno(),),
        )
        listening.close()
        assert self._store.stdout is not None
        assert self._store.stderr is not None
        self._store_relays = [
            threading.Thread(target=self._relay_output, args=(None, self._store.stderr, "stderr"), daemon=True),
            threading.Thread(target=self._relay_notices, args=(self._store.stdout,), daemon=True),
        ]
        for relay in self._store_relays:
            relay.start()

    def _end_store(self) -> None:
        """Let the store serve the ranks of other hosts until the run is over there too."""
        if self._store is None:
            return
        self._tell_store(b"stop\nfinish\n" if self._asked_to_stop else b"finish\n")
        self._store.wait()
        self._drain(self._store_relays)

    def _tell_store(self, words: bytes) -> None:
        assert self._store is not None
        assert self._store.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # It has ended by itself already.
            os.write(self._store.stdin.fileno(), words)

    # ------------------------------------------------------------------ ranks

    def _start_rank(self, rank: int, local_rank: int, device: str, before: _Rank | None = None) -> _Rank:
        events_read, events_write = os.pipe()
        environment = dict(os.environ)
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(len(self._host.ranks)),
            "WORLD_SIZE": str(self._host.world_size),
            "GROUP_RANK": str(self._host.node_rank),
            "NODE_RANK": str(self._host.node_rank),
            "MASTER_ADDR": self._host.master_address,
            "MASTER_PORT": str(self._port),
            # The store is outside the ranks: a script's own init_process_group must not open a second one.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "PYTHONUNBUFFERED": "1",
            "HETERO_DEVICE": device,
            "HETERO_FIRST_SEQ": str(before.next_seq if before else 0),
            "HETERO_RESTART": "1" if before else "0",
            "HETERO_EVENTS_FD": str(events_write),
            "HETERO_AGENT_FD": str(self._alive_read),
        }
        if device == "cpu":
            # Without these glibc gives big buffers back to the kernel after every use: up to half of the speed.
            environment.setdefault("MALLOC_MMAP_THRESHOLD_", "2000000000")
            environment.setdefault("MALLOC_TRIM_THRESHOLD_", "4000000000")
        process = subprocess.Popen(
            [*PYTHON, "-m", "trainer.rank", *self._arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(events_write, self._alive_read),
        )
        os.close(events_write)
        assert process.stdout is not None
        assert process.stderr is not None
        started = _Rank(rank, local_rank, device, process, [])
        if before is not None:
            started.next_seq, started.restarts = before.next_seq, before.restarts + 1
            started.is_prepared = before.is_prepared
        started.relays = [
            threading.Thread(target=self._relay_events, args=(started, os.fdopen(events_read, "rb")), daemon=True),
            threading.Thread(target=self._relay_output, args=(started, process.stdout, "stdout"), daemon=True),
            threading.Thread(target=self._relay_output, args=(started, process.stderr, "stderr"), daemon=True),
        ]
        for relay in started.relays:
            relay.start()
        return started

    def _wait_for_ranks(self) -> int:
        """Wait until every rank has ended for good; a rank that died in an elastic run is started again."""
        first_bad = 0
        running = {each.process.pid: each for each in self._ranks}
        others = {self._store.pid} if self._store else set()
        while running:
            pid, status = os.wait()
            if pid in others and self._store is not None:
                self._store.returncode = os.waitstatus_to_exitcode(status)
                self._on_store_end(self._store.returncode)
                continue
            ended = running.pop(pid, None)
            if ended is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            ended.process.returncode = code
            self._drain(ended.relays)
            if code == 0:
                continue
            if self._may_restart(ended, code):
                started = self._start_rank(ended.rank, ended.local_rank, ended.device, before=ended)
                self._ranks[self._ranks.index(ended)] = started
                running[started.process.pid] = started
                continue
            self._tell_end(ended, code)
            first_bad = first_bad or (code if code > 0 else 128 - code)
        return first_bad

    def _may_restart(self, ended: _Rank, code: int) -> bool:
        """Only a death is worth another try: a rank that says why it failed would fail again."""
        died = code < 0 or not ended.reported_failure
        if not (self._options.elastic and died) or self._asked_to_stop:
            return False
        if self._options.script and not (ended.is_prepared and code < 0):
            return False
        if self._store is not None and self._store.returncode is not None:
            return False
        if ended.restarts >= self._options.max_restarts:
            return False
        again = f"{ended.restarts + 1} of {self._options.max_restarts}"
        text = f"rank {ended.rank} {_how_it_ended(code)}; starting it again ({again})"
        self._emitter.emit(Notice, level="warning", text=text)
        return True

    def _tell_end(self, ended: _Rank, code: int) -> None:
        if not ended.reported_failure:
            text = f"rank {ended.rank} on {self._host.host} {_how_it_ended(code)}"
            self._emitter.emit(Failed, error=text, exit_code=code if code > 0 else 128 - code)

    def _on_store_end(self, code: int) -> None:
        if code != 0:
            text = f"the store and coordinator on {self._host.host} {_how_it_ended(code)}; the run cannot go on"
            self._emitter.emit(Failed, error=text, exit_code=code if code > 0 else 128 - code)

    def _drain(self, relays: Sequence[threading.Thread]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        for relay in relays:
            relay.join(timeout=max(0.0, deadline - time.monotonic()))

    def _on_signal(self, _number: int, _frame: object) -> None:
        """Pass a request to end on; when it is repeated later, end the ranks without asking.

        One request can arrive twice at once: for the process and for its group. The end of the master is that of the
        run, also when its own ranks are gone already.
        """
        now = time.monotonic()
        self._asked_to_stop = self._asked_to_stop or now
        impatient = now - self._asked_to_stop > SAME_REQUEST_SECONDS
        living = [each for each in self._ranks if each.process.returncode is None]
        if not living and self._store is not None:
            self._tell_store(b"stop\n")
        for each in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.process.pid, signal.SIGKILL if impatient else signal.SIGTERM)

    # ------------------------------------------------------------------ relaying

    def _relay_events(self, source: _Rank, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(MAX_EVENT_BYTES + 1):
                text = line.decode("utf-8", errors="replace")
                found = _SEQ.search(text)
                if found is None or not text.endswith("\n"):
                    # The process died in the middle of a line.
                    continue
                source.next_seq = int(found[1]) + 1
                source.reported_failure = source.reported_failure or '"kind":"failed"' in text[:40]
                source.is_prepared = source.is_prepared or '"kind":"calibrated"' in text[:40]
                self._write_line(text)

    def _relay_output(self, source: _Rank | None, pipe: IO[bytes], stream: str) -> None:
        rank = -1 if source is None else source.rank
        while line := pipe.readline(MAX_OUTPUT_CHARACTERS):
            text = line.decode("utf-8", errors="replace").rstrip("\n")
            self._emitter.emit(Output, stream=stream, text=text, source_rank=rank)

    def _relay_notices(self, pipe: IO[bytes]) -> None:
        """Pass on what the coordinator says."""
        while line := pipe.readline(MAX_OUTPUT_CHARACTERS):
            self._emitter.emit(Notice, level="warning", text=line.decode("utf-8", errors="replace").rstrip("\n"))

    def _write_line(self, line: str) -> None:
        with self._writing:
            _write_all(1, line.encode())


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all of it. On a full disk the ranks wait until there is room: a line is late, never lost or halved."""
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(FULL_DISK_SECONDS)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (often the kernel, when memory ran out)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def run_host(host: HostEnvironment, options: Options, arguments: Sequence[str]) -> int:
    """Run the agent and return its exit code.

    Raises:
        StartError: the port of the store is taken.
    """
    try:
        return Agent(host, options, arguments).run()
    except OSError as error:
        raise StartError(
            f"{host.host} cannot serve the rendezvous on port {host.master_port}: {error.strerror}",
            next_step="another run may still use the port; choose another master port",
        ) from error

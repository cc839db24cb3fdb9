"""A program on a pseudo-terminal of a given size, and what it has painted so far."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

_ESCAPES: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")


class Terminal:
    """Runs one program; leaving the context ends it with everything it started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 120,
        rows: int = 35,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """``env`` is added to this process's environment."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
            start_new_session=True,
        )
        os.close(slave)
        self._painted = bytearray()

    def wait_for(self, pattern: str, timeout: float) -> float:
        """Wait until ``pattern`` is painted, after what earlier calls found; return seconds since the program's start.

        Raises:
            TimeoutError: it was not within ``timeout`` seconds, or the program ended before; says what was painted.
        """
        wanted = re.compile(pattern.encode())
        deadline = time.perf_counter() + timeout
        while (left := deadline - time.perf_counter()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                break
            try:
                self._painted += os.read(self._master, 1 << 16)
            except OSError:  # the program closed its end of the terminal
                break
            if wanted.search(_ESCAPES.sub(b"", bytes(self._painted))):
                self._painted.clear()
                return time.perf_counter() - self.started
        shown = _ESCAPES.sub(b"", bytes(self._painted)).decode(errors="replace")[-800:]
        raise TimeoutError(f"{pattern!r} was not painted within {timeout:.0f} s; last: {shown}")

    def read_for(self, seconds: float) -> int:
        """Go on reading for a while, as a terminal does; return how many bytes came."""
        count, deadline = 0, time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            if select.select([self._master], [], [], left)[0]:
                count += len(os.read(self._master, 1 << 16))
        return count

    def wait(self, timeout: float) -> int:
        """Go on reading, as a terminal does, until the program has ended; return its exit status.

        Raises:
            TimeoutError: it did not end within ``timeout`` seconds.
        """
        deadline = time.perf_counter() + timeout
        while (status := self.process.poll()) is None:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"the program did not end within {timeout:.0f} s")
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    os.read(self._master, 1 << 16)
                except OSError:  # the program closed its end of the terminal
                    return self.process.wait(timeout)
        return status

    def send(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def cpu_seconds(self) -> float:
        """Return what the program itself has computed so far, user and system together, without its children."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._master)  # hang-up, as when a terminal window is closed
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

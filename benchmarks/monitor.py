"""What the monitor costs: ``python -m benchmarks.monitor [--quick] [--only ID] [--json FILE]``.

The app runs as it is, in a pseudo-terminal that is read as a terminal reads it, so layout, painting and writing escape
codes are all paid for. Events come through a pipe from another process, go through the ingest into the store and into
the run's recording. CPU is the app's own processor time per second of wall time: 100 % is one core, whatever else the
machine does.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.monitor_load import HOST
from benchmarks.report import Figure, Options, at_most, failed, main, measured, skipped
from benchmarks.startup import first_frames
from benchmarks.terminal import Terminal
from hetero_tui.ingest import NUMBER
from remote.run_dir import RunDir

COLUMNS, ROWS = 160, 45
FLOOD: Final = 100_000
ENOUGH: Final = 0.8
"""Part of the flood that has to come in for its cost to be that of the flood."""
MANY_LINES: Final = 10_000_000
KEY_PRESSES: Final = 30
STARTS_WITHIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stretch of time cost."""

    cpu_percent: float
    tty_megabytes_per_second: float


class App:
    """The app on a load, with a reader that empties its terminal."""

    def __init__(self, terminal: Terminal, folder: Path) -> None:
        self._terminal = terminal
        self._folder = folder
        self._process = psutil.Process(terminal.process.pid)

    def wait_for(self, pattern: str, timeout: float = STARTS_WITHIN) -> float:
        """Wait until it is painted; return seconds since the start."""
        return self._terminal.wait_for(pattern, timeout)

    def press(self, keys: str) -> None:
        """Type."""
        self._terminal.send(keys.encode())

    def cost(self, seconds: float) -> Cost:
        """Read the terminal for a while and say what that time cost the app."""
        before, started = self._cpu(), time.perf_counter()
        size = self._terminal.read_for(seconds)
        elapsed = time.perf_counter() - started
        return Cost(100 * (self._cpu() - before) / elapsed, size / elapsed / 1e6)

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def key_seconds(self) -> float:
        """Press the key that holds and lets go of the log, and return how long the answer took."""
        pressed = time.perf_counter()
        self.press("f")
        self._terminal.wait_for(r"FOLLOW OFF|following", 20)
        return time.perf_counter() - pressed

    @property
    def lines(self) -> int:
        """Lines the app has taken in so far."""
        try:
            return int((self._folder / "lines").read_text() or 0)
        except FileNotFoundError:
            return 0

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(self._process.memory_info().rss) / 1e6

    def close(self) -> dict[str, int]:
        """Leave it as a person does and return what it counted, and what is in the run's folder."""
        self.press("q")
        self.wait_for("Quit hetero-tui", 30)
        self.press("y")
        self._terminal.wait(60)
        counts: dict[str, int] = json.loads((self._folder / "counts.json").read_text())
        (path,) = (self._folder / "benchmark").iterdir()
        return counts | _stored(RunDir(path))


def _stored(run_dir: RunDir) -> dict[str, int]:
    """Count the lines that a recording holds, and those of an agent that are not where their number says."""
    stored = expected = misplaced = 0
    for line in run_dir.lines():
        stored += 1
        number = NUMBER.match(line.text)
        if number:
            misplaced += int(number[1]) != expected
            expected = int(number[1]) + 1
    with run_dir.log_path(HOST).open("rb") as log:
        readable = sum(1 for _ in log)
    return {"stored": stored, "misplaced": misplaced, "relayed": expected, "readable": readable}


@contextmanager
def running(*load: str) -> Iterator[App]:
    """Start the app on a load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.monitor_app", name, *load]
        with Terminal(command, columns=COLUMNS, rows=ROWS) as terminal:
            app = App(terminal, folder)
            app.wait_for("node000")
            yield app


def _steady(load: Sequence[str], seconds: float) -> Cost:
    with running(*load) as app:
        app.wait_for("training")
        app.cost(seconds / 2)
        return app.cost(seconds)


def figures(options: Options) -> Iterator[Figure]:
    """Yield the monitor's figures."""
    seconds = 2.0 if options.quick else 12.0
    if options.wants("cpu_64x10", "tty_mb_per_s_64"):
        cost = _steady(("steps", "64", "10"), seconds)
        note = "64 ranks x 10 steps/s, overview open, recording included"
        yield at_most("cpu_64x10", cost.cpu_percent, 10, "%", anchor="DataTable 46 %, Sparklines 76 %", note=note)
        yield at_most("tty_mb_per_s_64", cost.tty_megabytes_per_second, 0.15, "MB/s", anchor="Sparklines 2.3 MB/s")
    if options.wants("cpu_256x10"):
        cost = _steady(("steps", "256", "10"), seconds)
        yield at_most("cpu_256x10", cost.cpu_percent, 20, "%", anchor="DataTable saturates")
    if options.wants("cpu_1024x1"):
        cost = _steady(("steps", "1024", "1"), seconds)
        yield at_most("cpu_1024x1", cost.cpu_percent, 25, "%", anchor="1 024 ranks x 1 step/s")
    if options.wants("cpu_idle"):
        cost = _steady(("nothing", "64"), seconds)
        yield at_most("cpu_idle", cost.cpu_percent, 3, "%", anchor="64 ranks that say nothing")
    if options.wants(
        "cpu_flood", "key_latency_flood_ms", "flood_reached_lines_per_s", "flood_file_lines", "flood_not_shown_part"
    ):
        yield from _flood(seconds, presses=4 if options.quick else KEY_PRESSES)
    if options.wants("first_frame_s"):
        yield first_frames(1 if options.quick else 5)
    if options.wants("rss_10m_lines_mb"):
        yield from _memory(200_000 if options.quick else MANY_LINES)


def _flood(seconds: float, *, presses: int) -> Iterator[Figure]:
    load = ("lines", "8", str(FLOOD))
    with running(*load) as app:
        app.press("4")
        app.wait_for("following")
        app.cost(seconds / 2)
        lines, started = app.lines, time.perf_counter()
        cost = app.cost(seconds)
        reached = (app.lines - lines) / (time.perf_counter() - started)
        keys = sorted(app.key_seconds() for _ in range(presses))
        counts = app.close()
    note = f"{reached:,.0f} lines/s taken in, log pane open, recording included".replace(",", " ")
    if reached < ENOUGH * FLOOD:
        reason = f"the machine let only {note}"
        yield skipped("cpu_flood", reason, "%")
        yield skipped("key_latency_flood_ms", reason, "ms")
        return
    yield at_most("cpu_flood", cost.cpu_percent, 40, "%", anchor="RichLog saturates at 4 000 lines/s", note=note)
    late = keys[math.ceil(0.95 * len(keys)) - 1]
    median = f"{len(keys)} key presses, median {1000 * statistics.median(keys):.0f} ms"
    yield at_most("key_latency_flood_ms", 1000 * late, 100, "ms", anchor="95th percentile", note=median)
    yield measured("flood_not_shown_part", counts["not_shown"] / counts["lines"], "x", anchor="counted on the screen")
    told = f"{counts['stored']} of {counts['lines']} lines are in the recording, {counts['misplaced']} out of order"
    if counts["stored"] != counts["lines"] or counts["misplaced"]:
        yield failed("flood_file_lines", told)
    elif counts["readable"] != counts["relayed"]:
        yield failed("flood_file_lines", f"{counts['readable']} of {counts['relayed']} lines are in the text file")
    else:
        yield measured("flood_file_lines", counts["stored"], "lines", anchor=f"{counts['lines']} came in")


def _memory(lines: int) -> Iterator[Figure]:
    with running("lines", "8", str(10 * FLOOD)) as app:
        app.press("4")
        app.wait_for("following")
        while app.lines < lines / 10:
            app.cost(0.5)
        early = app.megabytes
        while app.lines < lines:
            app.cost(1.0)
        note = f"{app.lines:,} lines; {early:.0f} MB after the first tenth".replace(",", " ")
        yield at_most("rss_10m_lines_mb", app.megabytes, 120, "MB", anchor="unbounded logs grow", note=note)


if __name__ == "__main__":
    sys.exit(main("monitor", figures))

"""How long a person looks at nothing: ``python -m benchmarks.startup [--quick] [--json FILE]``.

The app, ``--help`` and ``status`` are measured as they run once installed: with bytecode, which pip and the first run
write. It is kept in a folder of the benchmark's own, so neither ``PYTHONDONTWRITEBYTECODE`` nor files that were just
edited change the figures. CPU seconds (user and system) stand beside wall time: on a busy machine they vary less.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Figure, Options, at_most, main, measured
from benchmarks.terminal import Terminal

BARE_APP: Final = """
from textual.app import App, ComposeResult
from textual.widgets import Static
class Bare(App):
    def compose(self) -> ComposeResult:
        yield Static("bare frame painted")
Bare().run()
"""
UNREACHABLE_CLUSTER: Final = """
[cluster]
name = "bench"
[image]
ref = "bench:1"
[training]
workload = "simple_cnn"
[[hosts]]
name = "first-frame-host"
address = "127.0.0.1"
port = 9
"""
APP: Final = (sys.executable, "-m", "hetero_tui")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a program: seconds that passed, and seconds that it computed."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where programs are started: a folder with a cluster file, and an environment that has their bytecode."""

    folder: Path
    env: Mapping[str, str]

    @property
    def cluster(self) -> str:
        """The cluster file: one host, where nothing listens."""
        return str(self.folder / "cluster.toml")

    def start(self, program: str) -> Start:
        """Start one of the programs that are compared.

        Raises:
            ValueError: there is no such program.
        """
        match program:
            case "bare":
                return self._painted((sys.executable, "-c", BARE_APP), "bare frame painted", b"\x11")
            case "first_frame":
                return self._painted((*APP, self.cluster), "first-frame", b"q")
            case "python":
                return self._ended((sys.executable, "-c", "pass"))
            case "help":
                return self._ended((*APP, "--help"))
            case "status":
                return self._ended((*APP, "status", self.cluster))
        raise ValueError(program)

    def _painted(self, command: Sequence[str], content: str, quit_key: bytes) -> Start:
        """Measure until ``content`` is on the terminal."""
        with Terminal(command, cwd=self.folder, env=self.env) as terminal:
            start = Start(terminal.wait_for(content, 60), terminal.cpu_seconds())
            terminal.send(quit_key)
            terminal.wait(60)
            return start

    def _ended(self, command: Sequence[str]) -> Start:
        """Measure until the program has ended, whatever its exit status is."""
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, capture_output=True, cwd=self.folder, env={**os.environ, **self.env}, check=False)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        return Start(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def figures(options: Options) -> Iterator[Figure]:
    """Yield the start-up figures."""
    rounds = 1 if options.quick else 5
    if options.wants("first_frame_s", "first_frame_cpu_s", "help_s", "help_cpu_s", "status_s", "status_cpu_s"):
        yield from starts(rounds)
    if options.wants("demo_first_throughput_s"):
        seconds = statistics.median(_demo_first_throughput() for _ in range(1 if options.quick else 3))
        yield at_most("demo_first_throughput_s", seconds, 20, anchor="process start to first samples/s on the screen")
    if options.wants("import_modules_tui", "import_torch_tui"):
        modules = _modules_of("import hetero_tui.interactive")
        yield measured(
            "import_modules_tui",
            len(modules),
            "modules",
            anchor=f"import textual.app, same run: {len(_modules_of('import textual.app'))}",
        )
        heavy = sum(name.split(".")[0] == "torch" for name in modules)
        yield at_most("import_torch_tui", heavy, 0, "modules", anchor="torch modules in the app's process")


def starts(rounds: int) -> Iterator[Figure]:
    """Measure the app's first frame and two commands, each with what it computed."""
    median = median_starts(("bare", "first_frame", "python", "help", "status"), rounds)
    yield _first_frame(median)
    anchor = f"a Textual app with one label, same run: {median['bare'].cpu:.2f} s"
    yield measured("first_frame_cpu_s", median["first_frame"].cpu, "s", anchor=anchor)
    python = median["python"]
    for program in ("help", "status"):
        found = median[program]
        yield measured(f"{program}_s", found.wall, "s", anchor=f"python -c pass, same run: {python.wall:.2f} s")
        yield measured(f"{program}_cpu_s", found.cpu, "s", anchor=f"python -c pass, same run: {python.cpu:.2f} s")


def first_frames(rounds: int) -> Figure:
    """Measure from the program's start to the first frame with content, beside a Textual app with one label."""
    return _first_frame(median_starts(("bare", "first_frame"), rounds))


def _first_frame(median: Mapping[str, Start]) -> Figure:
    anchor = f"a Textual app with one label, same run: {median['bare'].wall:.2f} s"
    return at_most("first_frame_s", median["first_frame"].wall, 0.6, anchor=anchor)


def median_starts(names: Sequence[str], rounds: int) -> dict[str, Start]:
    """Start programs in turns, once more than ``rounds``: the first time writes the bytecode and does not count."""
    taken: dict[str, list[Start]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(name) / "bytecode")})
        Path(bench.cluster).write_text(UNREACHABLE_CLUSTER, encoding="utf-8")
        for _ in range(rounds + 1):
            for program, found in taken.items():
                found.append(bench.start(program))
    return {
        program: Start(
            statistics.median(each.wall for each in found[1:]), statistics.median(each.cpu for each in found[1:])
        )
        for program, found in taken.items()
    }


def _demo_first_throughput() -> float:
    with Terminal([sys.executable, "-m", "hetero_tui", "demo"]) as terminal:
        return terminal.wait_for(r"[1-9]\d* samples/s", 120)


def _modules_of(statement: str) -> list[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(answer.stdout.splitlines()[-1])
    return names


if __name__ == "__main__":
    sys.exit(main("startup", figures))

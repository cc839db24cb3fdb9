"""How long a person looks at nothing: ``python -m benchmarks.startup [--quick] [--json FILE]``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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


def figures(options: Options) -> Iterator[Figure]:
    """Yield the start-up figures."""
    rounds = 1 if options.quick else 5
    if options.wants("first_frame_s"):
        yield first_frames(rounds)
    if options.wants("demo_first_throughput_s"):
        seconds = statistics.median(_demo_first_throughput() for _ in range(1 if options.quick else 3))
        yield at_most("demo_first_throughput_s", seconds, 20, anchor="process start to first samples/s on the screen")
    if options.wants("import_modules_tui", "import_torch_tui"):
        modules = _modules_of("import hetero_tui.app")
        yield measured(
            "import_modules_tui",
            len(modules),
            "modules",
            anchor=f"import textual.app, same run: {len(_modules_of('import textual.app'))}",
        )
        heavy = sum(name.split(".")[0] == "torch" for name in modules)
        yield at_most("import_torch_tui", heavy, 0, "modules", anchor="torch modules in the app's process")


def first_frames(rounds: int) -> Figure:
    """Measure from the program's start to the first frame with content, beside a Textual app with one label."""
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(_bare_frame())
        ours.append(_first_frame())
    anchor = f"a Textual app with one label, same run: {statistics.median(bare):.2f} s"
    return at_most("first_frame_s", statistics.median(ours), 0.6, anchor=anchor)


def _bare_frame() -> float:
    with Terminal([sys.executable, "-c", BARE_APP]) as terminal:
        seconds = terminal.wait_for("bare frame painted", 30)
        terminal.send(b"\x11")
        return seconds


def _first_frame() -> float:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder) / "cluster.toml"
        cluster.write_text(UNREACHABLE_CLUSTER, encoding="utf-8")
        command = [sys.executable, "-m", "hetero_tui", str(cluster)]
        with Terminal(command, cwd=Path(folder)) as terminal:
            seconds = terminal.wait_for("first-frame", 30)
            terminal.send(b"q")
            return seconds


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

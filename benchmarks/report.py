"""The form all benchmarks share: named figures with a target and an anchor, a table on stdout and JSON in a file.

A figure is a ratio or a duration measured in one run together with what it is compared to (its anchor): a peer or an
ideal measured minutes ago on another machine is no anchor. A figure that cannot be measured here is skipped with the
reason, never guessed.

A benchmark is a module with a generator of figures::

    def figures(options: Options) -> Iterator[Figure]:
        yield at_most("first_frame_s", seconds, 0.5, unit="s", anchor="python -c pass in the same run")

    if __name__ == "__main__":
        sys.exit(main("startup", figures))
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psutil

Comparison = Literal[">=", ">", "<=", "<"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number and what it should be."""

    id: str
    """Stable name, such as ``dynamic_of_ideal_1024``."""
    value: float | None
    """None where it could not be measured; ``note`` says why."""
    unit: str = ""
    """``s``, ``ms``, ``MB``, ``samples/s``; ``x`` for a ratio."""
    comparison: Comparison | None = None
    goal: float | None = None
    anchor: str = ""
    """What the figure is relative to, measured in the same run."""
    note: str = ""
    ceiling: float | None = None
    """A value above it cannot be true, so it proves nothing: the speed of a whole over the sum of its parts, say."""
    failed: bool = False
    """True where the measurement itself broke: that fails even a quick run."""

    @property
    def target(self) -> str:
        """The goal in words, such as ``>= 0.97``; empty for a figure without one."""
        return "" if self.comparison is None or self.goal is None else f"{self.comparison} {self.goal:g}"

    @property
    def proven(self) -> bool:
        """False for a value that cannot be true."""
        return self.value is None or self.ceiling is None or self.value <= self.ceiling

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached.

        False for a broken measurement and for a value that cannot be true, None without a value or a goal.
        """
        if self.failed or not self.proven:
            return False
        if self.value is None or self.comparison is None or self.goal is None:
            return None
        match self.comparison:
            case ">=":
                return self.value >= self.goal
            case ">":
                return self.value > self.goal
            case "<=":
                return self.value <= self.goal
            case "<":
                return self.value < self.goal

    def to_json(self) -> dict[str, Any]:
        """Return the figure as JSON values."""
        shown = {"id": self.id, "value": self.value, "unit": self.unit, "target": self.target, "met": self.met}
        more = {"note": self.note} if self.note else {}
        return shown | {"anchor": self.anchor} | more | ({} if self.proven else {"proven": False})


def measured(
    id: str,
    value: float,
    unit: str = "",
    *,
    comparison: Comparison | None = None,
    goal: float | None = None,
    anchor: str = "",
    note: str = "",
    ceiling: float | None = None,
) -> Figure:
    """Return a figure with a value, with or without a goal; it cannot be more than ``ceiling``.

    Raises:
        ValueError: the value is NaN or infinite, which is a failed measurement.
    """
    if not math.isfinite(value):
        raise ValueError(f"{id}: measured {value}")
    return Figure(
        id=id, value=value, unit=unit, comparison=comparison, goal=goal, anchor=anchor, note=note, ceiling=ceiling
    )


def at_least(
    id: str,
    value: float,
    goal: float,
    unit: str = "x",
    *,
    anchor: str = "",
    note: str = "",
    ceiling: float | None = None,
) -> Figure:
    """Return a figure that should be ``goal`` or more, and cannot be more than ``ceiling``."""
    return measured(id, value, unit, comparison=">=", goal=goal, anchor=anchor, note=note, ceiling=ceiling)


def at_most(id: str, value: float, goal: float, unit: str = "s", *, anchor: str = "", note: str = "") -> Figure:
    """Return a figure that should be ``goal`` or less."""
    return measured(id, value, unit, comparison="<=", goal=goal, anchor=anchor, note=note)


def skipped(id: str, reason: str, unit: str = "") -> Figure:
    """Return a figure that cannot be measured here, with the reason."""
    return Figure(id=id, value=None, unit=unit, note=f"skipped: {reason}")


def failed(id: str, reason: str, unit: str = "") -> Figure:
    """Return a figure whose measurement broke: what was measured did not work."""
    return Figure(id=id, value=None, unit=unit, note=f"failed: {reason}", failed=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What the person asked for."""

    quick: bool = False
    """Run just long enough to show that the benchmark works; its figures prove nothing."""
    only: tuple[str, ...] = ()
    """Ids (or beginnings of ids) of the figures to measure; empty for all."""

    def wants(self, *figures: str) -> bool:
        """Return whether any of these figures (their ids) should be measured."""
        return not self.only or any(figure.startswith(self.only) for figure in figures)


Build = Callable[[Options], Iterable[Figure]]


def machine() -> dict[str, Any]:
    """Describe the machine the figures belong to. No host name, no address."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


PACKAGES: Final = ("torch", "textual", "asyncssh", "docker")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


COLUMNS: Final = ((34, "figure"), (12, "value"), (6, "unit"), (9, "target"), (8, "met"))


def header() -> str:
    """Return the head of the table."""
    return " ".join(f"{title:<{width}}" for width, title in COLUMNS) + " anchor"


def row(figure: Figure) -> str:
    """Return one line of the table."""
    value = "-" if figure.value is None else f"{figure.value:.4g}"
    missed = "FAILED" if figure.failed else "MISSED" if figure.proven else "UNPROVEN"
    met = "-" if figure.met is None else "yes" if figure.met else missed
    cells = (figure.id, value, figure.unit, figure.target, met)
    doubt = "" if figure.proven else f"not proven: more than {figure.ceiling:g} cannot be, so the anchor is wrong"
    told = " · ".join(filter(None, (doubt, figure.anchor, figure.note)))
    return " ".join(f"{cell:<{width}}" for cell, (width, _) in zip(cells, COLUMNS, strict=True)) + f" {told}"


def summary(figures: Sequence[Figure]) -> str:
    """Return one line that says which targets were met."""
    met = [figure.id for figure in figures if figure.met]
    missed = [figure.id for figure in figures if figure.met is False]
    return f"met: {', '.join(met) or 'none'}; missed: {', '.join(missed) or 'none'}"


def main(name: str, build: Build, arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark from the command line and return its exit code.

    Figures are printed as they come. The code is 1 when a measurement broke, or when a target was missed without
    ``--quick``; 2 when the JSON file cannot be written (argparse uses 2 for a wrong option as well).
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="short run: shows that it works, proves nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--only", metavar="ID", action="append", default=[], help="measure only ids that begin so")
    given = parser.parse_args(arguments)
    options = Options(quick=given.quick, only=tuple(given.only))
    described = machine()
    shown = f"{described['processor']}, {described['cpus']} CPUs, load {described['load_average'][0]}"
    print(f"{name}: {shown}{', quick run' if options.quick else ''}\n{header()}", flush=True)
    figures = []
    for figure in build(options):
        if not (figure.failed or options.wants(figure.id)):
            continue
        figures.append(figure)
        print(row(figure), flush=True)
    broken = any(figure.failed for figure in figures)
    missed = any(figure.met is False for figure in figures)
    print(summary(figures))
    if given.json is not None:
        document = {
            "benchmark": name,
            "quick": options.quick,
            "machine": described,
            "figures": [figure.to_json() for figure in figures],
        }
        try:
            given.json.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"cannot write {given.json}: {error}", file=sys.stderr)
            return 2
    return 1 if broken or (missed and not options.quick) else 0

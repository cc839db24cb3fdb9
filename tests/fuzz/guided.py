"""Coverage-guided fuzzing of the tests in this folder: ``python -m tests.fuzz`` starts this once for each target.

atheris (libFuzzer) makes the bytes that Hypothesis draws its inputs from, and keeps those that reach new code. What it
finds Hypothesis keeps too: the next ordinary run of the test replays it, makes it small and shows it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import tests.fuzz

INSTRUMENTED = ("hetero_tui", "remote", "trainer")


def targets() -> Mapping[str, Any]:
    """Return every test that Hypothesis drives, by name."""
    names = sorted(each.name for each in pkgutil.iter_modules(tests.fuzz.__path__) if each.name.startswith("test_"))
    modules: list[ModuleType] = [importlib.import_module(f"tests.fuzz.{name}") for name in names]
    return {
        name.removeprefix("test_"): test
        for module in modules
        for name, test in vars(module).items()
        if name.startswith("test_") and hasattr(test, "hypothesis")
    }


def main(module: str, target: str, arguments: list[str]) -> None:
    """Fuzz one target; libFuzzer ends the process, with a status other than 0 when it has found something.

    Only the target's own module is imported, with what it needs: to instrument all the others takes half a minute.
    """
    import atheris

    # In CI Hypothesis keeps nothing.
    os.environ.pop("CI", None)
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        test = getattr(importlib.import_module(module), f"test_{target}")
    fuzz: Callable[[bytes], object] = test.hypothesis.fuzz_one_input

    def one(data: bytes) -> None:
        fuzz(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

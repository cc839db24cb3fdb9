"""The control plane stays light: checked in a fresh interpreter, because import-linter cannot see deferred imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchft", "numpy")


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in ``sys.modules`` of a new interpreter after it ran ``statement``."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import hetero_tui.app", (*HEAVY, "asyncssh", "docker")),
        ("import hetero_tui.cli", (*HEAVY, "textual")),
        ("import hetero_tui.session", (*HEAVY, "textual")),
        ("import hetero_tui.store, hetero_tui.ingest", (*HEAVY, "textual", "asyncssh", "docker")),
        ("import remote.ssh, remote.engine, remote.launch, remote.checks.catalogue", (*HEAVY, "textual")),
        ("import trainer, trainer.plan, trainer.events, trainer.balance", (*HEAVY, "textual", "asyncssh", "docker")),
    ],
)
def test_importing_stays_light(statement: str, forbidden: tuple[str, ...]) -> None:
    assert loaded_after(statement).isdisjoint(forbidden)

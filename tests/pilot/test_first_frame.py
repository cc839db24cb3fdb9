"""What a person waits for at the start: nothing is loaded that the first frame does not show."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from typing import Any

import pytest

CLUSTER = """
[cluster]
name = "start"
[image]
ref = "start:1"
[training]
workload = "simple_cnn"
[[hosts]]
name = "first-frame-host"
address = "127.0.0.1"
port = 9
"""
FIRST_FRAME = {
    "annotated-types", "attrs", "cyclopts", "platformdirs", "pydantic", "pydantic_core", "rich", "textual", "tomli",
    "typing-inspection", "typing_extensions",
    "hetero-tui", "setuptools",  # this project, and what makes it importable from its checkout
}  # fmt: skip
LATER = {
    "remote.hosts", "remote.prediction", "remote.speeds", "remote.measure", "hetero_tui.prediction_report",
    "hetero_tui.metrics", "hetero_tui.headless", "hetero_tui.demo", "hetero_tui.screens.monitor",
    "hetero_tui.screens.launch", "hetero_tui.screens.plan", "hetero_tui.screens.images", "hetero_tui.screens.matrix",
    "hetero_tui.widgets.log_pane",
}  # fmt: skip
OWN_MODULES = 150
"""More than there are; where this is passed, see whether the first frame shows what the new ones are for."""


@pytest.fixture(scope="module")
def at_first_contact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("start")
    cluster, answer = folder / "cluster.toml", folder / "answer.json"
    cluster.write_text(CLUSTER)
    command = [sys.executable, "-m", "tests.pilot.first_frame", str(cluster), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def test_contact_begins_behind_the_first_frame(at_first_contact: dict[str, Any]) -> None:
    assert "first-frame-host" in at_first_contact["painted"]


def test_only_what_the_first_frame_shows_is_loaded(at_first_contact: dict[str, Any]) -> None:
    modules = set(at_first_contact["modules"])
    assert modules.isdisjoint(LATER)
    known = packages_distributions()
    loaded = {name for module in modules for name in known.get(module.partition(".")[0], ())}
    assert loaded <= FIRST_FRAME
    own = {module for module in modules if module.partition(".")[0] in ("hetero_tui", "remote", "trainer")}
    assert len(own) <= OWN_MODULES, sorted(own)


def test_help_needs_neither_textual_nor_asyncio() -> None:
    code = "import sys, hetero_tui.cli; print([m for m in ('textual', 'asyncio', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"

"""Code that is on the master alone runs in real containers: read-only, where the script's own files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig
from tests.ssh.test_workdir import SCRIPT

pytestmark = pytest.mark.rig

TRIES_TO_WRITE = """
try:
    open("written", "w")
except OSError as error:
    print(f"may not write: {error.strerror}", flush=True)
"""


def test_the_checklist_is_green_and_every_container_runs_the_script(rig: Rig, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "mine").mkdir(parents=True)
    (code / "train.py").write_text(SCRIPT + TRIES_TO_WRITE)
    (code / "words.txt").write_text("good morning")
    (code / "mine" / "model.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(8, 1)\n")
    text = cluster_toml(rig, {"workdir": "code", "script": "train.py", "policy": "equal"})
    built_in = ("workload", "samples", "epochs")
    client = Client(rig, tmp_path, "\n".join(row for row in text.splitlines() if not row.startswith(built_in)) + "\n")
    ended = client.document("up", timeout=240)
    assert ended["state"] == "finished"
    said = client.run("logs").stdout
    for rank in range(3):
        assert f"rank {rank} read 'good morning' in hetero" in said
    assert said.count("may not write: Read-only file system") == 3
    assert not (code / "written").exists()
    assert client.containers() == [[], [], []]

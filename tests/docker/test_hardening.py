"""What the engine makes of a run's container: no privileges, nothing published, mounts as planned, no secret."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from remote.container import KEPT_CAPABILITIES
from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.plan_model import MountMode
from tests.docker.test_docker_runtime import RUN, plan

pytestmark = pytest.mark.rig

SCRIPT = """
while read line; do case $line in CapEff*|CapBnd*|NoNewPrivs*) echo "$line";; esac; done < /proc/self/status
cat /data/input
echo x > /data/written && echo data is writable
echo x > /hetero/output/written && echo output is writable
chown 1234 /hetero/output/written && echo folders of a person can be used
"""
BITS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5}
"""Numbers of capabilities(7)."""


async def test_a_container_has_no_more_rights_than_training_needs(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    data, output = tmp_path / "data", tmp_path / "output"
    for folder in (data, output):
        folder.mkdir()
        folder.chmod(0o700)
    (data / "input").write_text("samples\n")
    mounts: tuple[tuple[str, str, MountMode], ...] = ((str(data), "/data", "ro"), (str(output), "/hetero/output", "rw"))
    runtime = DockerRuntime("alpha", engine)
    await runtime.create(dataclasses.replace(plan(SCRIPT), mounts=mounts), RUN)
    (found,) = await engine.list({"hetero-tui.run": RUN})
    record = await engine.inspect(str(found["Id"]))
    assert record is not None
    settings = record["HostConfig"]
    assert settings["Privileged"] is False
    assert settings["CapDrop"] == ["ALL"]
    assert sorted(name.removeprefix("CAP_") for name in settings["CapAdd"]) == sorted(KEPT_CAPABILITIES)
    assert settings["SecurityOpt"] == ["no-new-privileges"]
    assert not settings["PortBindings"]
    assert not settings["PublishAllPorts"]
    assert settings["PidMode"] == ""
    assert settings["RestartPolicy"]["Name"] == "no"
    assert "hunter2" not in json.dumps(record), "nothing of the master's environment goes along"

    await runtime.start(RUN)
    said = [line.text async for batch in runtime.logs(RUN) for line in batch]
    expected = sum(1 << BITS[name] for name in KEPT_CAPABILITIES)
    rights = dict(line.split(maxsplit=1) for line in said[:3])
    assert (int(rights["CapEff:"], 16), int(rights["CapBnd:"], 16), rights["NoNewPrivs:"]) == (expected, expected, "1")
    assert "samples" in said
    assert "data is writable" not in said
    assert {"output is writable", "folders of a person can be used"} <= set(said)
    await runtime.stop(RUN)

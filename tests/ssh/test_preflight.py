"""Predictions, kept speeds and the report for an issue, over SSH on embedded hosts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hetero_tui import doctor, prediction_report
from hetero_tui.cluster_session import ClusterSession
from remote.embedded import EmbeddedHost, embedded_hosts
from remote.errors import HostKeyUnknown
from remote.inventory import Cluster, Inventory, Training
from remote.measure import command
from remote.run_dir import RunDir
from remote.speeds import Measured, NotMeasured, read_speeds, speeds_file, write_speeds


async def trust(_: HostKeyUnknown) -> bool:
    return True


@pytest.fixture
def training() -> Training:
    return Training(workload="simple_cnn", global_batch=192, env={"HF_TOKEN_FILE": "/srv/token"})


async def test_speeds_are_simulated_or_measured_and_a_run_keeps_its_prediction(
    tmp_path: Path, training: Training
) -> None:
    async with embedded_hosts([EmbeddedHost("alpha"), EmbeddedHost("beta")]) as cluster:
        hosts = (
            cluster["alpha"].inventory_host(python=sys.executable, simulated_samples_per_second=256.0),
            cluster["beta"].inventory_host(python=sys.executable),
        )
        inventory = Inventory(cluster=Cluster(name="lab"), training=training, hosts=hosts)
        session = ClusterSession(inventory, experiments=tmp_path)
        try:
            await session.connect(trust)
            await session.read_facts()
            with pytest.raises(NotMeasured, match="the speed of beta has not been measured"):
                await session.preflight.predict()
            measured = Measured("simple_cnn", ("cpu",), (((16, 0.25), (64, 0.4)),), 1e9, "")
            write_speeds(speeds_file(tmp_path, "lab"), {"beta": measured})
            found = await session.preflight.predict()
            assert [speed.source for speed in found.speeds] == [
                "simulated in cluster.toml",
                "measured before the launch",
            ]
            assert found.simulated
            assert sum(found.everyone.shares) == 192
            assert found.everyone.communication_seconds is None  # the network has not been probed
            run_dir = RunDir.create(tmp_path, "lab", "20260101-120000-abcd")
            await session.preflight.keep(run_dir)
            told = prediction_report.compared(run_dir.path, 0.5 * found.everyone.samples_per_second)
            assert told is not None
            assert told["measured_over_predicted"] == pytest.approx(0.5, abs=0.001)
            assert "50% of the prediction" in prediction_report.compared_text(told)
            words = command(session.plan().host("beta"))
            assert words[0] == "env"
            assert "trainer.measure" in words
            assert not [word for word in words if "TOKEN" in word]
        finally:
            await session.close()


def test_damaged_measurements_count_as_none(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    path.write_text('{"schema": 1, "hosts": {"a": {"tables": [[[0, 1]]]}, "b": 7}}')
    assert read_speeds(path) == {}
    path.write_text("nonsense")
    assert read_speeds(path) == {}


async def test_the_report_names_nobody_when_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with embedded_hosts([EmbeddedHost("wintermute"), EmbeddedHost("neuromancer")], folder=tmp_path) as cluster:
        tables = []
        for host in cluster.hosts:
            tables.append(
                f'[[hosts]]\nname = "{host.name}"\naddress = "127.0.0.1"\nport = {host.port}\nuser = "molly"\n'
                f'identity_file = "{host.identity_file}"\nhost_key = "{host.host_key}"\nruntime = "process"\n'
                'python = "no-such-python"\nenv = { GREETING = "tessier-ashpool" }\n'
            )
        toml = tmp_path / "cluster.toml"
        toml.write_text('[cluster]\nname = "straylight"\n[training]\nworkload = "simple_cnn"\n' + "\n".join(tables))
        reports = {}
        for redact in (False, True):
            path = tmp_path / f"report-{redact}.md"
            assert await doctor.run(toml, report=path, redact=redact, experiments=tmp_path / "runs") == 0
            reports[redact] = path.read_text()
    plain, redacted = reports[False], reports[True]
    for name in ("wintermute", "neuromancer", "molly", "straylight"):
        assert name in plain
        assert name not in redacted.casefold()
    assert "tessier-ashpool" not in plain + redacted
    assert cluster["wintermute"].host_key not in redacted
    assert "### <host-1>: connected" in redacted
    assert "no-such-python is not there" in redacted
    for section in ("## This machine", "## Inventory", "## Hosts", "## Checks", "## Prediction", "## Last run"):
        assert section in redacted
    block = redacted.split("## Inventory")[1].split("```json\n")[1].split("\n```")[0]
    assert json.loads(block)["hosts"][0]["env"] == "(set)" or json.loads(block)["hosts"][0]["env"] == {
        "GREETING": "(set)"
    }
    assert "written to" in capsys.readouterr().err

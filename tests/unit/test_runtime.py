"""What both runtimes share, and the pure part of the container runtime."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.container import archive, container_config, spec_of
from remote.plan_contract import LABEL_HOST, LABEL_RANKS, LABEL_RUN
from remote.plan_model import HostPlan, RankPlan
from remote.runtime import ControlFiles

PLAN = HostPlan(
    host="alpha",
    runtime="docker",
    ranks=(RankPlan(0, 0, "cuda:0", "GPU-a"), RankPlan(1, 1, "cuda:1", "GPU-b")),
    container_name="hetero-home-run-alpha",
    image="trainer:1",
    argv=("python3", "-m", "trainer", "--epochs", "3"),
    env=(("RANK", "0"), ("WORD", "a=b c")),
    labels=((LABEL_RUN, "forged"), ("mine", "yes")),
    gpu_uuids=("GPU-a", "GPU-b"),
    shm_size=1 << 30,
    mounts=(("/data", "/hetero/data", "ro"), ("/out", "/hetero/output", "rw")),
    user="1000:1000",
)


@given(clock=st.lists(st.integers(0, 2**63), min_size=1, max_size=20))
def test_names_of_control_messages_sort_in_the_order_they_were_sent(clock: list[int]) -> None:
    """Whatever the clock does: it may stand still or go back."""
    ticks = iter(clock)
    files = ControlFiles(clock=lambda: next(ticks))
    names = [files.next({"command": "pause"})[0] for _ in clock]
    assert names == sorted(set(names))
    assert len(names) == len(clock)
    assert all(name.endswith("-pause.json") for name in names)


def test_a_message_that_was_stamped_has_one_name_everywhere() -> None:
    message = {"command": "policy", "policy": "equal", "sent_ns": 1_795_405_393_918_562_356}
    name, data = ControlFiles().next(message)
    assert name == ControlFiles().next(message)[0] == "01795405393918562356-policy.json"
    assert json.loads(data) == message


def test_a_message_behind_a_stamped_one_sorts_behind_it() -> None:
    files = ControlFiles(clock=lambda: 5)
    first, _ = files.next({"command": "pause", "sent_ns": 100})
    assert files.next({"command": "resume"})[0] > first


@pytest.mark.parametrize(
    "message",
    [{}, {"command": 3}, {"command": "../go"}, {"command": "go/"}, {"command": "GO"}, {"command": ""}]
    + [{"command": "go", "sent_ns": bad} for bad in (-1, 10**20, "1", 1.5)],
)
def test_what_is_no_message_gets_no_name(message: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a"):
        ControlFiles().next(message)


@pytest.mark.parametrize("api_version", ["1.41", "1.44", "1.52"])
def test_the_request_for_a_container(api_version: str) -> None:
    config = container_config(spec_of(PLAN, "run-7"), api_version)
    assert config["Image"] == "trainer:1"
    assert config["Entrypoint"] == ["python3"]
    assert config["Cmd"] == ["-m", "trainer", "--epochs", "3"]
    assert sorted(config["Env"]) == ["RANK=0", "WORD=a=b c"]
    assert config["User"] == "1000:1000"
    assert config["Tty"] is False
    assert config["Labels"] == {LABEL_RUN: "run-7", LABEL_HOST: "alpha", LABEL_RANKS: "0,1", "mine": "yes"}
    host = config["HostConfig"]
    assert host["Init"] is True
    assert host["NetworkMode"] == "host"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host.get("AutoRemove", False) is False
    assert host["ShmSize"] == 1 << 30
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "200m", "max-file": "20"}}
    (request,) = host["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-a", "GPU-b"]
    assert request["Capabilities"] == [["gpu"]]
    assert [(each["Source"], each["Target"], each["ReadOnly"]) for each in host["Mounts"]] == [
        ("/data", "/hetero/data", True),
        ("/out", "/hetero/output", False),
    ]
    json.dumps(config)


def test_a_part_without_gpus_asks_for_none() -> None:
    plan = HostPlan("a", "docker", (RankPlan(0, 0, "cpu"),), "n", "i", ("true",), (), ())
    config = container_config(spec_of(plan, "run-7"), "1.41")
    assert "DeviceRequests" not in config["HostConfig"]


def test_a_file_is_packed_so_that_it_appears_complete() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive("/hetero/control/1-go.json", b"{}", 0o644))) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "hetero",
            "hetero/control",
            "hetero/control/.1-go.json.part",
            "hetero/control/1-go.json",
        ]
        assert members[3].islnk()
        assert members[3].linkname == "hetero/control/.1-go.json.part"
        content = tar.extractfile(members[2])
        assert content is not None
        assert content.read() == b"{}"

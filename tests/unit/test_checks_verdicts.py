"""Facts in, verdict out: every judgement of a single host, for each answer it can give."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remote.checks.engine import engine_finding, engine_kind_finding, gpu_kept_finding, no_engine_finding
from remote.checks.gpu import gpu_finding, toolkit_finding
from remote.checks.image import image_finding, same_image_finding
from remote.checks.model import Finding, Verdict
from remote.checks.platforms import shell_finding
from remote.checks.reach import (
    clock_finding,
    connection_finding,
    duplicates_finding,
    power_finding,
    system_finding,
)
from remote.checks.resources import GIB, disk_finding, memory_finding
from remote.checks.script import QUESTION as SCRIPT_QUESTION
from remote.checks.script import script_finding
from remote.checks.systems import open_ports
from remote.engine import ImageInfo
from remote.errors import ConnectError, EngineError, HostKeyChanged, HostKeyUnknown, HostUnreachable, LoginRefused
from remote.facts import EngineSocket, Facts, Gpu
from remote.inventory import Cluster, Host, Image, Inventory
from remote.runner import Completed
from remote.shells import LoginShell

LINUX = Facts(
    host="pc1",
    system="Linux",
    distribution="ubuntu 24.04",
    architecture="x86_64",
    user="ada",
    machine_id="m1",
    memory_total=32 * GIB,
    memory_available=24 * GIB,
    disk_free=100 * GIB,
    disk_path="/var/lib/docker",
)
GPU = Gpu(0, "RTX 4090", "GPU-1", 24 * GIB, "570.1", "8.9")
HOST = Host(name="pc1", address="10.0.0.5", user="ada")
INVENTORY = Inventory(
    cluster=Cluster(name="c"), image=Image(ref="img:1"), hosts=(HOST, Host(name="pc2"), Host(name="pc3", port=2222))
)


def commands(finding: Finding) -> str:
    assert finding.fix is not None
    return "\n".join(finding.fix.commands)


@pytest.mark.parametrize(
    ("error", "word", "command"),
    [
        (
            HostKeyUnknown(host="pc1", fingerprint="SHA256:abc", key_type="ssh-ed25519", known_hosts_line="x"),
            "SHA256:abc",
            "ssh-keygen -lf",
        ),
        (
            HostKeyChanged("differs", host="pc1", next_step="compare: ssh-keygen -R '[10.0.0.5]:23' -f '/x'"),
            "changed",
            "ssh-keygen -R '[10.0.0.5]:23' -f '/x'",
        ),
        (LoginRefused("no key accepted", host="pc1"), "login refused", "ssh-copy-id ada@10.0.0.5"),
        (HostUnreachable("no answer", host="pc1"), "not reachable", "ssh -v ada@10.0.0.5 true"),
    ],
)
def test_each_way_to_have_no_connection_has_its_own_fix(error: ConnectError, word: str, command: str) -> None:
    finding = connection_finding(HOST, error)
    assert finding.verdict is Verdict.FAIL
    assert word in finding.reason
    assert command in commands(finding)


@pytest.mark.parametrize(
    ("shell", "runtime", "verdict"),
    [
        ("posix", "process", Verdict.OK),
        ("cmd", "docker", Verdict.OK),
        ("powershell", "docker", Verdict.OK),
        ("cmd", "process", Verdict.FAIL),
        ("powershell", "process", Verdict.FAIL),
    ],
)
def test_shells(shell: LoginShell, runtime: str, verdict: Verdict) -> None:
    host = HOST.model_copy(update={"runtime": runtime})
    finding = shell_finding(host, replace(LINUX, login_shell=shell))
    assert finding.verdict is verdict
    if verdict is Verdict.FAIL:
        assert "wsl.exe" in commands(finding)


@pytest.mark.parametrize(
    ("changes", "runtime", "verdict", "words"),
    [
        ({}, "docker", Verdict.OK, ""),
        ({"architecture": "aarch64"}, "docker", Verdict.OK, ""),
        ({"architecture": "armv7l"}, "docker", Verdict.FAIL, "no torch wheels"),
        ({"system": "FreeBSD"}, "process", Verdict.FAIL, "not supported"),
        ({"system": "Darwin", "architecture": "arm64"}, "process", Verdict.OK, ""),
        ({"system": "Darwin", "architecture": "arm64"}, "docker", Verdict.WARN, "virtual machine"),
        ({"system": "Windows"}, "docker", Verdict.WARN, "Docker Desktop's virtual machine"),
        ({"system": "Windows"}, "process", Verdict.FAIL, "Linux and macOS only"),
        ({"wsl": True}, "docker", Verdict.WARN, "not known"),
        ({"wsl": True, "address": "172.28.4.2"}, "docker", Verdict.WARN, "NAT mode"),
        ({"wsl": True, "wsl_networking": "nat"}, "docker", Verdict.WARN, "NAT mode"),
        ({"wsl": True, "wsl_networking": "virtioproxy"}, "process", Verdict.WARN, "virtioproxy"),
        ({"wsl": True, "wsl_networking": "mirrored"}, "docker", Verdict.OK, "mirrored"),
        ({"system": ""}, "docker", Verdict.UNKNOWN, ""),
        ({"architecture": ""}, "docker", Verdict.UNKNOWN, ""),
    ],
)
def test_systems(changes: dict[str, Any], runtime: str, verdict: Verdict, words: str) -> None:
    host = HOST.model_copy(update={"runtime": runtime})
    finding = system_finding(host, replace(LINUX, **changes))
    assert finding.verdict is verdict
    assert words in finding.reason


@pytest.mark.parametrize(
    ("ids", "loopback", "verdict", "words"),
    [
        (("m1", "m2", "m3"), False, Verdict.OK, "own"),
        (("m1", "m2", "m1"), False, Verdict.FAIL, "a = c"),
        (("m1", "m1", "m1"), True, Verdict.OK, "as meant"),
        (("", "", "m1"), False, Verdict.UNKNOWN, "a, b"),
        (("m1", "", "m2"), False, Verdict.OK, "own"),
        (("m1",), False, Verdict.OK, "one host"),
    ],
)
def test_duplicates(ids: tuple[str, ...], loopback: bool, verdict: Verdict, words: str) -> None:
    facts = {name: replace(LINUX, host=name, machine_id=each) for name, each in zip("abc", ids, strict=False)}
    finding = duplicates_finding(facts, loopback=loopback)
    assert finding.verdict is verdict
    assert words in finding.reason


@pytest.mark.parametrize(
    ("offset", "round_trip", "verdict"),
    [(0.2, 0.01, Verdict.OK), (-0.9, 0.01, Verdict.OK), (-3.0, 0.01, Verdict.WARN), (1.5, 1.0, Verdict.OK)],
)
def test_clock_is_judged_beyond_what_the_round_trip_can_explain(
    offset: float, round_trip: float, verdict: Verdict
) -> None:
    assert clock_finding(replace(LINUX, clock_offset=offset, round_trip=round_trip)).verdict is verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("system=Linux\nmains=1\nlid=open\n", Verdict.OK),
        ("system=Linux\nmains=none\n", Verdict.OK),
        ("system=Linux\nmains=0\nlid=open\n", Verdict.WARN),
        ("system=Linux\nmains=1\nlid=closed\n", Verdict.WARN),
        ("system=Darwin\nmains=0\n", Verdict.WARN),
        ("", Verdict.UNKNOWN),
    ],
)
def test_power(reply: str, verdict: Verdict) -> None:
    assert power_finding("pc1", reply).verdict is verdict


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("28.2.2", Verdict.OK), ("20.10.24+dfsg1", Verdict.OK), ("19.03.15", Verdict.FAIL), ("", Verdict.UNKNOWN)],
)
def test_engine_versions(version: str, verdict: Verdict) -> None:
    assert engine_finding(LINUX, {"Version": version, "ApiVersion": "1.41"}).verdict is verdict


@pytest.mark.parametrize(
    ("changes", "reason", "command"),
    [
        (
            {
                "engine_sockets": (EngineSocket("/var/run/docker.sock", writable=False),),
                "docker_cli": "/usr/bin/docker",
            },
            "ada may not use the engine's socket /var/run/docker.sock",
            "sudo usermod -aG docker ada",
        ),
        ({"docker_cli": "/usr/bin/docker"}, "does not answer", "sudo systemctl enable --now docker"),
        ({"docker_cli": "/usr/bin/docker", "distribution": "alpine 3.20"}, "does not answer", "sudo rc-service docker"),
        ({"docker_cli": "/opt/homebrew/bin/docker", "system": "Darwin"}, "does not answer", "open -a Docker"),
        ({}, "no Docker Engine was found", "sudo apt-get update && sudo apt-get install -y docker.io"),
        ({"distribution": "fedora 42"}, "no Docker Engine was found", "sudo dnf install -y moby-engine"),
        ({"distribution": "arch "}, "no Docker Engine was found", "sudo pacman -S --needed docker"),
    ],
)
def test_each_way_to_have_no_engine_has_its_own_fix(changes: dict[str, Any], reason: str, command: str) -> None:
    finding = no_engine_finding(replace(LINUX, **changes), EngineError("no", host="pc1"))
    assert finding.verdict is Verdict.FAIL
    assert reason in finding.reason
    assert command in commands(finding)


def test_a_hostile_user_name_stays_one_word_in_a_fix() -> None:
    facts = replace(LINUX, user="ada; rm -rf ~", engine_sockets=(EngineSocket("/var/run/docker.sock", writable=False),))
    finding = no_engine_finding(facts, EngineError("no", host="pc1"))
    assert commands(finding) == "sudo usermod -aG docker 'ada; rm -rf ~'"


@pytest.mark.parametrize(
    ("info", "wants_gpu", "verdict"),
    [
        ({"OperatingSystem": "Debian GNU/Linux 12"}, True, Verdict.OK),
        ({"OperatingSystem": "Docker Desktop"}, False, Verdict.WARN),
        ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, False, Verdict.WARN),
        ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, True, Verdict.FAIL),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, False, Verdict.OK),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, True, Verdict.WARN),
    ],
)
def test_kinds_of_engine(info: dict[str, Any], wants_gpu: bool, verdict: Verdict) -> None:
    assert engine_kind_finding(LINUX, info, has_gpu_ranks=wants_gpu).verdict is verdict


@pytest.mark.parametrize(
    ("free", "runtime", "present", "verdict"),
    [
        (100 * GIB, "docker", False, Verdict.OK),
        (4 * GIB, "docker", True, Verdict.OK),
        (4 * GIB, "docker", False, Verdict.WARN),
        (4 * GIB, "docker", None, Verdict.WARN),
        (4 * GIB, "process", None, Verdict.OK),
        (GIB // 2, "docker", True, Verdict.FAIL),
        (GIB // 2, "process", None, Verdict.FAIL),
    ],
)
def test_disk(free: int, runtime: str, present: bool | None, verdict: Verdict) -> None:
    assert disk_finding(replace(LINUX, disk_free=free), runtime, present).verdict is verdict


def test_disk_that_nobody_told_is_unknown() -> None:
    assert disk_finding(Facts(host="pc1"), "docker", image_present=True).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("total", "available", "engine_total", "verdict"),
    [
        (32 * GIB, 24 * GIB, 32 * GIB, Verdict.OK),
        (32 * GIB, 24 * GIB, 8 * GIB, Verdict.WARN),
        (8 * GIB, GIB + 1, 0, Verdict.WARN),
        (8 * GIB, GIB // 2, 0, Verdict.FAIL),
        (8 * GIB, 0, 0, Verdict.OK),
        (0, 0, 0, Verdict.UNKNOWN),
    ],
)
def test_memory(total: int, available: int, engine_total: int, verdict: Verdict) -> None:
    facts = replace(LINUX, memory_total=total, memory_available=available)
    assert memory_finding(facts, {"MemTotal": engine_total}).verdict is verdict
    if engine_total == 0:
        assert memory_finding(facts, None).verdict is verdict


@pytest.mark.parametrize(
    ("devices", "gpus", "error", "verdict", "words"),
    [
        ("auto", (GPU,), "", Verdict.OK, "1 × RTX 4090"),
        ("auto", (), "", Verdict.SKIP, "CPU"),
        ("cpu", (GPU,), "", Verdict.SKIP, "CPU"),
        ("cpu", (), "nvidia-smi exited 9", Verdict.SKIP, "cpu"),
        ("auto", (), "nvidia-smi exited 9: NVML", Verdict.FAIL, "NVML"),
        ("auto", (), "Failed to initialize NVML: Driver/library version mismatch", Verdict.FAIL, "upgraded"),
        ((0,), (), "", Verdict.FAIL, "none is there"),
        ((0, 3), (GPU,), "", Verdict.FAIL, "GPU 3 is not there"),
        (("GPU-1",), (GPU,), "", Verdict.OK, "RTX"),
    ],
)
def test_gpus(devices: Any, gpus: tuple[Gpu, ...], error: str, verdict: Verdict, words: str) -> None:
    host = HOST.model_copy(update={"devices": devices})
    finding = gpu_finding(host, replace(LINUX, gpus=gpus, gpu_error=error))
    assert finding.verdict is verdict
    assert words in finding.reason


@pytest.mark.parametrize(
    ("info", "toolkit", "verdict"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "", Verdict.OK),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]}, "", Verdict.OK),
        ({"Runtimes": {"runc": {}}}, "NVIDIA Container Toolkit CLI version 1.17", Verdict.WARN),
        ({"Runtimes": {"runc": {}}}, "", Verdict.FAIL),
    ],
)
def test_toolkit(info: dict[str, Any], toolkit: str, verdict: Verdict) -> None:
    finding = toolkit_finding(replace(LINUX, nvidia_container_toolkit=toolkit), info)
    assert finding.verdict is verdict
    if verdict is Verdict.FAIL:
        assert "signed-by" in commands(finding)


@pytest.mark.parametrize(
    ("driver", "links", "verdict"),
    [
        ("cgroupfs", "0\n", Verdict.OK),
        ("systemd", "6\n", Verdict.OK),
        ("systemd", "0\n", Verdict.WARN),
        ("systemd", "ls: no\n", Verdict.WARN),
    ],
)
def test_gpus_stay_in_their_containers(driver: str, links: str, verdict: Verdict) -> None:
    finding = gpu_kept_finding("pc1", {"CgroupDriver": driver}, links)
    assert finding.verdict is verdict
    if verdict is Verdict.WARN:
        assert "create-dev-char-symlinks" in commands(finding)


def script_said(text: str, path: str = "/app/train.py") -> Finding:
    return script_finding("pc1", path, "img:1", Completed("pc1", "script", 0, text, ""))


def test_the_script_is_there_with_what_it_imports_or_it_is_said_why_not() -> None:
    assert script_said('HETERO {"missing": []}').verdict is Verdict.OK
    assert "imports einops, wandb" in script_said('HETERO {"missing": ["einops", "wandb"]}').reason
    hidden = script_said('motd\nHETERO {"problem": "No such file or directory"}', "/hetero/data/train.py")
    assert "data_dir is mounted over /hetero/data and hides" in hidden.reason
    assert "hides" not in script_said('HETERO {"problem": "No such file or directory"}').reason
    assert script_said('HETERO {"syntax": "invalid syntax"}').verdict is Verdict.FAIL
    assert [script_said(text).verdict for text in ("", "HETERO {", "HETERO 7")] == [Verdict.UNKNOWN] * 3


def test_the_script_s_question_runs_nothing_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit('was run')")
    script = tmp_path / "train.py"
    lines = (
        "import json, beside",
        "from no_such_thing.deep import x",
        "try:\n    import optional_thing\nexcept ImportError:\n    pass",
        "raise SystemExit('was run')",
    )
    script.write_text("\n".join(lines))
    said = subprocess.run([sys.executable, "-c", SCRIPT_QUESTION, script], capture_output=True, text=True, check=True)
    assert script_said(said.stdout).reason.startswith("/app/train.py imports no_such_thing, which")


def image(digest: str = "sha256:1", architecture: str = "amd64", ref: str = "img:1") -> ImageInfo:
    return ImageInfo(ref, "sha256:id", digest, ("a",), architecture, "linux", 10**9)


@pytest.mark.parametrize(
    ("architecture", "found", "verdict", "words"),
    [
        ("x86_64", image(), Verdict.OK, "1.00 GB"),
        ("x86_64", None, Verdict.FAIL, "img:1 is not on the host"),
        ("aarch64", image(), Verdict.FAIL, "made for amd64; the host is arm64"),
        ("aarch64", image(architecture="arm64"), Verdict.OK, "img:1"),
    ],
)
def test_images(architecture: str, found: ImageInfo | None, verdict: Verdict, words: str) -> None:
    finding = image_finding(INVENTORY, replace(LINUX, architecture=architecture), "img:1", found)
    assert finding.verdict is verdict
    assert words in finding.reason
    if architecture == "aarch64" and verdict is Verdict.FAIL:
        assert "--platform linux/arm64" in commands(finding)


def test_same_image_names_who_differs_from_the_master() -> None:
    finding = same_image_finding(INVENTORY, {"pc1": image(), "pc2": image("sha256:2"), "pc3": image("sha256:2")})
    assert finding.verdict is Verdict.FAIL
    assert "not the same on pc2, pc3 as on pc1" in finding.reason
    assert commands(finding).splitlines() == [
        "ssh ada@10.0.0.5 'docker save img:1 | gzip -1' | ssh pc2 'docker load'",
        "ssh ada@10.0.0.5 'docker save img:1 | gzip -1' | ssh -p 2222 pc3 'docker load'",
    ]


def test_images_of_other_variants_and_processors_are_not_compared() -> None:
    images = {"pc1": image(), "pc2": image("sha256:2", "arm64"), "pc3": image("sha256:3", ref="img:cuda")}
    assert same_image_finding(INVENTORY, images).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"firewalls": ("ufw",)}, "sudo ufw allow proto tcp from 10.0.0.2 to any port 29900:29950"),
        ({"firewalls": ("firewalld",)}, 'source address="10.0.0.2" port port="29900-29950"'),
        ({"firewalls": ("nftables",)}, "ip saddr 10.0.0.2 tcp dport 29900-29950 accept"),
        ({"firewalls": ("iptables",)}, "sudo iptables -I INPUT -p tcp -s 10.0.0.2 --dport 29900:29950 -j ACCEPT"),
        ({"system": "Darwin"}, "socketfilterfw --unblockapp"),
        ({"wsl": True}, "New-NetFirewallHyperVRule"),
        ({}, "sudo nft list ruleset"),
    ],
)
def test_ports_are_opened_in_the_firewall_that_was_found(changes: dict[str, Any], command: str) -> None:
    fix = open_ports(replace(LINUX, **changes), "29900-29950", ("10.0.0.2",))
    assert command in "\n".join(fix.commands)
    assert fix.host == "pc1"
    assert fix.needs_root

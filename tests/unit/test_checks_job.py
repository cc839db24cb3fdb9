from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remote.checks.gpu import cuda_finding
from remote.checks.image import registry_finding, registry_of
from remote.checks.job import (
    LOAD_QUESTION,
    OUTPUT_QUESTION,
    environment_finding,
    gpu_use_finding,
    limits_finding,
    load_finding,
    output_finding,
)
from remote.checks.model import Verdict
from remote.checks.network_report import HostReport
from remote.facts import Facts, Gpu
from remote.runner import Completed

FACTS = Facts(host="pc1", system="Linux", distribution="debian 12", cpu_count=8)
PLACE = HostReport("pc1", "container", shared_memory=1 << 30, open_files=65536)


def ask(question: str, path: Path) -> str:
    return subprocess.run(
        ["/bin/sh", "-s", "--", str(path)], input=question, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("system", "changes", "verdict"),
    [
        ("Linux", {}, Verdict.OK),
        ("Linux", {"shared_memory": 64 << 20}, Verdict.WARN),
        ("Darwin", {"shared_memory": 0}, Verdict.OK),
        ("Linux", {"open_files": 256}, Verdict.WARN),
        ("Linux", {"open_files": -1}, Verdict.OK),
    ],
)
def test_limits(system: str, changes: dict[str, Any], verdict: Verdict) -> None:
    assert limits_finding(replace(FACTS, system=system), replace(PLACE, **changes)).verdict is verdict


@pytest.mark.parametrize(
    ("environment", "verdict"),
    [
        ({}, Verdict.OK),
        ({"RANK": "3", "https_proxy": "set", "NCCL_VERSION": "2.21"}, Verdict.OK),
        ({"NCCL_SOCKET_IFNAME": "wlp3s0"}, Verdict.WARN),
    ],
)
def test_environments(environment: dict[str, str], verdict: Verdict) -> None:
    finding = environment_finding("pc1", replace(PLACE, environment=environment), frozenset({"RANK"}))
    assert finding.verdict is verdict
    if verdict is Verdict.WARN:
        assert "NCCL_SOCKET_IFNAME" in finding.reason
        assert "the image" in finding.reason


def test_output_folders(tmp_path: Path) -> None:
    assert output_finding("pc1", "/x", "docker", ask(OUTPUT_QUESTION, tmp_path)).verdict in {Verdict.OK, Verdict.WARN}
    missing = output_finding("pc1", "/x y", "docker", ask(OUTPUT_QUESTION, tmp_path / "nosuch"))
    assert missing.verdict is Verdict.FAIL
    assert missing.fix is not None
    assert missing.fix.commands == ("mkdir -p '/x y'",)


@pytest.mark.parametrize(
    ("reply", "runtime", "verdict"),
    [
        ("there\nwritable\nend", "docker", Verdict.OK),
        ("there\nend", "docker", Verdict.FAIL),
        ("there\nwritable\nselinux Enforcing\nend", "docker", Verdict.WARN),
        ("there\nwritable\nselinux Enforcing\nend", "process", Verdict.OK),
        ("there\nwritable\nselinux Permissive\nend", "docker", Verdict.OK),
        ("", "docker", Verdict.UNKNOWN),
    ],
)
def test_output_verdicts(reply: str, runtime: str, verdict: Verdict) -> None:
    assert output_finding("pc1", "/x", runtime, reply).verdict is verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("0.52 0.58 0.59 2/1234 5678\n", Verdict.OK),
        (" 6,10 2,00 1,00 ", Verdict.WARN),
        ("5.00 1.0 1.0", Verdict.WARN),
        ("", Verdict.UNKNOWN),
    ],
)
def test_loads(reply: str, verdict: Verdict) -> None:
    assert load_finding(FACTS, reply).verdict is verdict


def test_this_machine_tells_its_load() -> None:
    reply = subprocess.run(["/bin/sh", "-c", LOAD_QUESTION], capture_output=True, text=True, check=True).stdout
    assert load_finding(FACTS, reply).verdict is not Verdict.UNKNOWN


GPU_FACTS = replace(FACTS, gpus=(Gpu(0, "RTX 3060", "GPU-1", 12 << 30, "550", "8.6"),))


@pytest.mark.parametrize(
    ("reply", "status", "verdict", "words"),
    [
        ("GPU-1, 300, 12288, 0x0000000000000000, 41, 16, 16\n", 0, Verdict.OK, "free"),
        ("GPU-1, 9000, 12288, 0x0000000000000000, 41, 16, 16\n", 0, Verdict.WARN, "GPU 0: 8.8 of 12.0 GiB in use"),
        ("GPU-1, 300, 12288, 0x0000000000000040, 93, 16, 16\n", 0, Verdict.WARN, "too hot (hardware) at 93"),
        ("GPU-1, [N/A], [N/A], [N/A], 41, [N/A], [N/A]\n", 0, Verdict.OK, "free"),
        ("Failed to initialize NVML", 255, Verdict.UNKNOWN, "did not answer"),
    ],
)
def test_gpu_use(reply: str, status: int, verdict: Verdict, words: str) -> None:
    finding = gpu_use_finding(GPU_FACTS, reply, status)
    assert finding.verdict is verdict
    assert words in finding.reason


HEADER = "| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4     |"


@pytest.mark.parametrize(
    ("env", "header", "verdict"),
    [
        (("NVIDIA_REQUIRE_CUDA=cuda>=12.4",), HEADER, Verdict.OK),
        (("NVIDIA_REQUIRE_CUDA=cuda>=12.8",), HEADER, Verdict.FAIL),
        (("NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=tesla,driver>=535",), HEADER, Verdict.WARN),
        (("NVIDIA_REQUIRE_CUDA=cuda>=13.0",), HEADER, Verdict.FAIL),
        (("NVIDIA_REQUIRE_CUDA=cuda>=12.8",), "NVML broke", Verdict.UNKNOWN),
        (("PATH=/bin",), HEADER, Verdict.SKIP),
    ],
)
def test_cuda(env: tuple[str, ...], header: str, verdict: Verdict) -> None:
    assert cuda_finding(FACTS, env, header, "img").verdict is verdict


@pytest.mark.parametrize(
    ("ref", "registry"),
    [
        ("hetero", "registry-1.docker.io"),
        ("me/hetero:1", "registry-1.docker.io"),
        ("ghcr.io/me/hetero:1", "ghcr.io"),
        ("master:5000/hetero", "master:5000"),
        ("localhost/hetero", "localhost"),
    ],
)
def test_registries_of_references(ref: str, registry: str) -> None:
    assert registry_of(ref) == registry


@pytest.mark.parametrize(
    ("stdout", "status", "verdict", "words"),
    [
        ("401", 0, Verdict.OK, "answers"),
        ("200", 0, Verdict.OK, "answers"),
        ("429", 0, Verdict.WARN, "enough"),
        ("000curl: (35) error:0A00010B:SSL routines::wrong version number", 35, Verdict.WARN, "HTTP"),
        ("000curl: (6) Could not resolve host: ghcr.io", 6, Verdict.WARN, "cannot be reached"),
        ("", 127, Verdict.UNKNOWN, "no curl"),
    ],
)
def test_registries(stdout: str, status: int, verdict: Verdict, words: str) -> None:
    finding = registry_finding("pc1", "ghcr.io", Completed("pc1", "curl", status, stdout, ""))
    assert finding.verdict is verdict
    assert words in finding.reason

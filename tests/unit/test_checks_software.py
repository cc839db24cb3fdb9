from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from remote.checks.model import Verdict
from remote.checks.software import Bed, same_software_finding, software_finding
from remote.checks.software_report import QUESTION, Software, read_software
from remote.facts import Facts, Gpu
from remote.runner import Completed

FACTS = Facts(host="pc1", system="Linux", distribution="debian 12")
GPU = Gpu(0, "RTX 5090", "GPU-1", 32 << 30, "570.1", "12.0")
PROCESS = Bed(FACTS, "/home/ada/venv/bin/python")
GPU_BED = Bed(replace(FACTS, gpus=(GPU,)), "/home/ada/venv/bin/python", wants_gpu=True)
IMAGE = Bed(FACTS, "python3", image="img:1")


def said(**changes: Any) -> str:
    answer = {"python": "3.12.1", "torch": "2.13.0+cpu", "trainer": "0.1", "cuda": "", "devices": {"cpu": ""}}
    return f"motd\nHETERO {json.dumps(answer | changes)}\n"


@pytest.mark.parametrize(
    ("bed", "output", "verdict", "words"),
    [
        (PROCESS, said(), Verdict.OK, "torch 2.13.0+cpu"),
        (PROCESS, said(python="3.8.10"), Verdict.FAIL, "3.8.10"),
        (PROCESS, said(torch="", torch_error="ImportError: libcudart"), Verdict.FAIL, "libcudart"),
        (PROCESS, said(trainer="", trainer_error="No module"), Verdict.FAIL, "cannot import the trainer"),
        (PROCESS, said(distributed=False), Verdict.FAIL, "torch.distributed"),
        (PROCESS, said(devices={"cpu": "RuntimeError: illegal instruction"}), Verdict.FAIL, "illegal instruction"),
        (GPU_BED, said(), Verdict.FAIL, "knows no CUDA"),
        (GPU_BED, said(cuda="12.6"), Verdict.FAIL, "sees no GPU"),
        (GPU_BED, said(cuda="12.6", devices={"cpu": "", "cuda:0": ""}), Verdict.OK, "1 GPU"),
        (
            GPU_BED,
            said(cuda="12.6", architectures=["sm_90"], devices={"cpu": "", "cuda:0": "CUDA error: no kernel image"}),
            Verdict.FAIL,
            "the build has sm_90",
        ),
        (replace(GPU_BED, wants_gpu=False), said(cuda="12.6", devices={"cpu": "", "cuda:0": "x"}), Verdict.OK, "alone"),
        (IMAGE, said(), Verdict.OK, "torch"),
        (IMAGE, said(python="3.8.10"), Verdict.FAIL, "img:1"),
        (IMAGE, "nothing of ours", Verdict.UNKNOWN, "cannot be read"),
    ],
)
def test_software(bed: Bed, output: str, verdict: Verdict, words: str) -> None:
    finding = software_finding(bed, Completed("pc1", "python -", 0, output, ""), read_software(output))
    assert finding.verdict is verdict
    assert words in finding.reason
    if verdict is Verdict.FAIL:
        assert finding.fix is not None
        assert finding.fix.host == "pc1"


@pytest.mark.parametrize(("status", "words"), [(127, "is not there"), (139, "broke while importing")])
@pytest.mark.parametrize("bed", [PROCESS, IMAGE])
def test_a_python_that_ends_badly(bed: Bed, status: int, words: str) -> None:
    finding = software_finding(bed, Completed("pc1", "python -", status, "", "boom"), None)
    assert finding.verdict is Verdict.FAIL
    assert words in finding.reason
    assert "boom" in finding.evidence


@pytest.mark.parametrize("output", ["", "HETERO {broken", "HETERO []", 'HETERO {"torch": "2"}', 'HETERO {"python": 3}'])
def test_what_is_no_answer_is_none(output: str) -> None:
    assert read_software(output) is None


@pytest.mark.slow
def test_the_question_is_answered_by_a_real_python() -> None:
    completed = subprocess.run([sys.executable, "-"], input=QUESTION, capture_output=True, text=True, check=True)
    software = read_software(completed.stdout)
    assert software is not None
    assert software.torch
    assert software.trainer
    assert ("cpu", "") in software.devices


CPU = Software("3.12", torch="2.13.0+cpu")
CUDA = Software("3.12", torch="2.13.0+cu126", nccl="2.27.3")


@pytest.mark.parametrize(
    ("software", "verdict", "words"),
    [
        ({"a": CPU, "b": CUDA}, Verdict.OK, "torch 2.13.0 on all"),
        ({"a": CPU, "b": replace(CPU, torch="2.13.1")}, Verdict.WARN, "2.13.0 on a; 2.13.1 on b"),
        ({"a": CPU, "b": replace(CPU, torch="2.12.0")}, Verdict.FAIL, "2.12.0 on b"),
        ({"a": CUDA, "b": replace(CUDA, nccl="2.21.5")}, Verdict.FAIL, "NCCL"),
        ({"a": CPU}, Verdict.OK, "one host"),
    ],
)
def test_same_software(software: dict[str, Software], verdict: Verdict, words: str) -> None:
    finding = same_software_finding(software)
    assert finding.verdict is verdict
    assert words in finding.reason

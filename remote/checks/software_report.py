"""What a Python said of the software the ranks will run on. Standard library only, sent as a script and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

QUESTION = """
import json, sys
# As with -P, which only Python 3.11 knows: a trainer.py in the current folder is not what the ranks will run.
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
said = {"python": sys.version.split()[0]}
for name in ("torch", "trainer"):
    try:
        module = __import__(name)
        said[name] = str(getattr(module, "__version__", "there"))
    except BaseException as error:
        said[name + "_error"] = "%s: %s" % (type(error).__name__, error)
if "torch" in said:
    import torch
    said["distributed"] = torch.distributed.is_available()
    said["cuda"] = torch.version.cuda or torch.version.hip or ""
    devices = ["cpu"]
    if torch.cuda.is_available():
        said["architectures"] = torch.cuda.get_arch_list()
        devices += ["cuda:%d" % index for index in range(torch.cuda.device_count())]
        if torch.distributed.is_available() and torch.distributed.is_nccl_available():
            said["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        devices.append("mps")
    said["devices"] = {}
    for device in devices:
        try:
            ones = torch.ones(64, 64, device=device)
            right = float((ones @ ones).sum()) == 64.0 ** 3
            said["devices"][device] = "" if right else "a multiplication gave a wrong result"
        except Exception as error:
            said["devices"][device] = "%s: %s" % (type(error).__name__, str(error).splitlines()[0])
print("\\nHETERO " + json.dumps(said))
"""
"""Imports what the ranks import and multiplies on every device, in one process; tells each failure by itself."""
_MARK = "HETERO "


@dataclass(frozen=True, slots=True)
class Software:
    """What the ranks of one host will run on."""

    python: str
    torch: str = ""
    torch_error: str = ""
    trainer: str = ""
    trainer_error: str = ""
    distributed: bool = True
    cuda: str = ""
    """CUDA (or ROCm) version torch was built for; empty for a build without."""
    nccl: str = ""
    architectures: tuple[str, ...] = ()
    """GPU architectures in the build, such as ``sm_90``."""
    devices: tuple[tuple[str, str], ...] = ()
    """(torch device, what went wrong on it or an empty string)."""


def read_software(output: str) -> Software | None:
    """Find the answer among whatever else was printed; None when it is not there or broken."""
    line = next((each for each in reversed(output.splitlines()) if each.startswith(f"{_MARK}{{")), "")
    try:
        said = json.loads(line.removeprefix(_MARK)) if line else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("python"), str):
        return None
    devices, architectures = said.get("devices"), said.get("architectures")
    return Software(
        python=said["python"],
        torch=_text(said, "torch"),
        torch_error=_text(said, "torch_error"),
        trainer=_text(said, "trainer"),
        trainer_error=_text(said, "trainer_error"),
        distributed=said.get("distributed") is not False,
        cuda=_text(said, "cuda"),
        nccl=_text(said, "nccl"),
        architectures=tuple(map(str, architectures)) if isinstance(architectures, list) else (),
        devices=tuple((str(name), str(error)) for name, error in devices.items()) if isinstance(devices, dict) else (),
    )


def _text(said: dict[str, Any], name: str) -> str:
    return str(said.get(name) or "")[:400]

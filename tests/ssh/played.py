"""Hosts of other systems, played from ``tests/transcripts``: each answer there names where it was taken from.

A POSIX host runs the real facts script: programs that the transcript tells of answer in place of this machine's, and
the script's absolute paths lead into a folder that holds the transcript's files. Windows has no script that could be
run here, so its answers are played whole.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote.embedded import Answer, EmbeddedHost

FOLDER = Path(__file__).resolve().parents[1] / "transcripts"
ENCODED = re.compile(r"powershell -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand ([A-Za-z0-9+/=]+)")
_DIAL_STDIO = '[ "$*" = "-H npipe:////./pipe/docker_engine system dial-stdio" ] || exit 64'
CMD_LIMIT = 8191
"""Characters of a command line that cmd.exe takes."""
BORROWED = ("sh", "cat", "sed", "awk", "grep", "head", "tr", "ls", "date", "df")
"""Programs that are this machine's own unless the transcript has them; POSIX says what they do."""
LINUX_FILES = ("/proc/uptime", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu/online")
_ABSOLUTE = re.compile(r"""(?<=[\s":=<(])/(?=(?:etc|proc|sys|run|var|Applications|usr|opt|sbin|snap|dev/kfd)\b)""")


def transcript(name: str) -> dict[str, Any]:
    """Read a transcript."""
    with (FOLDER / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def names() -> list[str]:
    """Every transcript there is."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@dataclass(slots=True)
class Played:
    """A host that answers as its transcript says."""

    spec: EmbeddedHost
    told: dict[str, Any]
    engine_socket: Path
    """Where a test may let an engine listen, for hosts whose engine is reached through their docker client."""
    asked: list[str] = field(default_factory=list)


@contextmanager
def played(name: str, folder: Path) -> Iterator[Played]:
    """Set up a host for ``embedded_hosts``; ``folder`` must be short, for sockets have short names."""
    told = transcript(name)
    with ExitStack() as stack:
        engine = folder / "e.sock"
        asked: list[str] = []
        if told["shell"] in ("cmd", "powershell"):
            tools = folder / "tools"
            tools.mkdir()
            # What was asked of docker is the stand-in's to check: it takes the words that a real one would take.
            relay = Path(__file__).with_name("relay.py")
            _program(tools / "docker", f"{_DIAL_STDIO}\nexec {sys.executable} {relay} {engine}")
            spec = EmbeddedHost(
                name,
                respond=lambda command, data: _windows(told, asked, command, data),
                live="docker -H npipe:",
                env={"PATH": f"{tools}:{os.environ['PATH']}"},
            )
        else:
            root = _root(told, folder / "root", stack)
            spec = EmbeddedHost(name, respond=lambda command, data: _posix(root, asked, command, data))
        yield Played(spec, told, engine, asked)


def _program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _root(told: dict[str, Any], root: Path, stack: ExitStack) -> Path:
    """Make the folder that stands for the host's file system."""
    programs = root / "usr" / "bin"
    programs.mkdir(parents=True)
    (root / "home").mkdir()
    for name in BORROWED:
        (programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    tools: dict[str, list[dict[str, Any]]] = {"id": [{"args": "", "stdout": "uid=1000(ana) gid=1000(ana)"}]}
    for tool in told.get("tool", ()):
        tools.setdefault(tool["name"], [])
        tools[tool["name"]].append(tool)
    if any(tool["name"] == "id" for tool in told.get("tool", ())):
        del tools["id"][0]
    for name, answers in tools.items():
        (programs / name).unlink(missing_ok=True)
        _program(programs / name, _cases(root / "said" / name, answers))
    if "Linux" in tools["uname"][0]["stdout"]:
        for real in LINUX_FILES:
            _place(root, real).symlink_to(real)
        _place(root, "/etc/machine-id").write_text("0123456789abcdef\n")
    for file in told.get("file", ()):
        path = _place(root, file["path"])
        path.write_text(file["text"].lstrip("\n"))
        path.chmod(file.get("mode", 0o644))
    for each in told.get("socket", ()):
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(_place(root, each["path"])))
    return root


def _place(root: Path, path: str) -> Path:
    place = root / path.replace("~", "home").lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _cases(folder: Path, answers: list[dict[str, Any]]) -> str:
    """Write a program that answers by its arguments and does not know any others."""
    folder.mkdir(parents=True)
    lines = ['case "$*" in']
    for number, answer in enumerate(answers):
        (folder / str(number)).write_text(answer["stdout"].lstrip("\n").rstrip("\n") + "\n")
        pattern = "*".join(f"'{part}'" if part else "" for part in answer["args"].split("*")) or "''"
        lines.append(f"{pattern}) /bin/cat {folder / str(number)}; exit {answer.get('exit', 0)} ;;")
    return "\n".join([*lines, "*) exit 64 ;;", "esac"])


def _posix(root: Path, asked: list[str], command: str, data: bytes) -> Answer:
    asked.append(command)
    script = _ABSOLUTE.sub(f"{root}/", data.decode())
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        input=script.encode(),
        capture_output=True,
        timeout=20,
        cwd=root / "home",
        env={"HOME": str(root / "home"), "PATH": str(root / "usr" / "bin"), "USER": "ana"},
    )
    return Answer(done.stdout.replace(str(root).encode(), b""), done.stderr, done.returncode)


def _windows(told: dict[str, Any], asked: list[str], command: str, data: bytes) -> Answer:
    asked.append(command)
    assert len(command) < CMD_LIMIT
    if found := ENCODED.fullmatch(command):
        return _powershell(told["facts"], base64.b64decode(found[1]).decode("utf-16-le"), data.decode())
    for answer in told["answer"]:
        if command.startswith(answer["line"]):
            said = (answer.get("stdout", ""), answer.get("stderr", ""))
            return Answer(said[0].encode(), said[1].encode(), answer.get("exit", 0))
    first = command.split(maxsplit=1)[0]
    return Answer(b"", f"'{first}' is not recognized as an internal or external command,\r\n".encode(), 1)


def _powershell(facts: dict[str, Any], bootstrap: str, data: str) -> Answer:
    """Check what arrives as far as that is possible without a PowerShell, and give the transcript's facts."""
    assert "[Console]::In.ReadToEnd()" in bootstrap
    port, master, script = data.split("\n", 2)
    assert port.isdecimal()
    assert re.fullmatch(r"[\w.:-]*", master)
    assert "param($Port, $Master)" in script
    lines = (FOLDER.parents[1] / facts["output"]).read_text().splitlines()
    kept = [line for line in lines if line.partition("\t")[0] not in facts.get("without", ())]
    return Answer("\r\n".join([*kept, ""]).encode())

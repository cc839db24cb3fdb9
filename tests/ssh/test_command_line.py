"""The commands without a screen over real SSH, real processes and real training: what ``hetero-tui up`` promises."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from remote.embedded import EmbeddedCluster, EmbeddedHost, embedded_hosts
from tests.ssh.checking import free_port

pytestmark = pytest.mark.slow

SPEEDS = {"fast": 400, "middle": 200, "slow": 100}


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class CommandLine:
    """Runs ``hetero-tui`` in a folder with a cluster.toml that names the embedded hosts."""

    folder: Path
    hosts: EmbeddedCluster

    def write_cluster(self, **training: object) -> None:
        lines = ["[cluster]", 'name = "test"', 'master_address = "127.0.0.1"', f"port = {free_port()}", "[training]"]
        settings = {"workload": "simple_cnn", "global_batch": 56, "samples": 560, "epochs": 2} | training
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        for host in self.hosts.hosts:
            entry = host.inventory_host().model_dump(
                include={"name", "address", "port", "user", "identity_file", "host_key", "runtime"}
            )
            entry |= {"python": sys.executable, "devices": "cpu", "simulated_samples_per_second": SPEEDS[host.name]}
            lines += ["[[hosts]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
        (self.folder / "cluster.toml").write_text("\n".join(lines) + "\n")

    async def start(self, command: str, *options: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hetero_tui",
            command,
            "cluster.toml",
            *options,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    async def run(self, command: str, *options: str, timeout: float = 180) -> Answer:
        process = await self.start(command, *options)
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
        return Answer(process.returncode or 0, out.decode(), err.decode())

    def processes_left(self) -> list[str]:
        """Command lines of rank processes whose home is one of the hosts' folders."""
        return [
            line
            for each in Path("/proc").glob("[0-9]*/environ")
            if (line := _environment(each)) and any(str(host.home) in line for host in self.hosts.hosts)
        ]


def _environment(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # ended meanwhile
        return ""


async def line_with(stream: asyncio.StreamReader | None, words: str) -> str:
    """Read up to the line that contains ``words``."""
    assert stream is not None
    async with asyncio.timeout(120):
        while line := (await stream.readline()).decode():
            if words in line:
                return line
    raise AssertionError(f"{words!r} was never said")


@pytest.fixture
async def command_line(tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with embedded_hosts([EmbeddedHost(name) for name in SPEEDS]) as hosts:
        line = CommandLine(tmp_path, hosts)
        line.write_cluster()
        yield line
        await line.run("stop")


async def test_check_is_green_and_plan_says_who_does_what(command_line: CommandLine) -> None:
    checked = await command_line.run("check", "--json")
    assert checked.code == 0, checked.err + checked.out
    assert checked.document["ok"]
    assert {each["verdict"] for each in checked.document["checks"]} <= {"ok", "warn", "skip"}
    planned = await command_line.run("plan", "--json")
    assert planned.code == 0, planned.err
    assert [host["host"] for host in planned.document["plan"]["hosts"]] == ["fast", "middle", "slow"]
    assert planned.document["plan"]["world_size"] == 3


async def test_up_trains_balanced_and_the_loss_falls(command_line: CommandLine) -> None:
    answer = await command_line.run("up", "--json")
    assert answer.code == 0, answer.err
    result = answer.document
    assert result["state"] == "finished"
    assert result["simulated"]
    assert result["steps"] == 20
    assert result["loss"] < result["first_loss"]
    assert result["lost_lines"] == 0
    fast, middle, slow = result["ranks"]
    assert fast["share"] > middle["share"] > slow["share"] > 0
    assert sum(rank["share"] for rank in result["ranks"]) == 56
    assert all(rank["samples_per_second"] > 0 for rank in result["ranks"])
    assert 0 < result["balance"]["total"] <= 1.05
    assert (command_line.folder / "experiments" / "test" / result["run"] / "events.jsonl.gz").stat().st_size > 0


async def test_a_killed_client_leaves_training_and_another_reattaches(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=40)
    client = await command_line.start("up")
    await line_with(client.stderr, "training · step")
    client.kill()
    await client.wait()

    status = await command_line.run("status", "--json")
    assert [run["state"] for run in status.document["runs"]] == ["running"] * 3, status.err

    watcher = await command_line.start("watch")
    await line_with(watcher.stderr, "training · step")
    watcher.send_signal(signal.SIGINT)
    assert await watcher.wait() == 130

    still = await command_line.run("status", "--json")
    assert [run["state"] for run in still.document["runs"]] == ["running"] * 3

    stopped = await command_line.run("stop", "--json")
    assert stopped.code == 0, stopped.err
    assert stopped.document["stopped"] == [status.document["runs"][0]["run"]]
    assert (await command_line.run("status", "--json")).document["runs"] == []
    assert command_line.processes_left() == []


async def test_interrupting_up_stops_the_run_everywhere(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=40)
    client = await command_line.start("up")
    await line_with(client.stderr, "training · step")
    client.send_signal(signal.SIGINT)
    assert await client.wait() == 130
    assert (await command_line.run("status", "--json")).document["runs"] == []
    assert command_line.processes_left() == []


async def test_logs_tell_rank_and_host_of_every_line(command_line: CommandLine) -> None:
    started = await command_line.run("up", "--detach", "--json")
    assert started.code == 0, started.err
    answer = await command_line.run("logs", "--follow", "--rank", "1")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines
    assert all(line.startswith("[rank 1 middle] ") for line in lines)

"""The commands without a screen over real SSH, real processes and real training: what ``hetero-tui up`` promises."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetero_tui.json_documents import DOCUMENTS, validate
from remote.embedded import EmbeddedCluster, EmbeddedHost, embedded_hosts
from remote.run_dir import RunDir
from tests.rig.chaos.invariants import sequences_without_gap
from tests.ssh.checking import free_port
from tests.ssh.spying import files_holding, holding, watched

pytestmark = pytest.mark.slow

WITHOUT_CLUSTER = {"demo", "init", "replay", "report", "runs", "shares"}

SPEEDS = {"fast": 400, "middle": 200, "slow": 100}
PERSONAL = "personal-fLqT81zN"
"""A token in the environment of the person's shell."""
REGISTRY = "registry-Kd02mWvB"
"""A password in the person's Docker configuration."""
FOR_RANKS = "for-ranks-Xy7RpQ4s"
"""A value that the cluster file gives to the ranks."""


@dataclass(frozen=True)
class Answer:
    command: str
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on standard output, which is of the form that its command declares."""
        return self._declared(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The same of a command that prints one document a line."""
        return [self._declared(line) for line in self.out.splitlines()]

    def _declared(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(text)
        validate(self.command, found)
        keys = {key for shape in DOCUMENTS[self.command] for key in shape.__annotations__}
        assert set(found) <= keys, "every key is declared"
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

    async def start(
        self,
        command: str,
        *options: str,
        stdin: int = asyncio.subprocess.DEVNULL,
        stdout: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hetero_tui",
            *command.split(),
            *(() if command in WITHOUT_CLUSTER else ("cluster.toml",)),
            *options,
            cwd=self.folder,
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    async def run(
        self, command: str, *options: str, timeout: float = 400, stdin: int = asyncio.subprocess.DEVNULL
    ) -> Answer:
        process = await self.start(command, *options, stdin=stdin)
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
        return Answer(command, process.returncode or 0, out.decode(), err.decode())

    async def interrupted(self, command: str, *options: str, at: str) -> Answer:
        """Run it and press Ctrl-C when it says ``at`` on standard error."""
        process = await self.start(command, *options)
        said = await line_with(process.stderr, at)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        return Answer(command, process.returncode or 0, out.decode(), said + err.decode())

    async def run_typing(self, typed: str, command: str, *options: str) -> Answer:
        """Run it with a terminal as standard input, at which somebody has typed ``typed``."""
        person, terminal = pty.openpty()
        try:
            os.write(person, typed.encode())
            return await self.run(command, *options, stdin=terminal)
        finally:
            os.close(terminal)
            os.close(person)

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
    said = ""
    async with asyncio.timeout(120):
        while line := (await stream.readline()).decode():
            if words in line:
                return line
            said += line
    raise AssertionError(f"{words!r} was never said, but:\n{said[-4000:]}")


def add_secrets(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Put secrets where a person has them, and return what must not be seen of them anywhere else."""
    login = base64.b64encode(f"me:{REGISTRY}".encode())
    (line.folder / "docker").mkdir()
    (line.folder / "docker" / "config.json").write_text(json.dumps({"auths": {"127.0.0.1": {"auth": login.decode()}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(line.folder / "docker"))
    monkeypatch.setenv("HF_TOKEN", PERSONAL)
    cluster = line.folder / "cluster.toml"
    cluster.write_text(cluster.read_text().replace("[training]", f'[training]\nenv = {{ NOTE = "{FOR_RANKS}" }}'))
    return [PERSONAL.encode(), REGISTRY.encode(), login]


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


async def test_up_trains_balanced_the_loss_falls_and_no_secret_is_seen(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = add_secrets(command_line, monkeypatch)
    of_hosts = tuple(str(host.home).encode() for host in command_line.hosts.hosts)

    def given_to_hosts(environment: bytes) -> bool:
        return any(home in environment for home in of_hosts)

    with (
        watched(lambda: holding("cmdline", [*secrets, FOR_RANKS.encode()])) as in_argv,
        watched(lambda: holding("environ", secrets, given_to_hosts)) as in_environment,
        watched(lambda: holding("environ", [FOR_RANKS.encode()], given_to_hosts)) as ranks,
    ):
        answer = await command_line.run("up", "--json")
    assert (in_argv, in_environment) == (set(), set())
    assert any("trainer" in each for each in ranks), "what ranks are to have, they have"
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
    folder = command_line.folder / "experiments" / "test" / result["run"]
    recording = gzip.decompress((folder / "events.jsonl.gz").read_bytes())
    assert recording
    report = await command_line.run("doctor", "--report", "report.md")
    assert report.code == 0, report.err
    said = answer.out + answer.err + report.out + report.err
    assert [each for each in secrets if each in recording or each in said.encode()] == []
    assert files_holding(command_line.folder / "experiments", secrets) == []
    assert files_holding(command_line.folder, secrets) == ["docker/config.json"]
    for host in command_line.hosts.hosts:
        assert files_holding(host.home, [*secrets, FOR_RANKS.encode()]) == []
    await assert_documents_of_what_is_kept(command_line, result["run"])
    shown = [FOR_RANKS.encode() in each for each in (recording, (command_line.folder / "report.md").read_bytes())]
    assert shown == [False, False]


async def assert_documents_of_what_is_kept(line: CommandLine, run: str) -> None:
    """Every command that tests of its own do not cover prints what it declares of a run that has ended."""
    asked = {
        "logs": ("--run", run),
        "runs": (),
        "replay": (run,),
        "report": (run, "--output", "page"),
        "images": (),
        "images ls": (),
        "images rm": (),
        "doctor": ("--redact", "--report", "again.md"),
        "shares": ("--speeds", "256,180,45,40", "--global-batch", "192"),
        "init": ("--yes", "--output", "found.toml"),
    }
    elsewhere = {"check", "plan", "up", "watch", "status", "stop", "exclude", "admit", "demo", "data"}
    assert set(DOCUMENTS) <= asked.keys() | elsewhere
    for command, options in asked.items():
        answer = await line.run(command, *options, "--json")
        assert answer.code == 0, (command, answer.err)
        told = answer.lines if command in ("logs", "replay") else [answer.document]
        assert told
        assert all(each["schema"] == 1 for each in told)


async def test_a_killed_client_leaves_training_and_another_reattaches(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000)
    client = await command_line.start("up")
    await line_with(client.stderr, "training · step")
    client.kill()
    await client.wait()

    status = await command_line.run("status", "--json")
    assert [run["state"] for run in status.document["runs"]] == ["running"] * 3, status.err

    watching = await command_line.interrupted("watch", "--json", at="training · step")
    assert (watching.code, watching.document["state"]) == (130, "training")
    assert f"interrupted: run {watching.document['run']} goes on" in watching.err
    kept = command_line.folder / "experiments"
    kept.rename(command_line.folder / "elsewhere")
    anew = await command_line.interrupted("watch", "--json", at="training · step")
    assert (anew.code, anew.document["state"], anew.document["run"]) == (130, "training", watching.document["run"])
    lines: dict[str, list[str]] = {name: [] for name in SPEEDS}
    for line in RunDir.open(kept, "test", anew.document["run"]).lines():
        lines[line.host].append(line.text)
    assert all(lines.values())
    assert [sequences_without_gap(*each) for each in lines.items()] == [[], [], []], "the past came from the hosts"
    reading, writing = os.pipe()
    os.close(reading)
    reader = await command_line.start("logs", "--follow", stdout=writing)
    os.close(writing)
    async with asyncio.timeout(120):
        _, complaint = await reader.communicate()
    assert (reader.returncode, complaint) == (0, b""), "a reader that has had enough (head) is no mistake"
    for wrong in (("logs", "--run", "20200101-000000-abcd"), ("logs", "--rank", "9"), ("stop", "--run", "2020")):
        unknown = await command_line.run(*wrong)
        assert (unknown.code, unknown.out) == (2, ""), unknown

    still = await command_line.run("status", "--json")
    assert [run["state"] for run in still.document["runs"]] == ["running"] * 3

    stopped = await command_line.run("stop", "--json")
    assert stopped.code == 0, stopped.err
    assert stopped.document["stopped"] == [status.document["runs"][0]["run"]]
    assert (await command_line.run("status", "--json")).document["runs"] == []
    assert command_line.processes_left() == []


async def test_up_that_fails_prints_one_document_also_when_it_tried_again(command_line: CommandLine) -> None:
    cluster = command_line.folder / "cluster.toml"
    script = command_line.folder / "fails.py"
    script.write_text('raise SystemExit("no luck")\n')
    text = cluster.read_text().replace('workload = "simple_cnn"', f"script = {json.dumps(str(script))}")
    text = text.replace("samples = 560\nepochs = 2\n", "")
    cluster.write_text(f"{text}[limits]\nrestarts = 1\nrestart_wait_seconds = 0.1\n")
    failed = await command_line.run("up", "--json", "--skip-checks")
    assert failed.code == 1
    assert failed.document["state"] == "failed"
    assert "the run failed; restart 1 of 1" in failed.err

    cluster.write_text(cluster.read_text().replace(json.dumps(sys.executable), '"no-such-python"', 1))
    refused = await command_line.run("up", "--json")
    assert refused.code == 1
    assert not refused.document["ok"]
    assert "Nothing was started" in refused.err


async def test_interrupting_up_stops_the_run_everywhere(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000)
    client = await command_line.interrupted("up", "--json", at="training · step")
    assert (client.code, client.document["state"]) == (130, "stopped"), client.err
    assert [Path(path).suffix for path in client.document["checkpoints"]] == [".pt"]
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


async def test_a_host_of_a_running_job_is_excluded_and_admitted_again(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000)
    too_early = await command_line.run("exclude", "fast")
    assert (too_early.code, too_early.out) == (2, "")
    assert "nothing is training on these hosts" in too_early.err
    started = await command_line.run("up", "--detach", "--json")
    assert started.code == 0, started.err
    run = started.document["run"]
    watcher = await command_line.start("watch", "--json")

    declined = await command_line.run_typing("no\n", "exclude", "fast", "--json")
    assert (declined.code, declined.out) == (1, "")
    assert "Exclude fast? [yes/no]" in declined.err
    assert "nothing was changed" in declined.err
    out = await command_line.run_typing("yes\n", "exclude", "fast", "--json", "--run", run)
    assert out.code == 0, out.err
    plan = out.document
    assert (plan["run"], plan["changed"], plan["excluded"]) == (run, True, ["fast"])
    assert plan["shares"][0] == 0, "rank 0 too, on the master: its host goes on holding the store"
    assert sum(plan["shares"]) == 56
    assert plan["reason"].startswith("fast excluded by ")
    assert plan["predicted_samples_per_second"] > 0

    again, second, typing_error, other_run = await asyncio.gather(
        command_line.run("exclude", "fast", "--json"),
        command_line.run("exclude", "middle"),
        command_line.run("exclude", "midle"),
        command_line.run("exclude", "slow", "--run", "20200101-000000-abcd"),
    )
    assert (again.code, again.document["changed"], again.document["excluded"][0]) == (0, False, "fast")
    assert second.code == 0, second.err
    assert "shares 0/0/56" in second.out
    assert (typing_error.code, "did you mean middle?" in typing_error.err) == (2, True)
    assert (other_run.code, "is not training on these hosts" in other_run.err) == (2, True)
    refused = await command_line.run("exclude", "slow")
    assert (refused.code, refused.out) == (1, "")
    assert "no other host is left to compute" in refused.err

    back = await command_line.run("admit", "fast", "--json")
    assert back.code == 0, back.err
    assert (back.document["excluded"], back.document["shares"][1]) == (["middle"], 0)
    assert back.document["shares"][0] > 0

    assert (await command_line.run("stop")).code == 0
    async with asyncio.timeout(120):
        told, _ = await watcher.communicate()
    watched_to_the_end = Answer("watch", watcher.returncode or 0, told.decode(), "").document
    reasons = [change["reason"].partition(" by ")[0] for change in watched_to_the_end["share_changes"]]
    assert [each for each in reasons if each.endswith(("excluded", "again"))] == [
        "fast excluded", "middle excluded", "fast admitted again"
    ]  # fmt: skip

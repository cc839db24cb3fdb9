"""Nothing that a run has written is lost: it comes home before the run is removed, and the next goes on from there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remote.checkpoints import newest_good
from remote.embedded import EmbeddedHost, embedded_hosts
from remote.run_dir import RunDir
from tests.ssh.test_command_line import SPEEDS, CommandLine, line_with

pytestmark = pytest.mark.slow


@pytest.fixture
async def command_line(tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with embedded_hosts([EmbeddedHost(name) for name in SPEEDS]) as hosts:
        line = CommandLine(tmp_path, hosts)
        line.write_cluster()
        yield line
        await line.run("stop", "--discard")


def run_folders(line: CommandLine) -> list[Path]:
    """Return what runs have left on the hosts."""
    return [each for host in line.hosts.hosts for each in (host.home / ".cache" / "hetero-tui" / "runs").glob("*")]


def without_host(line: CommandLine, name: str) -> None:
    """Take a host out of cluster.toml."""
    path = line.folder / "cluster.toml"
    head, *hosts = path.read_text().split("[[hosts]]")
    kept = [each for each in hosts if f'name = "{name}"' not in each]
    path.write_text("[[hosts]]".join([head, *kept]))


def only_checkpoint(folder: Path) -> Path:
    (path,) = (folder / "checkpoints").glob("*.pt")
    told = path.with_name(f"{path.name}.sha256").read_text().split()[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == told
    return path


async def test_a_finished_run_is_home_and_another_world_goes_on_from_it(command_line: CommandLine) -> None:
    first = await command_line.run("up", "--json", "--skip-checks")
    assert first.code == 0, first.err
    folder = command_line.folder / first.document["folder"]
    assert only_checkpoint(folder).name == "step-00000020.pt"
    assert first.document["checkpoints"] == [f"{first.document['folder']}/checkpoints/step-00000020.pt"]
    assert [host["exit_code"] for host in first.document["hosts"]] == [0, 0, 0]
    assert run_folders(command_line) == []
    assert "step-00000020.pt is home" in first.err

    again = await command_line.run("watch", "--json")
    assert again.code == 0, again.err
    assert again.document["run"] == first.document["run"]
    assert again.document["state"] == "finished"
    assert again.document["hosts"] == first.document["hosts"]
    logs = await command_line.run("logs", "--rank", "1")
    assert logs.code == 0, logs.err
    assert "[rank 1 middle]" in logs.out

    command_line.write_cluster(epochs=3)
    without_host(command_line, "middle")
    second = await command_line.run("up", "--json", "--skip-checks", "--resume")
    assert second.code == 0, second.err
    assert f"goes on from step 20 of run {first.document['run']}" in second.err
    assert second.document["steps"] == 30
    assert second.document["share_changes"][0]["step"] == 20
    assert [rank["host"] for rank in second.document["ranks"]] == ["fast", "slow"]
    assert second.document["first_loss"] < first.document["first_loss"]
    resumed = command_line.folder / second.document["folder"]
    assert only_checkpoint(resumed).name == "step-00000030.pt"
    assert run_folders(command_line) == []


async def test_stop_brings_the_last_checkpoint_home(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000, checkpoint_every=5)
    client = await command_line.start("up", "--skip-checks")
    await line_with(client.stderr, "training · step")
    client.kill()
    await client.wait()

    stopped = await command_line.run("stop", "--json")
    assert stopped.code == 0, stopped.err
    (run,) = stopped.document["stopped"]
    folder = command_line.folder / "experiments" / "test" / run
    checkpoint = only_checkpoint(folder)
    assert [Path(each).name for each in stopped.document["checkpoints"]] == [checkpoint.name]
    found, refused = newest_good(folder / "checkpoints")
    assert found is not None
    assert found.step > 0
    assert refused == ()
    assert run_folders(command_line) == []
    # What was said after the client had died is home too, so the folder tells the whole run.
    events = [json.loads(line.text) for line in RunDir(folder).lines()]
    assert {each["kind"] for each in events} >= {"hello", "step", "checkpoint", "done"}
    saved = [each["step"] for each in events if each["kind"] == "checkpoint"]
    assert saved[-1] == found.step
    watched = await command_line.run("watch", "--json", "--run", run)
    assert watched.document["state"] == "stopped"


async def test_a_run_that_fails_leaves_its_last_checkpoint_and_nothing_else(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000, checkpoint_every=2, elastic=False)
    client = await command_line.start("up", "--json", "--skip-checks")
    await line_with(client.stderr, "training · step")
    slow = str(next(host.home for host in command_line.hosts.hosts if host.name == "slow"))
    for each in Path("/proc").glob("[0-9]*"):
        if b"trainer.rank" in _read(each / "cmdline") and slow.encode() in _read(each / "environ"):
            os.kill(int(each.name), signal.SIGKILL)
    out, err = await client.communicate()
    assert client.returncode == 1, err.decode()
    result = json.loads(out)
    assert result["state"] == "failed"
    assert result["failures"]
    assert only_checkpoint(command_line.folder / result["folder"]).name == Path(result["checkpoints"][0]).name
    assert any(host["exit_code"] for host in result["hosts"])
    assert run_folders(command_line) == []
    assert command_line.processes_left() == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # ended meanwhile
        return b""


async def test_a_host_that_is_gone_does_not_keep_the_others_results(command_line: CommandLine) -> None:
    """The other hosts hold the checkpoint; the one that is gone is named, and nobody waits for it for ever."""
    client = await command_line.start("up", "--json", "--skip-checks")
    await line_with(client.stderr, "slow go")
    await command_line.hosts["slow"].stop()
    async with asyncio.timeout(150):
        out, err = await client.communicate()
    assert client.returncode == 1, err.decode()
    result = json.loads(out)
    assert list(result["kept_on_hosts"]) == ["slow"]
    assert b"so it stays on slow: " in err
    only_checkpoint(command_line.folder / result["folder"])
    assert [path.parts[-5] for path in run_folders(command_line)] == ["slow"]


async def test_stop_ends_the_run_where_it_can_and_again_where_it_could_not(command_line: CommandLine) -> None:
    """One host takes connections and then says nothing, as one that is frozen or behind a broken network does."""
    command_line.write_cluster(epochs=4000)
    client = await command_line.start("up", "--skip-checks")
    await line_with(client.stderr, "training · step")
    client.kill()
    await client.wait()
    cluster = command_line.folder / "cluster.toml"
    text = cluster.read_text()
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    slow = next(host for host in command_line.hosts.hosts if host.inventory_host().name == "slow").inventory_host()
    cluster.write_text(text.replace(f"port = {slow.port}\n", f"port = {silent.sockets[0].getsockname()[1]}\n"))
    stopped = await command_line.run("stop")
    assert stopped.code == 1
    assert "fast stopped" in stopped.err
    assert "middle stopped" in stopped.err
    assert "may still be alive on slow: no answer yet when it was given up" in stopped.err
    assert [path.parts[-5] for path in run_folders(command_line)] == ["slow"]
    silent.close()
    cluster.write_text(text)
    again = await command_line.run("stop")
    assert again.code == 0, again.err
    assert command_line.processes_left() == []
    assert run_folders(command_line) == []


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_what_cannot_be_brought_home_stays_until_it_is_given_up(command_line: CommandLine) -> None:
    """The disk of the master refuses: the run ends but stays on its host, and says what to do."""
    command_line.write_cluster(epochs=4000)
    client = await command_line.start("up", "--skip-checks")
    await line_with(client.stderr, "training · step")
    (folder,) = (command_line.folder / "experiments" / "test").iterdir()
    (folder / "checkpoints").write_text("in the way")
    client.send_signal(signal.SIGINT)
    assert client.stderr is not None
    said = (await client.stderr.read()).decode()
    assert await client.wait() == 1, said
    assert "results could not be brought home, so it stays on fast" in said
    assert "hetero-tui stop --discard" in said
    assert command_line.processes_left() == []
    (left,) = run_folders(command_line)
    assert list(left.glob("fast/output/checkpoints/*.pt"))

    again = await command_line.run("stop")
    assert again.code == 1
    (folder / "checkpoints").unlink()
    mended = await command_line.run("stop")
    assert mended.code == 0, mended.err
    only_checkpoint(folder)
    assert run_folders(command_line) == []


async def test_a_second_launch_is_refused_with_the_name_of_the_first(command_line: CommandLine) -> None:
    command_line.write_cluster(epochs=4000)
    first = await command_line.run("up", "--detach", "--json", "--skip-checks")
    assert first.code == 0, first.err
    second = await command_line.run("up", "--skip-checks")
    assert second.code == 1
    assert "cluster test is in use" in second.err
    assert f"run {first.document['run']} of this cluster is there, launched by " in second.err
    assert "training since 20" in second.err
    assert "hetero-tui stop" in second.err
    status = await command_line.run("status", "--json")
    assert {run["run"] for run in status.document["runs"]} == {first.document["run"]}
    stopped = await command_line.run("stop", "--discard", "--json")
    assert stopped.code == 0, stopped.err
    assert stopped.document["checkpoints"] == []
    assert not (command_line.folder / "experiments" / "test" / first.document["run"] / "checkpoints").exists()


async def test_two_launches_at_once_leave_at_most_one(command_line: CommandLine) -> None:
    answers = await asyncio.gather(
        command_line.run("up", "--detach", "--json", "--skip-checks"),
        command_line.run("up", "--detach", "--json", "--skip-checks"),
    )
    went = [each.document["run"] for each in answers if each.code == 0]
    assert len(went) <= 1
    refused = [each.err for each in answers if each.code != 0]
    assert all("of this cluster is there, launched by" in each for each in refused), refused
    status = await command_line.run("status", "--json")
    assert {run["run"] for run in status.document["runs"]} == set(went)


async def test_resuming_without_a_checkpoint_says_so(command_line: CommandLine) -> None:
    answer = await command_line.run("up", "--skip-checks", "--resume")
    assert answer.code == 2
    assert "there is no good checkpoint of any run of 'test'" in answer.err
    named = await command_line.run("up", "--skip-checks", "--resume", "20260101-000000-abcd")
    assert named.code == 2
    assert "no run '20260101-000000-abcd'" in named.err

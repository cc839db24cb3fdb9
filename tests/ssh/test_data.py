"""A data set that some hosts lack: told, brought over SSH, gone on with, and refused where it differs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hetero_tui.cluster_session import ClusterSession
from hetero_tui.headless import ask_host_key
from hetero_tui.json_documents import validate
from remote.checks.model import CheckResult, Finding, Verdict
from remote.dataset_sync import PIECE
from remote.embedded import EmbeddedHost, embedded_hosts
from remote.inventory import load_inventory
from tests.ssh.test_command_line import SPEEDS, Answer, CommandLine

pytestmark = pytest.mark.slow

SIZE = 2 * PIECE


@pytest.fixture
async def command_line(tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with embedded_hosts([EmbeddedHost(name) for name in SPEEDS]) as hosts:
        line = CommandLine(tmp_path, hosts)
        line.write_cluster(data_dir="~/set")
        master, full, empty = _folders(line)
        (master / "deep").mkdir(parents=True)
        (master / "big.bin").write_bytes(os.urandom(SIZE))
        (master / "deep" / "it's").write_bytes(b"small")
        (full / "deep").mkdir(parents=True)
        os.link(master / "big.bin", full / "big.bin")
        assert not empty.exists()
        yield line


def _folders(line: CommandLine) -> list[Path]:
    return [Path(host.home) / "set" for host in line.hosts.hosts]


def _checked(answer: Answer) -> dict[str, object]:
    validate("data", answer.document)
    return {host["host"]: (host["lacking"], host["bytes_lacking"]) for host in answer.document["hosts"]}


async def _check(folder: Path) -> Finding:
    session = ClusterSession(load_inventory(folder / "cluster.toml"), experiments=folder)
    try:
        await session.connect(ask_host_key)
        only = frozenset({"data"})
        found = [each async for each in session.run_checks(only) if isinstance(each, CheckResult)]
    finally:
        await session.close()
    return next(each.finding for each in found if each.check_id == "data")


async def test_hosts_get_what_they_lack_over_ssh_and_a_transfer_goes_on_where_it_stopped(
    command_line: CommandLine,
) -> None:
    master, full, empty = _folders(command_line)
    told = await command_line.run("data", "--json")
    assert told.code == 1, told.err
    assert _checked(told) == {
        "middle": (["deep/it's"], 5),
        "slow": (["big.bin", "deep/it's"], SIZE + 5),
    }
    finding = await _check(command_line.folder)
    assert finding.verdict is Verdict.FAIL
    assert finding.reason == "~/set is not there on slow"
    assert "middle lacks 1 file (deep/it's)" in finding.evidence
    assert not empty.exists(), "a check changes nothing"

    half = empty / ".hetero-tui-incoming" / "big.bin"
    half.parent.mkdir(parents=True)
    half.write_bytes((master / "big.bin").read_bytes()[:PIECE])
    brought = await command_line.run("data", "--bring", "--contents", "--json")
    assert brought.code == 0, brought.err
    assert "slow: lacks 2 files (big.bin, deep/it's), 33.6 MB; a transfer did not end, and goes on" in brought.err
    assert "slow has 33.6 MB of 33.6 MB" in brought.err
    assert "slow has 16.8 MB" not in brought.err, "what was there is not sent again"
    assert _checked(brought) == {"middle": ([], 0), "slow": ([], 0)}
    assert (await _check(command_line.folder)).verdict is Verdict.OK
    assert (empty / "big.bin").read_bytes() == (master / "big.bin").read_bytes()
    assert not half.parent.exists()
    for folder in (full, empty):
        assert (folder / "deep" / "it's").read_bytes() == b"small"

    (full / "deep" / "it's").write_bytes(b"other")
    (empty / "mine").write_bytes(b"stays")
    differing = await command_line.run("data", "--bring", "--contents")
    assert differing.code == 1
    assert "middle: has with other content 1 file (deep/it's); nothing can be brought" in differing.out
    assert "slow: alone has 1 file (mine)" in differing.out
    assert (full / "deep" / "it's").read_bytes() == b"other"
    assert (empty / "mine").read_bytes() == b"stays"

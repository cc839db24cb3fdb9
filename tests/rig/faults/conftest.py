"""Three hosts whose login user may use sudo, and what a healthy checklist says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote.checks.model import Verdict
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import Bench, Checklist, give_sudo, take_sudo
from tests.rig.hosts import Rig


@pytest.fixture(scope="module")
def sudo_rig(shared_rig: Rig) -> Iterator[Rig]:
    for host in shared_rig.hosts:
        host.heal()
        give_sudo(host)
    yield shared_rig
    for host in shared_rig.hosts:
        host.heal()
        take_sudo(host)


@pytest.fixture(scope="module")
def idle(sudo_rig: Rig) -> frozenset[tuple[str, str]]:
    """What does not apply to a healthy rig, and so is skipped for other reasons than a fault."""

    async def healthy() -> frozenset[tuple[str, str]]:
        checklist = Checklist(cluster_toml(sudo_rig))
        await checklist.connect()
        await checklist.run()
        await checklist.hosts.close()
        return frozenset(checklist.with_verdict(Verdict.SKIP))

    return asyncio.run(healthy())


@pytest.fixture
def bench(sudo_rig: Rig, tmp_path: Path) -> Bench:
    bench = Bench(sudo_rig, tmp_path)
    bench.write_tools()
    return bench

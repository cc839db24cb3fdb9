"""Three hosts whose login user may use sudo, and what a healthy checklist says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.faults.bench import Bench, give_sudo, take_sudo
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


@pytest.fixture
def bench(sudo_rig: Rig, tmp_path: Path) -> Bench:
    bench = Bench(sudo_rig, tmp_path)
    bench.write_tools()
    return bench

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from remote.embedded import EmbeddedHost, RunningHost, embedded_hosts
from remote.ssh import SshRunner, connect


@pytest.fixture
async def host() -> AsyncIterator[RunningHost]:
    async with embedded_hosts([EmbeddedHost("alpha")]) as cluster:
        yield cluster["alpha"]


@pytest.fixture
async def runner(host: RunningHost) -> AsyncIterator[SshRunner]:
    runner = await connect(host.inventory_host())
    yield runner
    await runner.close()

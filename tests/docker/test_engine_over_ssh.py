"""The engine of another machine: everything through the host's one SSH connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from remote.docker_runtime import DockerRuntime
from remote.embedded import EmbeddedHost, RunningHost, embedded_hosts
from remote.engine import Engine
from remote.errors import ConnectionDropped
from remote.ssh import connect
from remote.stream import LinkChange, follow
from tests.docker.conftest import IMAGE
from tests.docker.test_docker_runtime import RUN, plan

pytestmark = pytest.mark.rig


@pytest.fixture
async def host() -> AsyncIterator[RunningHost]:
    async with embedded_hosts([EmbeddedHost("alpha")]) as cluster:
        yield cluster["alpha"]


async def test_requests_and_streams_share_one_login_and_take_no_session(host: RunningHost, engine: Engine) -> None:
    runner = await connect(host.inventory_host())
    remote = await Engine.open(runner, engine.socket)
    done = await asyncio.gather(*(remote.run_once(IMAGE, ["echo", str(number)]) for number in range(4)))
    assert [each.stdout for each in done] == [f"{number}\n" for number in range(4)]
    assert host.login_count == 1
    assert host.peak_sessions == 0
    await remote.close()
    await remote.close()
    await runner.close()


async def test_a_dead_connection_is_an_error_at_once_never_a_hang(host: RunningHost, engine: Engine) -> None:
    runner = await connect(host.inventory_host())
    remote = await Engine.open(runner, engine.socket)
    host.drop_connections()
    await runner.wait_closed()
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionDropped):
            await remote.version()
        with pytest.raises(ConnectionDropped):
            async with remote.logs("any"):
                pass
    await remote.close()
    await runner.close()


async def test_a_log_is_followed_across_lost_connections(host: RunningHost, engine: Engine) -> None:
    """The connection is cut twice while the container writes; every line comes once."""
    local = DockerRuntime("alpha", engine)
    await local.create(plan("for n in $(seq 1 60); do echo out $n; echo err $n >&2; sleep 0.03; done"), RUN)
    await local.start(RUN)
    opened: list[tuple[Engine, RunningHost]] = []
    changes: list[LinkChange] = []

    async def connect_anew() -> DockerRuntime:
        runner = await connect(host.inventory_host())
        remote = await Engine.open(runner, engine.socket)
        opened.append((remote, host))
        return DockerRuntime("alpha", remote)

    lines: list[str] = []
    async for batch in follow(RUN, connect_anew, report=lambda change, _: changes.append(change)):
        lines += [line.text for line in batch]
        if len(lines) > 20 * len(opened) and len(opened) < 3:
            host.drop_connections()
    assert [line for line in lines if line.startswith("out")] == [f"out {n}" for n in range(1, 61)]
    assert [line for line in lines if line.startswith("err")] == [f"err {n}" for n in range(1, 61)]
    assert changes == ["lost", "again"] * 2
    for remote, _ in opened:
        await remote.close()
        await remote.runner.close()

"""The control plane's parts on real hosts: SSH, facts, plan, engine, one container."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.errors import ConnectionDropped, HostKeyChanged
from remote.facts import Facts, gather_facts
from remote.inventory import Inventory, parse_inventory
from remote.known_hosts import KnownHosts
from remote.plan import CONTROL_FOLDER, LaunchPlan, make_plan
from remote.runtime import State
from remote.ssh import SshRunner, connect
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig
from tests.rig.machine import LOGIN_USER

pytestmark = pytest.mark.rig


@pytest.fixture(params=["root", LOGIN_USER])
def inventory(rig: Rig, request: pytest.FixtureRequest) -> Inventory:
    return parse_inventory(cluster_toml(rig, user=request.param))


@pytest.fixture
async def runners(inventory: Inventory) -> AsyncIterator[dict[str, SshRunner]]:
    async with AsyncExitStack() as stack:
        found = {}
        for host in inventory.hosts:
            found[host.name] = await connect(host)
            stack.push_async_callback(found[host.name].close)
        yield found


async def _facts(inventory: Inventory, runners: dict[str, SshRunner]) -> dict[str, Facts]:
    gathered = (gather_facts(runner, master_address=inventory.master.address) for runner in runners.values())
    return dict(zip(runners, await asyncio.gather(*gathered), strict=True))


async def test_facts_of_real_hosts_make_a_plan(inventory: Inventory, runners: dict[str, SshRunner], rig: Rig) -> None:
    facts = await _facts(inventory, runners)
    for host in rig.hosts:
        found = facts[host.name]
        assert (found.hostname, found.address, found.system) == (host.name, host.address, "Linux")
        assert found.engine_socket in ("/var/run/docker.sock", "/run/docker.sock")
        assert found.interface == "eth0", "on the master too, where the route to itself says lo"
        assert abs(found.clock_offset) < 1.0
        assert found.disk_free > 0
    assert len({found.machine_id for found in facts.values()}) == 3

    plan = make_plan(inventory, facts, "run-1")
    assert (plan.backend, plan.world_size, plan.master_address) == ("gloo", 3, rig.hosts[0].address)
    for position, host_plan in enumerate(plan.hosts):
        environment = dict(host_plan.env)
        assert environment["GLOO_SOCKET_IFNAME"] == "eth0"
        assert (environment["RANK"], environment["MASTER_ADDR"]) == (str(position), rig.hosts[0].address)


_SCRIPT = """
import os, pathlib, sys, time
print("up as", os.getuid(), flush=True)
folder = pathlib.Path(os.environ["HETERO_CONTROL"])
deadline = time.monotonic() + 30
while not list(folder.glob("*.json")):
    if time.monotonic() > deadline: sys.exit("no message")
    time.sleep(0.02)
print(next(folder.glob("*.json")).read_text(), flush=True)
(pathlib.Path(os.environ["HETERO_OUTPUT"]) / "checkpoint").write_text("kept")
for number in range(2000): print("line", number)
print("end", flush=True)
time.sleep(60)
"""


async def test_a_container_lives_from_create_to_stop(
    inventory: Inventory, runners: dict[str, SshRunner], rig: Rig
) -> None:
    plan = make_plan(inventory, await _facts(inventory, runners), "run-2")
    await asyncio.gather(*(_life(plan, runner) for runner in runners.values()))
    assert [host.containers() for host in rig.hosts] == [[], [], []]


async def _life(plan: LaunchPlan, runner: SshRunner) -> None:
    host_plan = dataclasses.replace(plan.host(runner.host), argv=("python3", "-c", _SCRIPT))
    engine = await Engine.open(runner)
    try:
        runtime = DockerRuntime(runner.host, engine)
        await runtime.create(host_plan, plan.run_id)
        assert (await runtime.inspect(plan.run_id)).state is State.CREATED
        await runtime.start(plan.run_id)
        await runtime.control(plan.run_id, {"command": "go"})
        texts: list[str] = []
        async with asyncio.timeout(60):
            async for lines in runtime.logs(plan.run_id):
                texts += [line.text for line in lines]
                if texts[-1] == "end":
                    break
        assert texts[0] == "up as 10001", "the image's user is not root"
        assert texts[1] == '{"command": "go"}', f"dropped in {CONTROL_FOLDER}"
        assert texts[2:] == [*(f"line {number}" for number in range(2000)), "end"]
        (found,) = await runtime.runs(plan.cluster)
        assert (found.run_id, found.state, found.ranks) == (plan.run_id, State.RUNNING, (host_plan.ranks[0].rank,))
        await runtime.stop(plan.run_id, grace=2)
        assert (await runtime.inspect(plan.run_id)).state is State.MISSING
    finally:
        await engine.close()


async def test_a_host_that_is_not_the_pinned_one_is_refused(rig: Rig) -> None:
    inventory = parse_inventory(cluster_toml(rig))
    impostor = inventory.host("h1").model_copy(update={"host_key": rig.host("h2").fingerprint})
    with pytest.raises(HostKeyChanged):
        await connect(impostor, known_hosts=KnownHosts((rig.known_hosts,)))


async def test_a_killed_connection_is_told_and_a_new_one_works(rig: Rig) -> None:
    host = parse_inventory(cluster_toml(rig)).host("h2")
    runner = await connect(host)
    rig.host("h2").kill_connections()
    with pytest.raises(ConnectionDropped):
        await runner.run("sleep 30")
    await runner.close()
    again = await connect(host)
    assert (await again.run("hostname")).stdout == "h2\n"
    await again.close()

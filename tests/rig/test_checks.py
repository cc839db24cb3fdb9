"""The checklist over real machines: what is slow, half gone or rejected in odd ways. Single faults: ``faults``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from remote.checks.model import Verdict
from remote.checks.network_report import ProbeTimings
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import EVERYTHING, Checklist
from tests.rig.hosts import Rig

pytestmark = pytest.mark.rig

NETWORK = ("probe", "interface", "master-port", "master-reachable", "data-ports", "full-packets", "link-speed")
PATIENT = ProbeTimings(dial=6.0, linger=2.0, connect=1.0, stall=5.0, transfer=10.0, lookup=1.0)
DATA_PORTS = ("-p", "tcp", "--syn", "--dport", "30000:65535")


@asynccontextmanager
async def checklist(rig: Rig) -> AsyncIterator[Checklist]:
    opened = Checklist(cluster_toml(rig), timings=PATIENT)
    await opened.connect()
    try:
        yield opened
    finally:
        await opened.hosts.close()


async def test_healthy_hosts_are_green_and_nothing_is_left_on_them(rig: Rig) -> None:
    async with checklist(rig) as found:
        await found.run(*EVERYTHING)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {}
        assert found.results["probe", "h1"].reason == "in the job's image"
        assert found.results["interface", "h1"].reason == f"eth0 {rig.host('h1').address}"
        assert "torch" in found.results["image-python", "h2"].reason
    assert [host.containers() for host in rig.hosts] == [[], [], []]


@pytest.mark.parametrize("how", ["icmp-port-unreachable", "icmp-admin-prohibited"])
async def test_a_rejecting_firewall_is_told_by_its_haste(rig: Rig, how: str) -> None:
    h2 = rig.host("h2")
    h2.iptables("-A", "INPUT", *DATA_PORTS, "-j", "REJECT", "--reject-with", how)
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        assert set(found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN)) == {("data-ports", "h2")}
        reason = found.results["data-ports", "h2"].reason
        assert "REJECT" in reason
        assert "h1" in reason
        assert "h3" in reason


@pytest.mark.parametrize("rate", ["20mbit", "3mbit"])
async def test_a_slow_host_is_measured_and_not_taken_for_a_broken_one(rig: Rig, rate: str) -> None:
    rig.host("h3").tbf(rate)
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {}
        assert found.results["link-speed", "h1"].verdict is Verdict.WARN
        assert "from h3" in found.results["link-speed", "h1"].reason


async def test_an_unplugged_worker_is_red_and_the_others_are_judged(rig: Rig) -> None:
    rig.host("h2").link_down()
    async with checklist(rig) as found:
        await found.run("ssh", "clock", "data-ports")
        assert set(found.with_verdict(Verdict.FAIL)) == {("ssh", "h2")}
        assert found.results["clock", "h3"].verdict is Verdict.OK
        assert found.results["data-ports", "h1"].verdict is Verdict.OK

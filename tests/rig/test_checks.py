"""The checklist over real machines with real faults: which cell turns red, and what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from remote.checks.context import CheckContext
from remote.checks.model import CheckResult, Finding, Verdict
from remote.checks.network_report import ProbeTimings
from remote.checks.run import run_checks, summarize
from remote.errors import HostKeyUnknown
from remote.hosts import Hosts
from remote.inventory import parse_inventory
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig

pytestmark = pytest.mark.rig

NETWORK = ("probe", "interface", "master-port", "master-reachable", "data-ports", "full-packets", "link-speed")
HASTY = ProbeTimings(dial=6.0, linger=2.0, connect=1.0, stall=5.0, transfer=10.0, lookup=1.0)
DATA_PORTS = ("-p", "tcp", "--syn", "--dport", "30000:65535")


async def _nobody(_: HostKeyUnknown) -> bool:
    return False


class Checklist:
    """What the checks found."""

    def __init__(self, context: CheckContext) -> None:
        self.context = context
        self.results: list[CheckResult] = []

    async def run(self, *only: str) -> None:
        self.results = [each async for each in run_checks(self.context, only or None) if isinstance(each, CheckResult)]

    def finding(self, check: str, host: str) -> Finding:
        return next(each.finding for each in self.results if (each.check_id, each.host) == (check, host))

    def with_verdict(self, *verdicts: Verdict) -> set[tuple[str, str]]:
        return {(each.check_id, each.host) for each in self.results if each.finding.verdict in verdicts}


@asynccontextmanager
async def checklist(rig: Rig, text: str = "") -> AsyncIterator[Checklist]:
    inventory = parse_inventory(text or cluster_toml(rig))
    hosts = Hosts(inventory)
    await hosts.connect(_nobody)
    context = CheckContext(
        inventory, runner=hosts.runner, gather=hosts.gather, engine=hosts.engine, runs=hosts.runs, timings=HASTY
    )
    try:
        yield Checklist(context)
    finally:
        await hosts.close()


async def test_healthy_hosts_are_green_and_nothing_is_left_on_them(rig: Rig) -> None:
    async with checklist(rig) as found:
        await found.run()
        red = [each for each in found.results if each.finding.verdict in {Verdict.FAIL, Verdict.UNKNOWN}]
        assert red == []
        assert summarize(found.results).exit_code == 0
        assert found.finding("probe", "h1").reason == "in the job's image"
        assert found.finding("interface", "h1").reason == f"eth0 {rig.host('h1').address}"
        assert "torch" in found.finding("image-python", "h2").reason
    assert [host.containers() for host in rig.hosts] == [[], [], []]


async def test_one_dropped_direction_is_one_red_cell(rig: Rig) -> None:
    h1, h3 = rig.host("h1"), rig.host("h3")
    h1.iptables("-A", "INPUT", "-p", "tcp", "--syn", "--dport", "29500", "-s", h3.address, "-j", "DROP")
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {("master-reachable", "h3")}
        finding = found.finding("master-reachable", "h3")
        assert f"h3 gets no answer from h1 at {h1.address}:29500" in finding.reason
        assert finding.fix is not None
        assert (finding.fix.host, h3.address in finding.fix.text) == ("h1", True)


@pytest.mark.parametrize("how", ["tcp-reset", "icmp-port-unreachable", "icmp-admin-prohibited"])
async def test_a_rejecting_firewall_is_told_by_its_haste(rig: Rig, how: str) -> None:
    h2 = rig.host("h2")
    h2.iptables("-A", "INPUT", *DATA_PORTS, "-j", "REJECT", "--reject-with", how)
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {("data-ports", "h2")}
        reason = found.finding("data-ports", "h2").reason
        assert "REJECT" in reason
        assert "h1" in reason
        assert "h3" in reason


async def test_big_packets_that_vanish_are_told_from_closed_ports(rig: Rig) -> None:
    h1, h2, h3 = rig.hosts
    for host in (h2, h3):
        h1.iptables("-A", "INPUT", "-s", host.address, "-m", "length", "--length", "1200:65535", "-j", "DROP")
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        assert ("full-packets", "h1") in found.with_verdict(Verdict.FAIL)
        assert found.finding("data-ports", "h1").verdict is Verdict.OK
        assert found.with_verdict(Verdict.FAIL) <= {("full-packets", name) for name in ("h1", "h2", "h3")}


@pytest.mark.parametrize("rate", ["20mbit", "3mbit"])
async def test_a_slow_host_is_measured_and_not_taken_for_a_broken_one(rig: Rig, rate: str) -> None:
    rig.host("h3").tbf(rate)
    async with checklist(rig) as found:
        await found.run(*NETWORK)
        red = [each.finding.reason for each in found.results if each.finding.verdict in {Verdict.FAIL, Verdict.UNKNOWN}]
        assert red == []
        assert found.finding("link-speed", "h1").verdict is Verdict.WARN
        assert "from h3" in found.finding("link-speed", "h1").reason


async def test_a_stopped_engine_is_red_and_the_network_is_still_probed(rig: Rig) -> None:
    rig.host("h2").stop_engine()
    async with checklist(rig) as found:
        await found.run("engine", "image", "same-image", *NETWORK)
        assert ("engine", "h2") in found.with_verdict(Verdict.FAIL)
        assert found.finding("image", "h2").verdict is Verdict.SKIP
        assert found.finding("same-image", "").verdict is Verdict.UNKNOWN
        assert found.finding("image", "h1").verdict is Verdict.OK


async def test_another_image_under_the_same_name_is_found(rig: Rig) -> None:
    h3 = rig.host("h3")
    h3.docker("tag", rig.image, "kept:1")
    h3.docker("create", "--name", "other", "kept:1", "true")
    h3.docker("cp", "/etc/hostname", "other:/one-file-more")
    h3.docker("commit", "other", rig.image)
    h3.docker("rm", "other")
    try:
        async with checklist(rig) as found:
            await found.run("same-image")
            finding = found.finding("same-image", "")
            assert finding.verdict is Verdict.FAIL
            assert "not the same on h3 as on h1, h2" in finding.reason
    finally:
        h3.docker("tag", "kept:1", rig.image)
        h3.docker("rmi", "kept:1")
        h3.docker("image", "prune", "--force")  # what was committed has no name any more


async def test_an_unplugged_worker_is_red_and_the_others_are_judged(rig: Rig) -> None:
    rig.host("h2").link_down()
    async with checklist(rig) as found:
        await found.run("ssh", "clock", "data-ports")
        assert found.with_verdict(Verdict.FAIL) == {("ssh", "h2")}
        assert found.finding("clock", "h3").verdict is Verdict.OK
        assert found.finding("data-ports", "h1").verdict is Verdict.OK

"""Hosts behind address translation: which of them can take part, and what the pair probe says of the others.

Gloo lets the rank with the numerically larger address dial, so one host on a high subnet needs no inbound port.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from remote.checks.model import Verdict
from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import Bench, Checklist
from tests.rig.machine import call

pytestmark = pytest.mark.rig

NETWORK = ("probe", "interface", "master-reachable", "data-ports", "full-packets", "addresses-seen")


async def judged(text: str) -> Checklist:
    checklist = Checklist(text)
    try:
        await checklist.connect()
        await checklist.run(*NETWORK)
    finally:
        await checklist.hosts.close()
    return checklist


async def test_one_host_on_a_high_subnet_needs_no_inbound_port_and_trains(bench: Bench, tmp_path: Path) -> None:
    text = cluster_toml(bench.rig)
    with bench.host("h3").behind_nat("198.19.3.0/24"):
        found = await judged(text)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {}
        assert found.results["data-ports", "h3"].reason.endswith("dialled by nobody, and itself dials h1, h2")
        assert set(found.with_verdict(Verdict.WARN)) == {("addresses-seen", "h3")}
        result = Client(bench.rig, tmp_path, text).document("up", "--skip-checks", timeout=180)
    assert (result["state"], len(result["ranks"])) == ("finished", 3)


async def test_one_host_on_a_low_subnet_is_refused_with_the_way_out(bench: Bench) -> None:
    with bench.host("h3").behind_nat("10.1.3.0/24"):
        found = await judged(cluster_toml(bench.rig))
    assert set(found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN)) == {("data-ports", "h3")}
    fix = found.results["data-ports", "h3"].fix
    assert fix is not None
    for way in ("198.19.0.0/16", "publish TCP", "VPN", "bridge"):
        assert way in fix.text


async def test_two_hosts_cannot_meet_until_one_publishes_its_range(bench: Bench) -> None:
    h2, h3 = bench.host("h2"), bench.host("h3")
    text = cluster_toml(bench.rig) + '[network]\nport_range = "29900-29950"\n'
    with ExitStack() as stack:
        router = stack.enter_context(h2.behind_nat("198.19.2.0/24"))
        stack.enter_context(h3.behind_nat("198.19.3.0/24"))
        found = await judged(text)
        finding = found.results["data-ports", "h2"]
        assert set(found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN)) == {("data-ports", "h2")}, finding
        assert finding.fix is not None
        assert f"publish TCP 29900-29950 of {h2.address} to it" in finding.fix.text
        assert "lead 198.19.2.2 there on the hosts that dial" in finding.fix.text

        ports = ("-i", "outer", "-p", "tcp", "--dport", "29900:29950")
        call(*router, "iptables", "--wait", "-t", "nat", "-A", "PREROUTING", *ports, "-j", "DNAT", "--to", "198.19.2.2")
        there = ("-t", "nat", "-A", "OUTPUT", "-d", "198.19.2.2", "-j", "DNAT", "--to", h2.address)
        h3.iptables(*there)
        stack.callback(h3.iptables, "-t", "nat", "--flush")
        found = await judged(text)
        assert found.with_verdict(Verdict.FAIL, Verdict.UNKNOWN) == {}
        assert "dialled by h3, and itself dials h1" in found.results["data-ports", "h2"].reason


async def test_a_master_behind_nat_is_refused(bench: Bench) -> None:
    with bench.host("h1").behind_nat("198.19.1.0/24"):
        found = await judged(cluster_toml(bench.rig))
    failed = found.with_verdict(Verdict.FAIL)
    assert {("master-reachable", "h2"), ("master-reachable", "h3")} <= set(failed)
    fix = found.results["master-reachable", "h2"].fix
    assert fix is not None
    assert fix.text.startswith("make a host that is not behind NAT the master")

"""A fixed range of data ports: what keeps it, and that a run behind a firewall with nothing else open trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from remote.checks.model import Verdict
from tests.rig.client import Client
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import Bench, Checklist
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import wait_for

pytestmark = pytest.mark.rig

FIRST, LAST = 29900, 29950
USUAL = "32768 60999"
NETWORK = f'[network]\nport_range = "{FIRST}-{LAST}"\n'


@contextmanager
def closed_but_for_the_range(host: RigHost) -> Iterator[None]:
    """Drop whatever comes in but SSH, the master's two ports and the range."""
    host.iptables("-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    host.iptables("-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    for ports in ("22", "29500:29501", f"{FIRST}:{LAST}"):
        host.iptables("-A", "INPUT", "-p", "tcp", "--dport", ports, "-j", "ACCEPT")
    host.iptables("-P", "INPUT", "DROP")
    try:
        yield
    finally:
        host.iptables("-P", "INPUT", "ACCEPT")
        host.iptables("--flush")
        host.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={USUAL}")


def _ports(host: RigHost, state: str) -> set[int]:
    """Local ports of the trainer's TCP sockets on a host, its own loopback apart."""
    rows = [line.split() for line in host.run("ss", "-Htnp", "state", state).stdout.splitlines()]
    own = [row for row in rows if "python" in row[-1] and not row[2].startswith("127.")]
    return {int(row[2].rpartition(":")[2]) for row in own}


async def test_a_run_with_nothing_but_the_range_open_trains_inside_it(bench: Bench, tmp_path: Path) -> None:
    rig, text = bench.rig, cluster_toml(bench.rig, {"epochs": 1000}) + NETWORK
    with ExitStack() as stack:
        for host in rig.hosts:
            stack.enter_context(closed_but_for_the_range(host))
        checklist = Checklist(text)
        await checklist.connect()
        try:
            await checklist.run("ephemeral-ports")
            findings = [checklist.results["ephemeral-ports", host.name] for host in rig.hosts]
            assert {finding.verdict for finding in findings} == {Verdict.FAIL}, "nothing keeps the range yet"
            for finding in findings:
                assert finding.fix is not None
                bench.run_fix(finding.fix)
            await checklist.run("ephemeral-ports", "data-ports", "master-reachable", "full-packets")
            assert checklist.with_verdict(Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN) == {}
        finally:
            await checklist.hosts.close()

        client = Client(rig, tmp_path, text)
        with client.started("up", "--skip-checks"):
            client.wait_said(" go")
            client.wait_steps("h1", 3)
            listening = {host.name: _ports(host, "listening") for host in rig.hosts}
            talking = {host.name: _ports(host, "established") for host in rig.hosts}
        client.run("stop")
    allowed = {29500, 29501, *range(FIRST, LAST + 1)}
    assert listening["h1"] >= {29500, 29501}
    assert all(ports & set(range(FIRST, LAST + 1)) for ports in listening.values()), "each rank has its data port"
    assert {name: ports - allowed for name, ports in listening.items()} == {"h1": set(), "h2": set(), "h3": set()}
    assert {name: ports - allowed for name, ports in talking.items()} == {"h1": set(), "h2": set(), "h3": set()}
    wait_for(lambda: client.containers() == [[], [], []], "the end of the run's containers")


def test_a_container_in_the_hosts_network_has_no_range_of_its_own(rig: Rig) -> None:
    """Why the range is the host's: a container has one only with a network of its own, where nobody can dial it."""
    host = rig.host("h1")
    question = "print(open('/proc/sys/net/ipv4/ip_local_port_range').read().split())"
    sysctl = f"--sysctl=net.ipv4.ip_local_port_range={FIRST} {LAST}"
    argv = ("docker", "run", "--rm", sysctl)
    refused = host.run(*argv, "--network=host", rig.image, "python3", "-c", question, check=False)
    assert refused.returncode != 0
    assert "not allowed in host network namespace" in refused.stderr
    alone = host.run(*argv, "--network=none", rig.image, "python3", "-c", question)
    assert alone.stdout.strip() == f"['{FIRST}', '{LAST}']"

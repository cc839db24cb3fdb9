"""Firewalls, routes, names and packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from remote.checks.model import Fix
from tests.rig.faults.bench import Bench
from tests.rig.faults.model import Case, Fault

MASTER = ("-p", "tcp", "--syn", "--dport", "29500")
DATA = ("-p", "tcp", "--syn", "--dport", "30000:65535")
Inject = Callable[[Bench], AbstractContextManager[object]]


def iptables(name: str, *rule: str) -> Inject:
    """Add a rule to a host's INPUT chain; ``FROM:h3`` in it is that host's address."""

    @contextmanager
    def inject(bench: Bench) -> Iterator[None]:
        host = bench.host(name)
        words = [bench.host(word[5:]).address if word.startswith("FROM:") else word for word in rule]
        host.iptables("-A", "INPUT", *words)
        try:
            yield
        finally:
            host.iptables("--flush")

    return inject


@contextmanager
def isolated_workers(bench: Bench) -> Iterator[None]:
    workers = (bench.host("h2"), bench.host("h3"))
    for host in workers:
        host.isolate(isolated=True)
        host.run("ip", "neighbour", "flush", "dev", "eth0")
    try:
        yield
    finally:
        for host in workers:
            host.isolate(isolated=False)


async def put_in_one_network(case: Case, _: Fix) -> None:
    for host in case.bench.rig.hosts:
        host.isolate(isolated=False)


@contextmanager
def black_hole(bench: Bench) -> Iterator[None]:
    """Lose every packet of more than 1280 bytes on its way into h1, without a word, as a tunnel in between does."""
    host = bench.host("h1")
    for name in ("h2", "h3"):  # not this machine's packets: its own SSH would stall too
        rule = ("-s", bench.host(name).address, "-m", "length", "--length", "1281:65535", "-j", "DROP")
        host.iptables("-A", "INPUT", *rule)
    # Packets of one segment each, as on a real wire: the kernel's own big ones would hide what goes over it.
    for each in bench.rig.hosts:
        each.run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off")
    try:
        yield
    finally:
        host.iptables("--flush")
        for each in bench.rig.hosts:
            each.run("ip", "link", "set", "dev", "eth0", "mtu", "1500")
            each.run("ethtool", "-K", "eth0", "tso", "on", "gso", "on", "gro", "on")


@contextmanager
def nftables(bench: Bench) -> Iterator[None]:
    """Close h1 with a ruleset of its own, as /etc/nftables.conf does on Debian; the master's ports alone are open."""
    host = bench.host("h1")
    rules = (
        "table inet filter { chain input { type filter hook input priority filter; policy drop; "
        'iifname "lo" accept; ct state established,related accept; tcp dport { 22, 29500, 29501 } accept; }; }'
    )
    host.run("nft", "-f", "-", input=rules)
    try:
        yield
    finally:
        host.run("nft", "delete", "table", "inet", "filter")


@contextmanager
def ufw(bench: Bench) -> Iterator[None]:
    host = bench.host("h1")
    for ports in ("22", "29500:29501"):
        host.run("ufw", "allow", f"{ports}/tcp")
    host.run("ufw", "--force", "enable")
    try:
        yield
    finally:
        host.run("ufw", "--force", "reset")
        host.run("sh", "-c", "iptables-save -c | grep -q ufw && iptables -F && iptables -X || true")
        host.iptables("-P", "INPUT", "ACCEPT")


FAULTS = (
    Fault(
        name="master-port-dropped",
        codes=("PF-31", "PF-32"),
        inject=iptables("h1", *MASTER, "-j", "DROP"),
        check="master-reachable",
        at=("h2", "h3"),
        reason="DROP rule",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="master-port-rejected",
        codes=("PF-31",),
        inject=iptables("h1", *MASTER, "-j", "REJECT", "--reject-with", "tcp-reset"),
        check="master-reachable",
        at=("h2", "h3"),
        reason="REJECT rule",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="master-port-one-direction",
        codes=("PF-31",),
        inject=iptables("h1", *MASTER, "-s", "FROM:h3", "-j", "DROP"),
        check="master-reachable",
        at=("h3",),
        reason="h3 gets no answer from h1",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="membership-port-dropped",
        codes=("PF-31",),
        inject=iptables("h1", "-p", "tcp", "--syn", "--dport", "29501", "-j", "DROP"),
        check="master-reachable",
        at=("h2", "h3"),
        reason=":29501",
        fix="29500:29501",
    ),
    Fault(
        name="data-ports-dropped",
        codes=("PF-33",),
        inject=iptables("h1", *DATA, "-j", "DROP"),
        check="data-ports",
        at=("h1",),
        reason="DROP rule",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="data-ports-rejected",
        codes=("PF-33",),
        inject=iptables("h2", *DATA, "-j", "REJECT", "--reject-with", "tcp-reset"),
        check="data-ports",
        at=("h2",),
        reason="REJECT rule",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="data-ports-one-direction",
        codes=("PF-34",),
        inject=iptables("h2", *DATA, "-s", "FROM:h3", "-j", "DROP"),
        check="data-ports",
        at=("h2",),
        reason="h3 gets no answer from h2",
        fix="iptables -I INPUT",
    ),
    Fault(
        name="nftables",
        codes=("PF-33",),
        inject=nftables,
        check="data-ports",
        at=("h1",),
        reason="DROP rule",
        fix="nft insert rule inet filter input",
    ),
    Fault(
        name="ufw",
        codes=("PF-33",),
        inject=ufw,
        check="data-ports",
        at=("h1",),
        reason="DROP rule",
        fix="ufw allow proto tcp",
    ),
    Fault(
        name="no-route-between-workers",
        codes=("PF-43",),
        inject=isolated_workers,
        check="data-ports",
        at=("h2",),
        reason="h3 has no way to h2",
        fix="client isolation",
        repair=put_in_one_network,
        also_warns=frozenset({("data-ports", "h3")}),
    ),
    Fault(
        name="mtu-black-hole",
        codes=("PF-45",),
        inject=black_hole,
        check="full-packets",
        at=("h1", "h2", "h3"),
        reason="bytes",
        fix="ip link set dev eth0 mtu 1280",
    ),
)

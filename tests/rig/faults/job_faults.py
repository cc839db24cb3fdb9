"""The place the ranks run in: folders, disk, shared memory, variables, names, ports and interfaces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from remote.checks.model import Fix, Verdict
from remote.dataset_sync import dataset_of
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import QUICK, Bench, changed_file
from tests.rig.faults.model import Case, Fault, healthy_text
from tests.rig.machine import LOGIN_USER

WITHOUT_TORCH = tuple(name for name in QUICK if name != "python")
PROBING = ("probe", "interface", "limits", "environment", "reverse-dns", "output", "disk", "plan", "ephemeral-ports")


def trained(**keys: str) -> Callable[[Bench], str]:
    return lambda bench: cluster_toml(bench.rig, keys)


def with_table(table: str) -> Callable[[Bench], str]:
    return lambda bench: healthy_text(bench) + table


def shell(name: str, before: str, after: str) -> Callable[[Bench], AbstractContextManager[object]]:
    """Run one line on a host as root, and another one in the end."""

    @contextmanager
    def inject(bench: Bench) -> Iterator[None]:
        host = bench.host(name)
        host.run("sh", "-c", before)
        try:
            yield
        finally:
            host.run("sh", "-c", after)

    return inject


def everywhere(before: str, after: str) -> Callable[[Bench], AbstractContextManager[object]]:
    """The same on all hosts."""

    @contextmanager
    def inject(bench: Bench) -> Iterator[None]:
        with ExitStack() as stack:
            for host in bench.rig.hosts:
                stack.enter_context(shell(host.name, before, after)(bench))
            yield

    return inject


@contextmanager
def data_of_h3(bench: Bench, line: str) -> Iterator[None]:
    """Lay the same data out everywhere, then run a line on h3; h1 may log in to the others, as its fix asks."""
    home = f"/srv/{LOGIN_USER}"
    key, known = bench.rig.identity_file.read_text(), bench.rig.known_hosts.read_text()
    h1, h3 = bench.host("h1"), bench.host("h3")
    for host in bench.rig.hosts:
        host.run("sh", "-c", f"mkdir {home}/set && echo one >{home}/set/a && chown -R {LOGIN_USER}: {home}/set")
    h1.run("sh", "-c", f"mkdir -p {home}/.ssh && umask 077 && cat >{home}/.ssh/id_ed25519", input=key)
    h1.run("sh", "-c", f"cat >{home}/.ssh/known_hosts; chown -R {LOGIN_USER}: {home}/.ssh", input=known)
    h3.run("sh", "-c", f"cd {home} && {line}")
    try:
        yield
    finally:
        h1.run("rm", "-rf", f"{home}/.ssh")
        for host in bench.rig.hosts:
            host.run("rm", "-rf", f"{home}/set")


async def bring_the_data(case: Case, fix: Fix) -> None:
    """What F does on the screen: over this machine's connections, with no login from one host to another."""
    assert fix.brings_data
    context = case.checklist.context
    dataset = await dataset_of(context.inventory, context.host_names, context.facts, context.runner)
    assert await dataset.bring(await dataset.look(), lambda *_: None) == {}


@contextmanager
def full_disk(bench: Bench) -> Iterator[None]:
    """Lay a small file system over Docker's data root, with the old one's folders mounted into it."""
    host = bench.host("h3")
    host.stop_engine()
    host.run("sh", "-c", _SMALL)
    host.start_engine()
    host.wait_engine()
    try:
        yield
    finally:
        host.stop_engine()
        host.run("sh", "-c", _NO_LONGER_SMALL)
        host.start_engine()
        host.wait_engine()


ROOT = "/var/lib/docker"
_LARGE = "overlay2 image shared"
# dockerd renames some of the other folders when it starts, which it could not if they were mounted.
_SMALL = f"""
set -e
mkdir -p /srv/small && mount -t tmpfs -o size=300m,mode=755 small /srv/small
cd {ROOT}
for each in *; do
    case " {_LARGE} " in
        *" $each "*) mkdir "/srv/small/$each" && mount --rbind "$each" "/srv/small/$each" ;;
        *) cp -a "$each" /srv/small/ ;;
    esac
done
cd / && mount --move /srv/small {ROOT} && rmdir /srv/small
"""
_NO_LONGER_SMALL = f"cd {ROOT} && for each in {_LARGE}; do umount --lazy $each; done; cd / && umount --lazy {ROOT}"


async def make_room(case: Case, fix: Fix) -> None:
    """Look, as the commands do, and then make room."""
    assert "/var/lib/docker" in case.bench.run_fix(fix)
    case.bench.host("h3").run("mount", "-o", "remount,size=40g", "/var/lib/docker")


def as_process(bench: Bench) -> str:
    """Run h2's rank as a plain process; root, because the interpreter may lie in a folder only root can enter."""
    before, start, entry = healthy_text(bench).partition('name = "h2"')
    entry, stop, after = entry.partition("[[hosts]]")
    entry = entry.replace(f'user = "{LOGIN_USER}"', 'user = "root"')
    return f'{before}{start}{entry}runtime = "process"\npython = "{sys.executable}"\n{stop}{after}'


async def remove_the_line(case: Case, fix: Fix) -> None:
    assert "start-up files" in fix.text
    case.bench.host("h2").run("rm", "/srv/root/.bashrc")


@contextmanager
def dead_resolver(bench: Bench) -> Iterator[None]:
    """Name a server that never answers; look-ups that /etc/hosts answers do not reach it."""
    host = bench.host("h2")
    with changed_file(host, "/etc/resolv.conf"), changed_file(host, "/etc/hosts"):
        host.run("sh", "-c", "echo 'nameserver 10.255.255.1' >/etc/resolv.conf; ip route add 10.255.255.1 dev eth0")
        try:
            yield
        finally:
            host.run("ip", "route", "delete", "10.255.255.1")


@contextmanager
def second_interface(bench: Bench) -> Iterator[None]:
    host = bench.host("h3")
    for line in ("link add side0 type veth", "address add 172.31.9.9/24 dev side0", "link set side0 up"):
        host.run("ip", *line.split())
    try:
        yield
    finally:
        host.run("ip", "link", "delete", "side0")


async def leave_it_out(case: Case, _: Fix) -> None:
    await case.rewrite(healthy_text(case.bench))


def announcing_itself(bench: Bench) -> str:
    return healthy_text(bench) + 'train_address = "127.0.1.1"\n'


RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"

FAULTS = (
    Fault(
        name="no-data-on-one-host",
        codes=("PF-73",),
        inject=lambda bench: data_of_h3(bench, "rm -r set"),
        text=trained(data_dir=f"/srv/{LOGIN_USER}/set"),
        check="data",
        at=("",),
        reason="is not there on h3",
        fix="hetero-tui data --bring",
        repair=bring_the_data,
    ),
    Fault(
        name="other-data-on-one-host",
        codes=("PF-73",),
        inject=lambda bench: data_of_h3(bench, "echo another >set/a"),
        text=trained(data_dir=f"/srv/{LOGIN_USER}/set"),
        check="data",
        at=("",),
        reason="differs on h3 from h1",
        fix="rsync -a",
    ),
    Fault(
        name="no-checkpoint-folder",
        codes=("PF-75",),
        inject=everywhere("true", "rm -r /srv/trainer/out"),
        text=trained(checkpoint_dir="/srv/trainer/out"),
        check="output",
        at=("h1", "h2", "h3"),
        reason="is not there",
        fix="mkdir -p",
        looks_at=PROBING,
    ),
    Fault(
        name="checkpoint-folder-of-root",
        codes=("PF-20", "PF-75"),
        inject=everywhere("mkdir /srv/out", "rm -r /srv/out"),
        text=trained(checkpoint_dir="/srv/out"),
        check="output",
        at=("h1", "h2", "h3"),
        reason="may not be written",
        fix="sudo chown",
        looks_at=PROBING,
    ),
    Fault(
        name="full-disk",
        codes=("PF-28",),
        inject=full_disk,
        check="disk",
        at=("h3",),
        reason="only 0.3 GiB free",
        fix="docker system df",
        repair=make_room,
    ),
    Fault(
        name="shared-memory-of-64-mb",
        codes=("PF-18",),
        inject=shell("h2", "mount -o remount,size=64m /dev/shm", "mount -o remount,size=50% /dev/shm"),
        text=as_process,
        check="limits",
        at=("h2",),
        verdict=Verdict.WARN,
        reason="64 MiB of /dev/shm",
        fix="mount -o remount,size=1G /dev/shm",
        looks_at=WITHOUT_TORCH,
    ),
    Fault(
        name="stale-exports",
        codes=("PF-76",),
        inject=shell("h2", "echo 'export NCCL_P2P_DISABLE=1' >/srv/root/.bashrc", "rm -f /srv/root/.bashrc"),
        text=as_process,
        check="environment",
        at=("h2",),
        verdict=Verdict.WARN,
        reason="NCCL_P2P_DISABLE",
        fix="env | grep",
        repair=remove_the_line,
        looks_at=WITHOUT_TORCH,
    ),
    Fault(
        name="dead-name-server",
        codes=("PF-50",),
        inject=dead_resolver,
        check="reverse-dns",
        at=("h2",),
        verdict=Verdict.WARN,
        reason="too slowly",
        fix="tee -a /etc/hosts",
        looks_at=PROBING,
    ),
    Fault(
        name="master-port-among-ephemeral-ones",
        codes=("PF-42",),
        inject=shell("h1", f"echo 20000 60999 >{RANGE}", f"echo 32768 60999 >{RANGE}; echo >{RESERVED}"),
        check="ephemeral-ports",
        at=("h1",),
        verdict=Verdict.WARN,
        reason="lies in the ephemeral range",
        fix="ip_local_reserved_ports=29500",
        looks_at=PROBING,
    ),
    Fault(
        name="range-nobody-keeps",
        codes=("PF-33",),
        inject=everywhere("true", f"echo 32768 60999 >{RANGE}"),
        text=with_table("[network]\nport_range = '29900-29950'\n"),
        check="ephemeral-ports",
        at=("h1", "h2", "h3"),
        reason="29900-29950",
        fix='sudo sysctl -w net.ipv4.ip_local_port_range="29900 29950"',
        looks_at=PROBING,
    ),
    Fault(
        name="interface-that-is-not-there",
        codes=("PF-37",),
        inject=lambda _: nullcontext(),
        text=with_table('interface = "nosuch0"\n'),
        check="interface",
        at=("h3",),
        reason="there is no interface 'nosuch0'",
        fix="leave it out",
        repair=leave_it_out,
    ),
    Fault(
        name="wrong-interface",
        codes=("PF-38",),
        inject=second_interface,
        text=with_table('interface = "side0"\n'),
        check="interface",
        at=("h3",),
        reason="would announce 172.31.9.9 of side0",
        fix="leave it out",
        repair=leave_it_out,
    ),
    Fault(
        name="address-of-the-hosts-file",
        codes=("PF-35", "PF-39"),
        inject=lambda _: nullcontext(),
        text=announcing_itself,
        check="interface",
        at=("h3",),
        reason="it would announce 127.0.1.1",
        fix="train_address",
        repair=leave_it_out,
    ),
)

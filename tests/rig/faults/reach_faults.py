"""Keys, logins, shells, clocks, and machines that are there twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from remote.checks.catalogue import GROUPS
from remote.checks.model import Fix, Verdict
from remote.errors import HostKeyUnknown
from remote.known_hosts import KnownHosts, accept_host_key
from tests.rig.faults.bench import CLOCK, QUICK, Bench, changed_file
from tests.rig.faults.model import Case, Fault, healthy_text
from tests.rig.image_world import reload_sshd
from tests.rig.machine import LOGIN_USER

BESIDE_THE_NETWORK = tuple(name for name in QUICK if name not in {check.id for check in dict(GROUPS)["Network"]})
"""The kernel has one clock for all hosts here: the false one is the SSH session's, not that of a probe's container."""
LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def unpinned(bench: Bench) -> str:
    """Rely on known_hosts, as most people's ``cluster.toml`` does."""
    lines = healthy_text(bench).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("host_key"))


def known_but_h2(bench: Bench, line: str) -> KnownHosts:
    address = bench.host("h2").address
    known = bench.rig.known_hosts.read_text().splitlines(keepends=True)
    file = bench.folder / "known_hosts"
    file.write_text("".join(each for each in known if not each.startswith(f"{address} ")) + line)
    return KnownHosts((file,))


def without_h2(bench: Bench) -> KnownHosts:
    return known_but_h2(bench, "")


def with_another_key(bench: Bench) -> KnownHosts:
    address, other = bench.host("h2").address, bench.host("h3").address
    key = next(line for line in bench.rig.known_hosts.read_text().splitlines() if line.startswith(f"{other} "))
    return known_but_h2(bench, key.replace(other, address) + "\n")


async def compare_and_accept(case: Case, fix: Fix) -> None:
    """Look at the fingerprint on the host itself, as the fix says, and accept the key that was shown."""
    shown = case.bench.run_fix(fix)
    reason = case.checklist.results["ssh", "h2"].reason
    assert case.bench.host("h2").fingerprint in shown
    assert case.bench.host("h2").fingerprint in reason
    try:
        case.checklist.hosts.runner("h2")
    except HostKeyUnknown as unknown:
        accept_host_key(unknown, KnownHosts((case.bench.folder / "known_hosts",)))
    await case.checklist.connect()


async def forget_and_accept(case: Case, fix: Fix) -> None:
    """Remove the old line by the fix's own command, then make first contact."""
    case.bench.run_fix(fix)
    await case.checklist.connect()
    await case.checklist.run("ssh")
    contact = case.checklist.results["ssh", "h2"].fix
    assert contact is not None
    await compare_and_accept(case, contact)


def wrongly_pinned(bench: Bench) -> str:
    return healthy_text(bench).replace(bench.host("h2").fingerprint, bench.host("h3").fingerprint)


async def correct_the_file(case: Case, _: Fix) -> None:
    await case.rewrite(healthy_text(case.bench))


@contextmanager
def no_key(bench: Bench) -> Iterator[None]:
    host = bench.host("h2")
    with changed_file(host, "/etc/ssh/authorized_keys"):
        host.run("sh", "-c", ": >/etc/ssh/authorized_keys")
        yield


async def copy_the_key(case: Case, _: Fix) -> None:
    """What ssh-copy-id does; the rig's sshd lets nobody in by password, which that program needs."""
    key = case.bench.rig.identity_file.with_suffix(".pub").read_text()
    case.bench.host("h2").run("sh", "-c", "cat >>/etc/ssh/authorized_keys", input=key)
    await case.checklist.connect()


@contextmanager
def no_sshd(bench: Bench) -> Iterator[None]:
    host = bench.host("h3")
    host.run("pkill", "-f", "^sshd: /usr/sbin/sshd -D")
    host.run("sh", "-c", "while pgrep -f '^sshd: /usr/sbin/sshd -D'; do sleep 0.02; done")
    try:
        yield
    finally:
        start_sshd(bench)


def start_sshd(bench: Bench) -> None:
    host = bench.host("h3")
    if host.run("pgrep", "-f", "^(sshd: )?/usr/sbin/sshd -D", check=False).returncode == 0:
        return
    host.start_ssh()
    host.run("sh", "-c", f"until ssh-keyscan {host.address} 2>/dev/null | grep -q ssh; do sleep 0.05; done")


async def switch_it_on(case: Case, _: Fix) -> None:
    start_sshd(case.bench)
    await case.checklist.connect()


@contextmanager
def no_shell(bench: Bench) -> Iterator[None]:
    host = bench.host("h2")
    host.run("usermod", "--shell", "/usr/sbin/nologin", LOGIN_USER)
    try:
        yield
    finally:
        host.run("usermod", "--shell", "/bin/bash", LOGIN_USER)


async def as_root(case: Case, fix: Fix) -> None:
    """The account itself runs nothing, so another one does, as the fix says."""
    for command in fix.commands:
        case.bench.rig.ssh(fix.host, command, user="root")
    await case.reconnect()


def twice(bench: Bench) -> str:
    """Name h2 again as h3, with another account: one address and account twice is refused when the file is read."""
    h2, h3 = bench.host("h2"), bench.host("h3")
    before, start, entry = healthy_text(bench).partition('name = "h3"')
    entry = entry.replace(h3.address, h2.address).replace(h3.fingerprint, h2.fingerprint)
    return before + start + entry.replace(f'user = "{LOGIN_USER}"', 'user = "root"')


@contextmanager
def cloned_disk(bench: Bench) -> Iterator[None]:
    original, clone = bench.host("h2"), bench.host("h3")
    own = clone.run("cat", "/etc/machine-id").stdout
    clone.run("sh", "-c", "cat >/etc/machine-id", input=original.run("cat", "/etc/machine-id").stdout)
    try:
        yield
    finally:
        clone.run("sh", "-c", "chmod u+w /etc/machine-id; cat >/etc/machine-id", input=own)


@contextmanager
def wrong_clock(bench: Bench) -> Iterator[None]:
    """Tell every login 40 s too much. The kernel has one clock for all namespaces, so it is told by a library."""
    host = bench.host("h2")
    wrong = f"SetEnv LD_PRELOAD={LIBFAKETIME} FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1\n"
    with changed_file(host, "/etc/ssh/sshd_config"):
        host.run("sh", "-c", f"echo +40s >{CLOCK}; cat >>/etc/ssh/sshd_config", input=wrong)
        reload_sshd(host)
        try:
            yield
        finally:
            host.run("rm", "-f", CLOCK)
    reload_sshd(host)


FAULTS = (
    Fault(
        name="unknown-host-key",
        codes=("PF-01",),
        inject=lambda _: nullcontext(),
        text=unpinned,
        known_hosts=without_h2,
        check="ssh",
        at=("h2",),
        reason="first contact",
        fix="compare the fingerprint",
        repair=compare_and_accept,
    ),
    Fault(
        name="changed-host-key",
        codes=("PF-01",),
        inject=lambda _: nullcontext(),
        text=unpinned,
        known_hosts=with_another_key,
        check="ssh",
        at=("h2",),
        reason="the host key has changed",
        fix="ssh-keygen -R",
        repair=forget_and_accept,
    ),
    Fault(
        name="wrongly-pinned-host-key",
        codes=("PF-01",),
        inject=lambda _: nullcontext(),
        text=wrongly_pinned,
        check="ssh",
        at=("h2",),
        reason="the host key has changed",
        fix="correct host_key in cluster.toml",
        repair=correct_the_file,
    ),
    Fault(
        name="login-refused",
        codes=("PF-01",),
        inject=no_key,
        check="ssh",
        at=("h2",),
        reason="login refused",
        fix=f"ssh-copy-id {LOGIN_USER}@",
        repair=copy_the_key,
    ),
    Fault(
        name="no-ssh-server",
        codes=("PF-01",),
        inject=no_sshd,
        check="ssh",
        at=("h3",),
        reason="not reachable",
        fix="SSH server",
        repair=switch_it_on,
    ),
    Fault(
        name="no-login-shell",
        codes=("PF-03",),
        inject=no_shell,
        check="shell",
        at=("h2",),
        reason="does not run commands",
        fix=f"chsh -s /bin/sh {LOGIN_USER}",
        repair=as_root,
    ),
    Fault(
        name="same-machine-twice",
        codes=("PF-05",),
        inject=lambda _: nullcontext(),
        text=twice,
        check="duplicates",
        at=("",),
        reason="h2 = h3",
        fix="remove all but one",
        repair=correct_the_file,
    ),
    Fault(
        name="cloned-disk",
        codes=("PF-05",),
        inject=cloned_disk,
        check="duplicates",
        at=("",),
        reason="h2 = h3",
        fix="systemd-machine-id-setup",
    ),
    Fault(
        name="clock-skew",
        codes=("PF-06",),
        inject=wrong_clock,
        check="clock",
        at=("h2",),
        verdict=Verdict.WARN,
        reason="40.0 s ahead of",
        fix="timedatectl set-ntp true",
        looks_at=BESIDE_THE_NETWORK,
    ),
)

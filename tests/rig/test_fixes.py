"""Fixes that need root, against the real sudo of a real host, with an account that has a password."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote.checks.model import Fix
from remote.facts import gather_facts
from remote.fixes import FixOutcome, Way, plan_fix, run_fix
from remote.inventory import Host
from remote.known_hosts import KnownHosts
from remote.ssh import connect
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import LOGIN_USER

pytestmark = pytest.mark.rig

PASSWORD = "correct 'horse' $battery \\staple % ü"
FIX = Fix(
    "write what only root may write",
    ("echo 'a line' | sudo tee /srv/root/written", "sudo sh -c 'id -u; wc -c </proc/self/environ' >ids", "id -un"),
    host="h1",
    needs_root=True,
    safe=True,
)


@pytest.fixture(scope="module")
def sudo_host(rig_possible: None) -> Iterator[tuple[Rig, RigHost]]:
    with Rig(hosts=1) as rig:
        host = rig.hosts[0]
        host.run("chpasswd", input=f"{LOGIN_USER}:{PASSWORD}\n")
        (host.folder / "etc/sudoers").write_text(f"Defaults !fqdn\n{LOGIN_USER} ALL=(ALL) ALL\n")
        (host.folder / "etc/sudoers").chmod(0o440)
        yield rig, host


def run(place: tuple[Rig, RigHost], password: str, fix: Fix = FIX, *, way: Way = Way.PASSWORD) -> FixOutcome:
    rig, host = place

    async def over_ssh() -> FixOutcome:
        entry = Host(
            name=host.name,
            address=host.address,
            user=LOGIN_USER,
            identity_file=str(rig.identity_file),
            host_key=host.fingerprint,
        )
        runner = await connect(entry, known_hosts=KnownHosts())
        try:
            plan = plan_fix(fix, await gather_facts(runner))
            assert plan.way is way
            return await run_fix(runner, plan, password=password)
        finally:
            await runner.close()

    return asyncio.run(over_ssh())


def written(place: tuple[Rig, RigHost]) -> Path:
    return place[1].folder / "srv/root/written"


def traces(place: tuple[Rig, RigHost]) -> list[str]:
    """Files of the host that hold the password in clear."""
    secret = PASSWORD.encode()
    found = []
    for folder, _, names in os.walk(place[1].folder):
        for path in (Path(folder, name) for name in names):
            if path.is_file() and not path.is_symlink() and secret in path.read_bytes():
                found.append(str(path))
    return found


def test_a_fix_runs_as_root_with_the_password_and_the_password_stays_nowhere(sudo_host: tuple[Rig, RigHost]) -> None:
    outcome = run(sudo_host, PASSWORD)
    assert outcome.succeeded, outcome
    assert outcome.output == f"a line\n{LOGIN_USER}"
    assert written(sudo_host).read_text() == "a line\n"
    assert (sudo_host[1].folder / "srv" / LOGIN_USER / "ids").read_text().startswith("0\n")
    assert PASSWORD not in repr(outcome)
    assert traces(sudo_host) == []


def test_a_wrong_password_runs_nothing_and_is_said(sudo_host: tuple[Rig, RigHost]) -> None:
    written(sudo_host).unlink(missing_ok=True)
    outcome = run(sudo_host, "wrong")
    assert outcome.refused == "sudo did not take the password"
    assert not outcome.succeeded
    assert not written(sudo_host).exists()


def test_the_ticket_does_not_outlive_the_fix(sudo_host: tuple[Rig, RigHost]) -> None:
    assert run(sudo_host, PASSWORD).succeeded
    assert run(sudo_host, "wrong").refused


def test_who_may_not_use_sudo_is_told_so(sudo_host: tuple[Rig, RigHost]) -> None:
    sudoers = sudo_host[1].folder / "etc/sudoers"
    before = sudoers.read_text()
    sudo_host[1].run("sh", "-c", "echo 'root ALL=(ALL) ALL' >/etc/sudoers")
    try:
        assert run(sudo_host, PASSWORD).refused == "this user may not use sudo on that host"
    finally:
        sudo_host[1].run("sh", "-c", "cat >/etc/sudoers", input=before)


def test_where_sudo_asks_for_nothing_nothing_is_asked(sudo_host: tuple[Rig, RigHost]) -> None:
    sudo_host[1].run("sh", "-c", f"echo '{LOGIN_USER} ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers")
    written(sudo_host).unlink(missing_ok=True)
    outcome = run(sudo_host, "", way=Way.SUDO)
    assert outcome.succeeded, outcome
    assert written(sudo_host).read_text() == "a line\n"

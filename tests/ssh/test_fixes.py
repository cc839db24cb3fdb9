"""Fixes: what may be run from here, and what really runs, over SSH on an embedded host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from remote.checks.model import Fix
from remote.embedded import EmbeddedHost, RunningHost, embedded_hosts
from remote.errors import CommandFailed
from remote.facts import Facts, gather_facts
from remote.fixes import FixPlan, Way, plan_fix, run_fix, script
from remote.ssh import SshRunner, connect
from tests.ssh.spying import files_holding

ROOT = Facts(host="alpha", user="root", sudo="root")
FREE = Facts(host="alpha", user="anna", sudo="nopass")
ASKED = Facts(host="alpha", user="anna", sudo="no")
TIME = Fix("set the clock", ("sudo timedatectl set-ntp true",), host="alpha", needs_root=True, safe=True)


@pytest.mark.parametrize(
    ("fix", "facts", "way"),
    [
        (TIME, ASKED, Way.PASSWORD),
        (TIME, FREE, Way.SUDO),
        (TIME, ROOT, Way.SUDO),
        (TIME, None, Way.COPY),
        (dataclasses.replace(TIME, safe=False), ASKED, Way.COPY),
        (dataclasses.replace(TIME, host=""), ASKED, Way.COPY),
        (dataclasses.replace(TIME, commands=()), ASKED, Way.COPY),
        (dataclasses.replace(TIME, commands=("New-NetFirewallHyperVRule",)), ASKED, Way.COPY),
        (Fix("install", ("pip install torch",), host="alpha", safe=True), ASKED, Way.USER),
        (Fix("install", ("pip install torch",), host="alpha", safe=True), None, Way.USER),
        (Fix("look", ("docker system df",), host="alpha"), ASKED, Way.COPY),
    ],
)
def test_only_what_is_safe_and_placed_is_run_from_here(fix: Fix, facts: Facts | None, way: Way) -> None:
    plan = plan_fix(fix, facts)
    assert plan.way is way
    assert bool(plan.reason) == (way is Way.COPY)


async def test_runs_the_commands_in_order_and_stops_at_the_first_that_fails(
    host: RunningHost, runner: SshRunner
) -> None:
    plan = plan_fix(
        Fix("x", ("echo 'one [rank0]' > done", "cat done | tr a-z A-Z", "false", "touch never"), "alpha", safe=True),
        await gather_facts(runner),
    )
    outcome = await run_fix(runner, plan)
    assert (outcome.exit_status, outcome.succeeded, outcome.output) == (1, False, "ONE [RANK0]")
    assert (host.home / "done").exists()
    assert not (host.home / "never").exists()


async def test_a_command_that_reads_gets_the_end_of_input(runner: SshRunner) -> None:
    plan = FixPlan(Way.USER, "alpha", "demo", ("cat", "read answer || echo nobody answers"))
    outcome = await run_fix(runner, plan)
    assert (outcome.exit_status, outcome.output) == (0, "nobody answers")


async def test_root_needs_no_sudo_on_the_host(host: RunningHost, runner: SshRunner) -> None:
    plan = plan_fix(Fix("x", ("echo a b | sudo tee file",), "alpha", needs_root=True, safe=True), ROOT)
    outcome = await run_fix(runner, plan, is_root=True)
    assert (outcome.exit_status, outcome.output) == (0, "a b")
    assert (host.home / "file").read_text() == "a b\n"


async def test_what_is_only_to_be_copied_is_never_run(host: RunningHost, runner: SshRunner) -> None:
    with pytest.raises(CommandFailed, match="not run from here"):
        await run_fix(runner, FixPlan(Way.COPY, "alpha", "", ("touch never",), "by hand"))
    with pytest.raises(CommandFailed, match="not run from here"):
        await run_fix(runner, FixPlan(Way.USER, "beta", "", ("touch never",)))
    assert not (host.home / "never").exists()


@pytest.mark.parametrize("password", ["two\nlines", "nul\0"])
async def test_a_password_is_one_line(runner: SshRunner, password: str) -> None:
    with pytest.raises(CommandFailed, match="no line break"):
        await run_fix(runner, FixPlan(Way.PASSWORD, "alpha", "anna", ("true",)), password=password)


def test_the_password_is_in_no_command() -> None:
    text = script(("sudo true",), Way.PASSWORD)
    assert "read -r password" in text
    assert text.index("exec </dev/null") < text.index("sudo true\n")
    assert text.index("unset password") < text.index("exec </dev/null")


SUDO = """#!/bin/sh
# Takes the password as sudo does, and notes what everybody could see before and after.
case "$*" in
    *-v*) cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>"$HOME/seen" 2>/dev/null
        IFS= read -r given; [ "$given" = {password} ] || exit 1
        cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>"$HOME/seen" 2>/dev/null; exit 0 ;;
    -k) exit 0 ;;
esac
shift
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>"$HOME/seen" 2>/dev/null
env; exec "$@"
"""


async def test_the_password_is_seen_in_no_command_line_no_environment_and_no_file(tmp_path: Path) -> None:
    password = "tr0ub4dor-9vQ"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sudo").write_text(SUDO.format(password=password))
    (tools / "sudo").chmod(0o755)
    spec = EmbeddedHost("alpha", env={"PATH": f"{tools}:/usr/bin:/bin"})
    async with embedded_hosts([spec]) as cluster:
        runner = await connect(cluster["alpha"].inventory_host())
        plan = plan_fix(Fix("x", ("echo done | sudo tee file",), "alpha", needs_root=True, safe=True), ASKED)
        assert plan.way is Way.PASSWORD
        outcome = await run_fix(runner, plan, password=password)
        await runner.close()
        assert outcome.output.endswith("done"), outcome
        assert password not in repr(outcome) + repr(plan)
        assert files_holding(cluster["alpha"].home, [password.encode()]) == []
        assert b"tee" in (cluster["alpha"].home / "seen").read_bytes()

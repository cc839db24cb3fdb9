from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from remote.checks.context import CheckContext
from remote.checks.model import (
    Check,
    CheckProgress,
    CheckResult,
    CheckStarted,
    Finding,
    Fix,
    Scope,
    Severity,
    Verdict,
    each_host,
    fail,
    ok,
    skip,
    unknown,
    warn,
    whole_cluster,
)
from remote.checks.run import run_checks, summarize
from remote.errors import ConnectError, RemoteError, UserError
from remote.facts import Facts
from remote.inventory import Cluster, Host, Inventory
from remote.runner import Runner

HostProbe = Callable[[CheckContext, str], Awaitable[Finding]]


def context(*hosts: str, gather: Callable[[str], Awaitable[Facts]] | None = None) -> CheckContext:
    inventory = Inventory(cluster=Cluster(name="c"), hosts=tuple(Host(name=name) for name in hosts))

    def no_runner(name: str) -> Runner:
        raise ConnectError("not connected", host=name)

    async def nothing(name: str) -> Any:
        raise RemoteError("not asked for", host=name)

    return CheckContext(inventory, runner=no_runner, gather=gather or nothing, engine=nothing, runs=nothing)


def check(
    name: str,
    probe: HostProbe,
    *,
    needs: Sequence[str] = (),
    severity: Severity = Severity.BLOCKS,
    deadline: float = 5.0,
    codes: tuple[str, ...] = (),
    is_source: bool = False,
) -> Check:
    return Check(
        id=name,
        title=name.title(),
        codes=codes,
        severity=severity,
        scope="host",
        question="?",
        remedy="!",
        probe=each_host(probe),
        needs=tuple(needs),
        deadline=deadline,
        is_source=is_source,
    )


def wide(name: str, scope: Scope, probe: Any, *, needs: Sequence[str] = ()) -> Check:
    return Check(
        id=name, title=name.title(), codes=(), severity=Severity.BLOCKS, scope=scope, question="?", remedy="!",
        probe=probe, needs=tuple(needs),
    )  # fmt: skip


def says(finding: Finding) -> HostProbe:
    async def probe(_: CheckContext, __: str) -> Finding:
        return finding

    return probe


async def run(over: CheckContext, *catalogue: Check, **which: Any) -> list[CheckProgress]:
    return [each async for each in run_checks(over, catalogue=catalogue, **which)]


def results(progress: Sequence[CheckProgress]) -> dict[tuple[str, str], Finding]:
    return {(each.check_id, each.host): each.finding for each in progress if isinstance(each, CheckResult)}


async def test_order_is_that_of_catalogue_and_inventory() -> None:
    catalogue = (check("a", says(ok("fine"))), check("b", says(ok("fine")), needs=("a",)))
    progress = await run(context("x", "y"), *catalogue)
    assert [(type(each).__name__, each.check_id, each.host) for each in progress] == [
        ("CheckStarted", "a", "x"),
        ("CheckResult", "a", "x"),
        ("CheckStarted", "a", "y"),
        ("CheckResult", "a", "y"),
        ("CheckStarted", "b", "x"),
        ("CheckResult", "b", "x"),
        ("CheckStarted", "b", "y"),
        ("CheckResult", "b", "y"),
    ]


@pytest.mark.parametrize("finding", [fail("broken"), unknown("nobody knows")])
async def test_what_needs_a_bad_check_is_skipped_naming_the_root(finding: Finding) -> None:
    catalogue = (
        check("a", says(finding)),
        check("b", says(ok("fine")), needs=("a",)),
        check("c", says(ok("fine")), needs=("b",)),
    )
    found = results(await run(context("x"), *catalogue))
    for name in ("b", "c"):
        assert found[name, "x"].verdict is Verdict.SKIP
        assert "“A” (a)" in found[name, "x"].reason
        assert finding.reason in found[name, "x"].reason


async def test_a_skipped_check_is_not_announced_as_running() -> None:
    progress = await run(context("x"), check("a", says(fail("no"))), check("b", says(ok("")), needs=("a",)))
    assert CheckStarted("b", "x") not in progress


async def test_a_warning_is_good_enough() -> None:
    found = results(await run(context("x"), check("a", says(warn("hm"))), check("b", says(ok("fine")), needs=("a",))))
    assert found["b", "x"].verdict is Verdict.OK


async def test_what_does_not_apply_is_passed_on_as_it_is() -> None:
    catalogue = (check("a", says(skip("not here"))), check("b", says(ok("fine")), needs=("a",)))
    found = results(await run(context("x"), *catalogue))
    assert found["b", "x"] == skip("not here")


async def test_a_check_that_hangs_is_unknown_after_its_deadline_and_ends() -> None:
    ended = asyncio.Event()

    async def hang(_: CheckContext, __: str) -> Finding:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    found = results(await run(context("x"), check("a", hang, deadline=0.05), check("b", says(ok("fine")))))
    assert found["a", "x"] == unknown("no answer within 0.05 s")
    assert found["b", "x"].verdict is Verdict.OK
    assert ended.is_set()


async def test_a_hanging_host_delays_nobody() -> None:
    async def probe(_: CheckContext, host: str) -> Finding:
        if host == "slow":
            await asyncio.Event().wait()
        return ok("fine")

    catalogue = (check("a", probe, deadline=0.2), check("b", says(ok("fine")), needs=("a",)))
    order = list(results(await run(context("slow", "fast"), *catalogue)))
    assert order == [("a", "fast"), ("b", "fast"), ("a", "slow"), ("b", "slow")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RemoteError("the engine said no", host="x"), "the engine said no"),
        (TimeoutError("`x` did not end"), "`x` did not end"),
        (ZeroDivisionError("division by zero"), "the check itself broke: ZeroDivisionError: division by zero"),
    ],
)
async def test_a_probe_that_raises_is_unknown_with_the_reason(error: Exception, reason: str) -> None:
    async def probe(_: CheckContext, __: str) -> Finding:
        raise error

    found = results(await run(context("x"), check("a", probe)))
    assert found["a", "x"].verdict is Verdict.UNKNOWN
    assert found["a", "x"].reason == reason


async def test_a_cluster_check_looks_at_the_good_hosts_and_is_not_ok_without_the_others() -> None:
    seen: list[tuple[str, ...]] = []

    async def probe(_: CheckContext, hosts: tuple[str, ...]) -> Finding:
        seen.append(hosts)
        return ok("the same")

    async def first(_: CheckContext, host: str) -> Finding:
        return {"bad": fail("down"), "other": skip("not here")}.get(host, ok("fine"))

    catalogue = (check("a", first), wide("same", "cluster", whole_cluster(probe), needs=("a",)))
    found = results(await run(context("x", "bad", "other", "y"), *catalogue))
    assert seen == [("x", "y")]
    why = "needs “A” (a), which failed: down (bad not looked at; the others: the same)"
    assert (found["same", ""].verdict, found["same", ""].reason.lower()) == (Verdict.SKIP, why.lower())
    found = results(await run(context("x", "other"), *catalogue))
    assert found["same", ""].verdict is Verdict.OK


async def test_a_pair_check_answers_for_each_host() -> None:
    async def probe(_: CheckContext, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
        return {host: ok(f"one of {len(hosts)}") for host in hosts if host != "forgotten"}

    async def first(_: CheckContext, host: str) -> Finding:
        return fail("down") if host == "bad" else ok("fine")

    catalogue = (
        check("a", first),
        wide("pairs", "pair", probe, needs=("a",)),
        check("after", says(ok("fine")), needs=("pairs",)),
    )
    found = results(await run(context("x", "bad", "forgotten"), *catalogue))
    assert found["pairs", "x"] == ok("one of 2")
    assert found["pairs", "bad"].verdict is Verdict.SKIP
    assert found["pairs", "forgotten"].verdict is Verdict.UNKNOWN
    assert found["after", "x"].verdict is Verdict.OK
    assert found["after", "bad"].verdict is Verdict.SKIP


async def test_a_warning_check_never_fails() -> None:
    found = results(await run(context("x"), check("a", says(fail("no")), severity=Severity.WARNS)))
    assert found["a", "x"].verdict is Verdict.WARN


async def test_a_rerun_asks_what_was_not_fine_and_what_others_read_again() -> None:
    asked: list[str] = []
    verdict = {"source": ok("s"), "good": ok("g"), "bad": fail("b")}

    def counting(name: str) -> HostProbe:
        async def probe(_: CheckContext, __: str) -> Finding:
            asked.append(name)
            return verdict.get(name, ok("fine"))

        return probe

    catalogue = (
        check("source", counting("source"), is_source=True),
        check("good", counting("good")),
        check("bad", counting("bad")),
        check("last", counting("last"), needs=("source", "good", "bad"), codes=("PF-01",)),
    )
    over = context("x")
    await run(over, *catalogue)
    assert asked == ["source", "good", "bad"]
    asked.clear()
    verdict["bad"] = ok("mended")
    found = results(await run(over, *catalogue, only={"PF-01"}))
    assert asked == ["source", "bad", "last"]
    assert found["last", "x"].verdict is Verdict.OK


async def test_facts_are_read_once_a_run_and_anew_in_the_next() -> None:
    count = 0

    async def gather(name: str) -> Facts:
        nonlocal count
        count += 1
        return Facts(host=name, hostname=str(count))

    async def probe(over: CheckContext, host: str) -> Finding:
        return ok((await over.facts(host)).hostname)

    over = context("x", gather=gather)
    catalogue = (check("a", probe), check("b", probe))
    found = results(await run(over, *catalogue))
    assert (found["a", "x"].reason, found["b", "x"].reason) == ("1", "1")
    found = results(await run(over, *catalogue, only={"b"}))
    assert found["b", "x"].reason == "2"


async def test_closing_ends_every_probe() -> None:
    running = 0

    async def hang(_: CheckContext, __: str) -> Finding:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
        raise AssertionError

    progress = run_checks(context("x", "y"), catalogue=(check("a", hang),))
    assert await anext(progress) == CheckStarted("a", "x")
    await progress.aclose()
    assert running == 0
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("check ")]


async def test_what_a_host_said_reaches_nobody_as_escape_codes() -> None:
    hostile = "\x1b[2J\x9b31mred\r\nnext\u202e line\x07"
    finding = Finding(Verdict.FAIL, hostile, f"one\ttwo\n{hostile}", Fix(hostile, (f"echo {hostile}",)))
    found = results(await run(context("x"), check("a", says(finding))))["a", "x"]
    assert found.fix is not None
    for text in (found.reason, found.fix.text, *found.fix.commands):
        assert text.isprintable()
    assert all(line.replace("\t", "").isprintable() for line in found.evidence.split("\n"))
    assert found.evidence.startswith("one\ttwo\n")


async def test_unknown_names_are_refused() -> None:
    catalogue = (check("a", says(ok("fine"))),)
    with pytest.raises(UserError, match="no check named nosuch; there are: a"):
        await run(context("x"), *catalogue, only={"nosuch"})
    with pytest.raises(UserError, match="no host named nosuch"):
        await run(context("x"), *catalogue, hosts={"nosuch"})


@pytest.mark.parametrize(
    ("finding", "severity", "exit_code"),
    [
        (ok("fine"), Severity.BLOCKS, 0),
        (warn("hm"), Severity.BLOCKS, 0),
        (skip("not here"), Severity.BLOCKS, 0),
        (fail("no"), Severity.BLOCKS, 1),
        (unknown("?"), Severity.BLOCKS, 1),
        (unknown("?"), Severity.WARNS, 0),
        (fail("no"), Severity.WARNS, 0),
    ],
)
async def test_exit_code(finding: Finding, severity: Severity, exit_code: int) -> None:
    catalogue = (check("a", says(finding), severity=severity), check("b", says(ok("fine"))))
    progress = await run(context("x"), *catalogue)
    found = [each for each in progress if isinstance(each, CheckResult)]
    summary = summarize(found, catalogue)
    assert summary.exit_code == exit_code
    assert sum(summary.counts.values()) == 2


async def test_the_last_result_of_a_check_counts() -> None:
    catalogue = (check("a", says(ok("fine"))),)
    old, new = CheckResult("a", "x", fail("no")), CheckResult("a", "x", ok("mended"))
    assert summarize([old, new], catalogue).exit_code == 0

"""One fault at a time: exactly its check turns red, the fix is applied, and it turns green."""

from __future__ import annotations

import pytest

from remote.checks.model import Fix, Verdict
from tests.rig.clusters import write_cluster
from tests.rig.faults.bench import EVERYTHING, Bench, Checklist
from tests.rig.faults.model import Case, Fault, fix_words, healthy_text
from tests.rig.faults.table import FAULTS

pytestmark = pytest.mark.rig

FOLLOWS = ("needs “", "runtime is process")
"""How the reason of a skip begins that names what stands in the way, or that the fault's file does without Docker."""
RED = (Verdict.FAIL, Verdict.UNKNOWN)


async def test_five_healthy_runs_in_a_row_raise_no_alarm(bench: Bench) -> None:
    checklist = Checklist(healthy_text(bench))
    try:
        await checklist.connect()
        for _ in range(5):
            await checklist.run(*EVERYTHING)
            assert checklist.with_verdict(*RED, Verdict.WARN) == {}
    finally:
        await checklist.hosts.close()
    assert [host.containers() for host in bench.rig.hosts] == [[], [], []]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_is_one_red_check_and_its_fix_mends_it(
    bench: Bench, fault: Fault, idle: frozenset[tuple[str, str]]
) -> None:
    text = fault.text(bench)
    write_cluster(bench.folder, text)
    places = [(fault.check, host) for host in fault.at]
    known_hosts = fault.known_hosts(bench) if fault.known_hosts else None
    case = Case(bench, Checklist(text, known_hosts), text)
    try:
        with fault.inject(bench):
            await case.checklist.connect()
            await case.checklist.run(*fault.looks_at)
            found = case.checklist
            reds, warns = found.with_verdict(*RED), found.with_verdict(Verdict.WARN)
            assert set(found.with_verdict(Verdict.UNKNOWN)) == set(), reds
            if fault.verdict is Verdict.FAIL:
                assert set(reds) == set(places), (reds, warns)
                assert set(warns) <= fault.also_warns, warns
            else:
                assert (reds, set(places) - set(warns)) == ({}, set()), (reds, warns)
                assert set(warns) <= set(places) | fault.also_warns, warns
            consequences = found.with_verdict(Verdict.SKIP).items()
            assert [each for each in consequences if each[0] not in idle and not each[1].startswith(FOLLOWS)] == []
            fixes: list[Fix] = []
            for place in places:
                finding = found.results[place]
                assert fault.reason in finding.reason
                assert finding.fix is not None
                assert fault.fix in fix_words(finding)
                if finding.fix not in fixes:
                    fixes.append(finding.fix)

            for fix in fixes:
                await fault.repair(case, fix)
            await case.checklist.run(fault.check)
            left = {place: case.checklist.results[place] for place in places}
            assert {place: each.reason for place, each in left.items() if each.verdict is not Verdict.OK} == {}
    finally:
        await case.checklist.hosts.close()

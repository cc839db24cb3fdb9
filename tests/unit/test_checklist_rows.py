"""Which rows of the checklist are shown, and which checks are asked again after a fix. Pure."""

from __future__ import annotations

from hetero_tui.checklist import CheckRow, GroupRow, Place, affected, passes, rows, worst
from hetero_tui.session import CheckInfo
from remote.checks.catalogue import CATALOGUE, GROUPS
from remote.checks.model import CheckResult, Finding, Verdict

HOSTS = ("a", "b")
CHECKS = (
    CheckInfo("ssh", "SSH login", "blocks", "host", (), "Hosts"),
    CheckInfo("clock", "Clock", "warns", "host", ("ssh",), "Hosts"),
    CheckInfo("probe", "Probe", "blocks", "host", ("ssh",), "Network", is_source=True),
    CheckInfo("ports", "Data ports", "blocks", "host", ("probe",), "Network"),
    CheckInfo("mtu", "Full packets", "blocks", "host", ("ports",), "Network"),
    CheckInfo("same", "Same torch", "blocks", "cluster", (), "Software"),
)


def result(check: str, host: str, verdict: Verdict, reason: str = "") -> tuple[Place, CheckResult]:
    return Place(check, host), CheckResult(check, host, Finding(verdict, reason))


RESULTS = dict(
    [
        result("ssh", "a", Verdict.OK),
        result("clock", "b", Verdict.WARN, "2.4 s ahead"),
        result("ports", "a", Verdict.FAIL, "DROP rule"),
        result("mtu", "a", Verdict.SKIP, "needs ports"),
    ]
)


def shown(**options: object) -> list[str]:
    found = rows(CHECKS, RESULTS, HOSTS, **options)  # type: ignore[arg-type]
    return [row.check.id if isinstance(row, CheckRow) else f"[{row.group}]" for row in found]


def test_groups_have_headings_and_fold() -> None:
    assert shown() == ["[Hosts]", "ssh", "clock", "[Network]", "probe", "ports", "mtu", "[Software]", "same"]
    assert shown(folded=frozenset({"Hosts", "Software"})) == [
        "[Hosts]", "[Network]", "probe", "ports", "mtu", "[Software]"
    ]  # fmt: skip


def test_the_worst_first_is_a_flat_list() -> None:
    assert shown(failing_first=True) == ["ports", "clock", "mtu", "ssh", "probe", "same"]


def test_a_filter_looks_into_folded_groups_and_answers() -> None:
    folded = frozenset({"Hosts", "Network"})
    assert shown(folded=folded, wanted="drop") == ["[Network]", "ports"]
    assert shown(wanted="network !ports !probe") == []
    assert shown(wanted="network !data") == ["[Network]", "probe", "mtu"]
    assert passes(CHECKS[1], RESULTS, HOSTS, "CLOCK warn b")
    assert not passes(CHECKS[1], RESULTS, HOSTS, "clock fail")


def test_a_heading_counts_what_is_worst() -> None:
    places = [Place(check, host) for check in ("ssh", "clock", "ports") for host in HOSTS]
    assert worst(RESULTS, places) == (Verdict.FAIL, 1)
    assert worst(RESULTS, [Place("same", "")]) is None
    heading = rows(CHECKS, RESULTS, HOSTS)[0]
    assert isinstance(heading, GroupRow)
    assert [check.id for check in heading.checks] == ["ssh", "clock"]


def test_a_fix_concerns_its_check_what_depends_on_it_and_what_reads_the_same_source() -> None:
    assert affected(CHECKS, "clock") == {"clock"}
    assert affected(CHECKS, "mtu") == {"mtu", "probe", "ports"}
    assert affected(CHECKS, "ssh") == {"ssh", "clock", "probe", "ports", "mtu"}


def test_every_check_of_the_catalogue_is_in_one_group() -> None:
    grouped = [check.id for _, checks in GROUPS for check in checks]
    assert grouped == [check.id for check in CATALOGUE]
    assert len(set(grouped)) == len(grouped)


def test_fixes_that_may_be_run_never_end_or_remove_what_is_not_ours() -> None:
    from pathlib import Path

    import remote.checks

    words = ("docker rm", "docker kill", "docker stop", "prune", "rm -rf", "snap remove", "pkill", "rm -f")
    for path in sorted(Path(remote.checks.__file__).parent.glob("*.py")):
        text = path.read_text("utf-8")
        for block in text.split("Fix(")[1:]:
            fix = block.split("\n        ),\n")[0][:900].split("Fix(")[0]
            if "safe=True" in fix.split("return ")[0]:
                assert not [word for word in words if word in fix.split("safe=True")[0]], f"{path.name}: {fix[:200]}"

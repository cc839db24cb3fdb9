from __future__ import annotations

import ast
import re
from pathlib import Path

from remote.checks import docs
from remote.checks.catalogue import CATALOGUE
from remote.checks.elsewhere import ELSEWHERE
from remote.checks.model import Severity
from remote.checks.network_probe import script

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_catalogue_says() -> None:
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert page == docs.render(), "python -m remote.checks.docs > docs/checks.md"


def test_ids_and_codes_are_unique_and_well_formed() -> None:
    ids = [check.id for check in CATALOGUE]
    codes = [code for check in CATALOGUE for code in check.codes]
    assert len(ids) == len(set(ids))
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z][a-z-]*[a-z]", each) for each in ids)
    assert all(re.fullmatch(r"PF-\d\d", each) for each in codes)


def test_every_failure_mode_is_looked_for_or_accounted_for() -> None:
    """A number that is neither would be forgotten; one that is both would be told twice."""
    found = [code for check in CATALOGUE for code in check.codes]
    assert sorted([*found, *ELSEWHERE]) == [f"PF-{number:02}" for number in range(1, 77)]


def test_every_check_comes_after_what_it_needs() -> None:
    seen: set[str] = set()
    for check in CATALOGUE:
        assert seen.issuperset(check.needs), check.id
        assert seen.issuperset(check.after), check.id
        seen.add(check.id)


def test_a_blocking_check_hangs_on_blocking_ones_only() -> None:
    """Else an unanswered warning would leave it skipped, and the exit code 0."""
    severity = {check.id: check.severity for check in CATALOGUE}
    for check in CATALOGUE:
        if check.severity is Severity.BLOCKS:
            assert all(severity[need] is Severity.BLOCKS for need in check.needs), check.id


def test_host_checks_need_no_answer_of_the_whole_cluster() -> None:
    scope = {check.id: check.scope for check in CATALOGUE}
    for check in CATALOGUE:
        if check.scope == "host":
            assert all(scope[need] != "cluster" for need in check.needs), check.id


def test_the_probe_is_python_3_6() -> None:
    tree = ast.parse(script(), feature_version=(3, 6))
    imported = {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert imported == {
        "errno",
        "fcntl",
        "json",
        "os",
        "platform",
        "random",
        "resource",
        "socket",
        "struct",
        "sys",
        "threading",
        "time",
    }

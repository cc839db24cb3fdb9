"""Which worker of the test run gets which files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lanes import SECONDS, WORKERS, lane

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_file_that_is_called_long_is_there() -> None:
    assert [path for path in SECONDS if not (REPOSITORY / path).is_file()] == []


def test_every_worker_has_files_of_its_own() -> None:
    files = [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert {lane(path) for path in files} == set(range(WORKERS))


@pytest.mark.parametrize(
    ("path", "alike"),
    [
        ("tests/rig/test_deaths.py", "tests/rig/chaos/test_chaos.py"),
        ("tests/trainer/test_elastic.py", "tests/ssh/test_results.py"),
        ("tests/trainer/test_balance_noise.py", "tests/unit/test_lanes.py"),
    ],
)
def test_files_of_one_kind_are_one_workers(path: str, alike: str) -> None:
    assert lane(path) == lane(alike)

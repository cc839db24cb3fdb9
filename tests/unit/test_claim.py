"""What was created and never started holds its host for a while, by a clock that nobody sets."""

from __future__ import annotations

import pytest

from remote.claim import ABANDONED_SECONDS, SinceBoot, is_being_launched

BOOT = "0f5c7d3e-8f5e-4f0e-9d3a-3a1e2b4c5d6f"
OTHER_BOOT = "1f5c7d3e-8f5e-4f0e-9d3a-3a1e2b4c5d6f"
NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.mark.parametrize("jump", [0.0, -DAY, DAY, 400 * DAY])
def test_no_jump_of_the_clock_changes_what_is_on_its_way_and_what_was_given_up(jump: float) -> None:
    now = NOW + jump, SinceBoot(BOOT, 5000.0)
    assert is_being_launched((NOW - 10, SinceBoot(BOOT, 4990.0)), now)
    assert not is_being_launched((NOW - 700, SinceBoot(BOOT, 5000.0 - ABANDONED_SECONDS)), now)
    assert not is_being_launched((NOW - 10, SinceBoot(OTHER_BOOT, 4990.0)), now), "no launch survives a restart"


@pytest.mark.parametrize(("ago", "expected"), [(10.0, True), (-10.0, True), (700.0, False), (-700.0, False)])
def test_where_only_the_clock_on_the_wall_is_known_what_is_far_from_now_was_given_up(
    ago: float, expected: bool
) -> None:
    assert is_being_launched((NOW - ago, None), (NOW, None)) is expected
    assert is_being_launched((NOW - ago, None), (NOW, SinceBoot(BOOT, 1.0))) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{BOOT}\n12345.67 543.21\n", SinceBoot(BOOT, 12345.67)),
        (f"{BOOT} 12345.67", SinceBoot(BOOT, 12345.67)),
        ("", None),
        (BOOT, None),
        (f"{BOOT} nan", None),
        (f"{BOOT} {'9' * 400}", None),
        ("$(reboot) 1", None),
    ],
)
def test_a_host_says_its_boot_and_the_seconds_since_then_or_nothing(text: str, expected: SinceBoot | None) -> None:
    assert SinceBoot.parse(text) == expected
    assert expected is None or SinceBoot.parse(str(expected)) == expected

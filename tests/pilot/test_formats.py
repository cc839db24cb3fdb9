from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tui import formats
from hetero_tui.theme import ASCII, UNICODE, default_theme, to_ascii
from hetero_tui.views import RankState, RunState, StepParts
from hetero_tui.widgets.bars import bar, part_widths, spark
from hetero_tui.widgets.lines import fit
from remote.checks.model import Verdict


@given(st.floats(0, 1e15))
def test_numbers_fit_their_columns(value: float) -> None:
    assert len(formats.rate(value)) <= 5
    assert len(formats.size(value)) <= 6
    assert len(formats.age(min(value, 3e6))) <= 5
    assert len(formats.axis(value)) <= 6


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.counted(1, "line"), "1 line"),
        (formats.counted(0, "line"), "0 lines"),
        (formats.counted(12_044, "line"), "12 044 lines"),
        (formats.rate(0.524), "0.52"),
        (formats.rate(94.12), "94.1"),
        (formats.rate(508.4), "508"),
        (formats.rate(12_400), "12.4k"),
        (formats.rate(float("nan")), "–"),
        (formats.size(None), "–"),
        (formats.size(7_400_000_000), "6.9 G"),
        (formats.size(812 * 2**20), "812 M"),
        (formats.duration(4.24), "4.2 s"),
        (formats.duration(72), "1 m 12 s"),
        (formats.duration(3 * 3600 + 5 * 60), "3 h 05 m"),
        (formats.duration(52 * 3600), "2 d 4 h"),
        (formats.duration(None), "–"),
        (formats.count(12_044), "12 044"),
        (formats.percent(0.9996), "99 %"),
        (formats.percent(1.0), "100 %"),
        (formats.percent(0.8917, 1), "89.2 %"),
        (formats.axis(0.0002), "0.0002"),
        (formats.axis(2.5), "2.5"),
        (formats.short_seconds(0.84), "840 ms"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(-1, 2), st.integers(1, 60), st.booleans())
def test_a_bar_has_its_width(fraction: float, width: int, plain: bool) -> None:
    assert len(bar(fraction, width, ASCII if plain else UNICODE)) == width


@given(st.lists(st.floats(0, 1e6), max_size=80), st.integers(1, 40))
def test_a_spark_has_its_width_and_a_zero_based_scale(values: list[float], width: int) -> None:
    assert len(spark(values, width, 1e6, UNICODE)) == width


def test_nearly_equal_speeds_look_equal() -> None:
    assert len(set(spark([12_000.0, 12_010.0, 11_990.0], 3, 12_010.0, UNICODE))) == 1


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(1, 60))
def test_parts_of_a_step_never_overflow_the_bar(values: list[float], width: int) -> None:
    whole = max(1.0, sum(values))
    widths = part_widths(StepParts(*(value / whole for value in values)), width)
    assert all(each >= 0 for each in widths)
    assert sum(widths) <= width


@given(st.text(alphabet="ab世é", max_size=30), st.integers(0, 20))
def test_fitted_text_has_exactly_its_width(text: str, width: int) -> None:
    from rich.cells import cell_len

    assert cell_len(fit(text, width)) == width


def test_every_state_has_a_glyph_of_one_cell() -> None:
    for glyphs in (UNICODE, ASCII):
        assert set(glyphs.ranks) == set(RankState)
        assert set(glyphs.runs) == set(RunState)
        assert set(glyphs.verdicts) == set(Verdict)
        assert all(len(glyph) == 1 for each in (glyphs.ranks, glyphs.runs, glyphs.verdicts) for glyph in each.values())
    assert all(glyph.isascii() for glyph in ASCII.ranks.values())


def test_ascii_keeps_the_width() -> None:
    assert to_ascii("a…█世⣿") == "a~#???"


@pytest.mark.parametrize(
    ("environment", "theme"),
    [
        ({"TERM": "linux"}, "ansi-dark"),
        ({"TERM": "xterm-256color"}, "textual-dark"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "textual-dark"),
        ({}, "ansi-dark"),
    ],
)
def test_the_theme_fits_the_terminal(environment: dict[str, str], theme: str) -> None:
    assert default_theme(environment) == theme

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hetero_tui.sanitize import MAX_CELLS, clean, clean_block, decode

HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("\x1b\x9b\x9d\x90\x07\x08\r\n\t[];?0123456789mJHKPX^_\\\u202e\u2066\u200b\ud800世é"),
        st.characters(),
    ),
    max_size=400,
)


@given(HOSTILE)
def test_never_lets_a_control_character_through(text: str) -> None:
    result = clean(text)
    for character in result:
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cs", "Zl", "Zp"), repr(result)
        assert unicodedata.bidirectional(character) not in (
            "RLO",
            "LRO",
            "RLE",
            "LRE",
            "PDF",
            "RLI",
            "LRI",
            "FSI",
            "PDI",
        )


@given(HOSTILE)
def test_is_stable(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Nd", "Lo", "Mn", "Zs"]), min_size=1, max_size=300))
def test_never_wider_than_asked(text: str) -> None:
    assert cell_len(clean(text * 20, 120)) <= 120


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain [rank0] line", "plain [rank0] line"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;ZXZpbA==\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r0m\x1b\\dcs", "dcs"),
        ("\x9b2Jwiped\x9d0;title\x9c.", "wiped."),
        ("\x1b[2J\x1b[Hhome", "home"),
        ("\x1b(B\x1b=keys", "keys"),
        (" 10%\r 20%\r 30%", " 30%"),
        ("windows line\r", "windows line"),
        ("a\tb", "a       b"),
        ("one\ntwo", "one two"),
        ("bell\a back\b", "bell back"),
        ("unterminated \x1b]0;title", "unterminated "),
        ("cut CSI \x1b[38;2;1", "cut CSI "),
        ("evil \u202egnp.exe", "evil gnp.exe"),
        ("", ""),
    ],
)
def test_known_attacks_and_habits(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_a_long_line_is_cut_and_says_how_long_it_was() -> None:
    result = clean("x" * 1_000_000)
    assert len(result) == MAX_CELLS
    assert result.endswith(" ... (cut, 1000000 characters)")


def test_a_long_progress_line_shows_its_last_state() -> None:
    assert clean("\r".join(f"{number:3} %" for number in range(100_000))) == "99999 %"


def test_combining_marks_do_not_pile_up() -> None:
    assert len(clean("a" + "\u0301" * 100_000)) <= MAX_CELLS


def test_double_width_characters_count_twice() -> None:
    result = clean("世" * 2000)
    assert cell_len(result) <= MAX_CELLS
    assert "cut, 2000 characters" in result


def test_invalid_utf8_is_visible() -> None:
    assert clean(decode(b"ok \xff\xfe end")) == "ok \ufffd\ufffd end"


def test_a_block_keeps_its_lines_and_cuts_the_middle() -> None:
    assert clean_block("a\n\x1b[1mb\tc") == "a\nb       c"
    block = clean_block("\n".join(str(number) for number in range(1000)), max_lines=10).split("\n")
    assert len(block) == 10
    assert block[0] == "0"
    assert block[3] == "... (991 lines cut)"
    assert block[-1] == "999"

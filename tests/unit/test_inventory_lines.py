"""The line index must agree with the real parser on every text that parser accepts, and never raise on others."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.inventory_lines import KeyPath, index_lines, line_of

TEXT = '''\
title = "x"  # cluster = 1
[cluster]
name = "a"
note = """
name = "not a key"
[hosts]
"""
raw = \'\'\'
[[hosts]]
\'\'\'
[training]
args = [
  "one",  # comment with ] and "
  "two",
]
env = { A = "1", "B C" = "}", D.e = 2 }
a.b.c = 1

[[hosts]]
name = "first"
[hosts.env]
X = "1"
[[hosts]]
"name" = "second"
'quo.ted' = 1
"esc\\u0061ped" = 2
many = """five quotes: """""
after = 1
[[hosts.disks]]
size = 1
[[hosts.disks]]
size = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 1),
        (("cluster",), 2),
        (("cluster", "name"), 3),
        (("cluster", "note"), 4),
        (("cluster", "raw"), 8),
        (("training", "args"), 12),
        (("training", "args", 0), 13),
        (("training", "args", 1), 14),
        (("training", "env", "A"), 16),
        (("training", "env", "B C"), 16),
        (("training", "env", "D", "e"), 16),
        (("training", "a", "b", "c"), 17),
        (("hosts",), 19),
        (("hosts", 0), 19),
        (("hosts", 0, "name"), 20),
        (("hosts", 0, "env", "X"), 22),
        (("hosts", 1), 23),
        (("hosts", 1, "name"), 24),
        (("hosts", 1, "quo.ted"), 25),
        (("hosts", 1, "escaped"), 26),
        (("hosts", 1, "many"), 27),
        (("hosts", 1, "after"), 28),
        (("hosts", 1, "disks", 0, "size"), 30),
        (("hosts", 1, "disks", 1, "size"), 32),
    ],
)
def test_every_kind_of_key_is_found_on_its_line(path: KeyPath, line: int) -> None:
    assert tomli.loads(TEXT)["title"] == "x"
    assert index_lines(TEXT)[path] == line


def test_windows_line_ends() -> None:
    lines = index_lines(TEXT.replace("\n", "\r\n"))
    assert lines["hosts", 1, "disks", 1, "size"] == 32


def test_an_unknown_path_falls_back_to_the_nearest_table() -> None:
    lines = index_lines(TEXT)
    assert line_of(lines, ("hosts", 1, "missing")) == 23
    assert line_of(lines, ("hosts", 7, "name")) == 19
    assert line_of(lines, ("nothing",)) == 1
    assert line_of({}, ()) == 1


@settings(deadline=None)
@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    index_lines(text)


@settings(deadline=None)
@given(st.text(alphabet="[]{}='\"\\.,# \n\ra0-", max_size=60))
def test_texts_full_of_structure_are_survived(text: str) -> None:
    try:
        data = tomli.loads(text)
    except (ValueError, RecursionError):
        index_lines(text)
        return
    lines = index_lines(text)
    for path in _paths(data):
        assert path in lines, f"{path} of {text!r}"


def test_deep_nesting_is_survived() -> None:
    index_lines("a = " + "[" * 100_000)
    index_lines("a" + ".a" * 5_000 + " = 1")


KEYS = st.text(max_size=8).filter(lambda key: key.isprintable() or key == "")
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.text(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    tables=st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4),
    arrays=st.dictionaries(
        KEYS, st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3), max_size=2
    ),
    gaps=st.lists(st.sampled_from(["", "# [x]", "  # a = '''", "\t"]), min_size=1, max_size=4),
)
def test_written_keys_are_found_where_they_were_written(
    tables: dict[str, dict[str, Any]], arrays: dict[str, list[dict[str, Any]]], gaps: list[str]
) -> None:
    written = _Writer(gaps)
    for name, table in tables.items():
        written.line((name,), f"[{_quoted(name)}]")
        written.pairs((name,), table)
    for name, items in arrays.items():
        if name in tables:
            continue
        for position, item in enumerate(items):
            written.line((name, position), f"[[{_quoted(name)}]]")
            written.pairs((name, position), item)
    text = "\n".join(written.text)
    tomli.loads(text)
    lines = index_lines(text)
    for path, line in written.expected.items():
        assert lines[path] == line
        key = path[-1] if isinstance(path[-1], str) else str(path[-2])
        assert _quoted(key) in written.text[line - 1]


class _Writer:
    """Writes TOML and remembers on which line each key came to stand."""

    def __init__(self, gaps: list[str]) -> None:
        self.text: list[str] = []
        self.expected: dict[KeyPath, int] = {}
        self._gaps = gaps

    def line(self, path: KeyPath, text: str) -> None:
        self.text.append(self._gaps[len(self.text) % len(self._gaps)])
        self.expected[path] = len(self.text) + 1
        self.text += text.split("\n")

    def pairs(self, table: KeyPath, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self.line((*table, key), f"{_quoted(key)} = {_toml(value)}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str() if value.isprintable() and "'" not in value:
            return f"'''\n{value}'''"
        case str():
            return _quoted(value)
        case list():
            return "[\n" + ",\n".join(_toml(each) for each in value) + "\n]"
        case _:
            return "{" + ", ".join(f"{_quoted(key)} = {_inline(each)}" for key, each in value.items()) + "}"


def _inline(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else _toml(value)


def _paths(data: Any, path: KeyPath = ()) -> list[KeyPath]:
    found: list[KeyPath] = []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += [(*path, key), *_paths(value, (*path, key))]
    return found

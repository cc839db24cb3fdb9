"""Where in a TOML text each key stands. The parser reports values without positions; error messages need lines.

The scanner follows the grammar of https://toml.io/en/v1.0.0 far enough to know where keys begin and values end. It
is meant for texts the real parser has accepted; given anything else it stops early and keeps what it has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

import tomli

KeyPath = tuple[str | int, ...]
"""Keys and array positions from the root, for example ``("hosts", 1, "runtime")``."""

_MAX_DEPTH: Final = 64
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class _Lost(Exception):
    """The text is not TOML here; nothing behind it can be trusted."""


def index_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every key, table header and array item. Never raises."""
    scanner = _Scanner(text)
    try:
        scanner.document()
    except _Lost:
        return scanner.lines
    return scanner.lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Return the line of ``path``, or of the nearest table around it that is in the text, or 1."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class _Scanner:
    """One pass over the text. ``_at`` is the position of the next unread character."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0] + [index + 1 for index, character in enumerate(text) if character == "\n"]
        self._array_tables: dict[KeyPath, int] = {}
        """How many times each ``[[header]]`` was seen."""

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip_blank():
            if self._peek("[["):
                table = self._header("]]", is_array=True)
            elif self._peek("["):
                table = self._header("]", is_array=False)
            else:
                self._pair(table, 0)

    def _header(self, closing: str, *, is_array: bool) -> KeyPath:
        start = self._at
        self._at += len(closing)
        keys = self._dotted_key()
        self._expect(closing)
        path = self._resolved(keys[:-1])
        last = (*path, keys[-1])
        if is_array:
            position = self._array_tables.get(last, 0)
            self._array_tables[last] = position + 1
            self._note(last, start)
            last = (*last, position)
            self._note(last, start)
        else:
            last = self._resolved(keys)
            self._note(last, start)
        return last

    def _resolved(self, keys: tuple[str, ...]) -> KeyPath:
        """Return the path of a header's keys: an array of tables stands for its newest item."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if path in self._array_tables:
                path = (*path, self._array_tables[path] - 1)
        return path

    def _pair(self, table: KeyPath, depth: int) -> None:
        start = self._at
        keys = self._dotted_key()
        path = table
        for key in keys:
            path = (*path, key)
            self._note(path, start)
        self._expect("=")
        self._value(path, depth)

    def _dotted_key(self) -> tuple[str, ...]:
        keys = [self._key()]
        while True:
            self._skip_spaces()
            if not self._peek("."):
                return tuple(keys)
            self._at += 1
            keys.append(self._key())

    def _key(self) -> str:
        self._skip_spaces()
        start = self._at
        if self._peek('"') or self._peek("'"):
            self._string()
            return _unquoted(self._text[start : self._at])
        while self._at < len(self._text) and self._text[self._at] in _BARE:
            self._at += 1
        if self._at == start:
            raise _Lost
        return self._text[start : self._at]

    def _value(self, path: KeyPath, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _Lost
        self._skip_spaces()
        if self._peek('"') or self._peek("'"):
            self._string()
        elif self._peek("["):
            self._array(path, depth)
        elif self._peek("{"):
            self._inline_table(path, depth)
        else:
            self._plain()

    def _array(self, path: KeyPath, depth: int) -> None:
        self._at += 1
        position = 0
        while True:
            if not self._skip_blank():
                raise _Lost
            if self._peek("]"):
                self._at += 1
                return
            self._note((*path, position), self._at)
            self._value((*path, position), depth + 1)
            position += 1
            self._skip_blank()
            if self._peek(","):
                self._at += 1
            elif not self._peek("]"):
                raise _Lost

    def _inline_table(self, path: KeyPath, depth: int) -> None:
        self._at += 1
        while True:
            if not self._skip_blank():
                raise _Lost
            if self._peek("}"):
                self._at += 1
                return
            self._pair(path, depth + 1)
            self._skip_blank()
            if self._peek(","):
                self._at += 1
            elif not self._peek("}"):
                raise _Lost

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._peek(quote * 3):
            self._at += 3
            self._until(quote * 3, escapes=quote == '"', across_lines=True)
            # Up to two quotes may stand right before the closing three.
            for _ in range(2):
                if self._peek(quote):
                    self._at += 1
        else:
            self._at += 1
            self._until(quote, escapes=quote == '"', across_lines=False)

    def _until(self, closing: str, *, escapes: bool, across_lines: bool) -> None:
        while self._at < len(self._text):
            if self._peek(closing):
                self._at += len(closing)
                return
            character = self._text[self._at]
            if character == "\n" and not across_lines:
                raise _Lost
            self._at += 2 if escapes and character == "\\" else 1
        raise _Lost

    def _plain(self) -> None:
        """Pass over a number, boolean or date."""
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in ",]}#\n":
            self._at += 1
        if self._at == start:
            raise _Lost

    def _note(self, path: KeyPath, position: int) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, position))

    def _peek(self, expected: str) -> bool:
        return self._text.startswith(expected, self._at)

    def _expect(self, expected: str) -> None:
        self._skip_spaces()
        if not self._peek(expected):
            raise _Lost
        self._at += len(expected)

    def _skip_spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> bool:
        """Pass over space, line ends and comments; return whether anything is left."""
        while self._at < len(self._text):
            if self._text[self._at] in " \t\r\n":
                self._at += 1
            elif self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return True
        return False


def _unquoted(quoted: str) -> str:
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        return next(iter(tomli.loads(f"{quoted} = 0")))
    except (tomli.TOMLDecodeError, StopIteration):
        raise _Lost from None

"""Which lines of a log are shown, and which parts of them are marked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["all", "warnings", "errors"]
LEVELS: Final[tuple[Level, ...]] = ("all", "warnings", "errors")
_ERROR: Final = re.compile(r"\b(?:error|fatal|critical|exception|traceback|failed|segmentation fault)\b", re.IGNORECASE)
_WARNING: Final = re.compile(r"\bwarn(?:ing)?\b|Warning\b", re.IGNORECASE)
_MAX_SPANS: Final = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as text: an optional time, a short tag in its own colour, and the line."""

    text: str
    tag: str = ""
    tag_tone: str = "dim"
    tone: str = ""
    time: str = ""
    is_mark: bool = False

    @property
    def severity(self) -> int:
        """2 for an error, 1 for a warning, by what the program says of it or by its words."""
        if self.tone == "fail" or _ERROR.search(self.text):
            return 2
        return 1 if self.tone == "warn" or _WARNING.search(self.text) else 0


class Filter:
    """A regular expression, inverted by a leading ``!``; plain text when it is not a valid expression."""

    def __init__(self, source: str = "", level: Level = "all", *, highlight: bool = False) -> None:
        """With ``highlight`` the expression hides nothing: what matches is marked instead."""
        self.source = source
        self.level = level
        self.highlight = highlight
        self.inverse = source.startswith("!")
        body = source[1:] if self.inverse else source
        try:
            self._pattern = re.compile(body, re.IGNORECASE)
        except re.error:
            self._pattern = re.compile(re.escape(body), re.IGNORECASE)
        self._least = LEVELS.index(level)

    def __call__(self, entry: Entry) -> bool:
        """Tell whether the entry is shown."""
        if entry.is_mark:
            return True
        if self._least and entry.severity < self._least:
            return False
        return self.highlight or not self.source or self.matches(entry)

    def matches(self, entry: Entry) -> bool:
        """Tell whether the expression matches; the other way round when it is inverted."""
        return bool(self._pattern.search(f"{entry.tag} {entry.text}")) != self.inverse

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the text is to be marked."""
        if not self.source or self.inverse:
            return []
        found = []
        for match in self._pattern.finditer(text):
            if match.end() > match.start():
                found.append(match.span())
            if len(found) >= _MAX_SPANS:
                break
        return found

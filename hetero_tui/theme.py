"""Glyphs, colours and the fallback for terminals that can draw neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from hetero_tui.views import RankState, RunState
from remote.checks.model import Verdict


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One cell each. A glyph always stands beside a word or a number, so colour is never the only carrier."""

    ascii: bool
    verdicts: Mapping[Verdict, str]
    ranks: Mapping[RankState, str]
    runs: Mapping[RunState, str]
    spinner: str
    spark: str
    """From zero to the maximum of the scale."""
    heat: str
    eighths: str
    """From an empty to a full cell."""
    compute: str
    data: str
    wait: str
    communication: str
    marker: str
    rule: str
    ellipsis: str
    up: str
    down: str
    pending: str
    dot: str
    folded: str
    unfolded: str


UNICODE: Final = Glyphs(
    ascii=False,
    verdicts={Verdict.OK: "✔", Verdict.WARN: "!", Verdict.FAIL: "✖", Verdict.UNKNOWN: "?", Verdict.SKIP: "–"},
    ranks={
        RankState.STARTING: "○",
        RankState.IMPORTING: "◌",
        RankState.WAITING_FOR_GO: "◇",
        RankState.JOINING: "◔",
        RankState.CALIBRATING: "◐",
        RankState.READY: "◕",
        RankState.TRAINING: "●",
        RankState.WAITING: "◒",
        RankState.PAUSED: "‖",
        RankState.STALLED: "!",
        RankState.NO_DATA: "?",
        RankState.SPARE: "–",
        RankState.EXCLUDED: "⊘",
        RankState.FAILED: "✖",
        RankState.FINISHED: "✔",
        RankState.STOPPED: "■",
        RankState.LEFT: "◁",
    },
    runs={
        RunState.IDLE: "–",
        RunState.STARTING: "◔",
        RunState.TRAINING: "●",
        RunState.PAUSED: "‖",
        RunState.STALLED: "?",
        RunState.FINISHED: "✔",
        RunState.STOPPED: "■",
        RunState.FAILED: "✖",
    },
    spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏",
    spark="▁▂▃▄▅▆▇█",
    heat="·░▒▓█",
    eighths=" ▏▎▍▌▋▊▉█",
    compute="█",
    data="▓",
    wait="░",
    communication="▒",
    marker="┃",
    rule="─",
    ellipsis="…",
    up="▲",
    down="▼",
    pending="·",
    dot="·",
    folded="▸",
    unfolded="▾",
)

ASCII: Final = Glyphs(
    ascii=True,
    verdicts={Verdict.OK: "+", Verdict.WARN: "!", Verdict.FAIL: "x", Verdict.UNKNOWN: "?", Verdict.SKIP: "-"},
    ranks={
        RankState.STARTING: ".",
        RankState.IMPORTING: ":",
        RankState.WAITING_FOR_GO: "o",
        RankState.JOINING: "j",
        RankState.CALIBRATING: "c",
        RankState.READY: "r",
        RankState.TRAINING: ">",
        RankState.WAITING: "w",
        RankState.PAUSED: "=",
        RankState.STALLED: "!",
        RankState.NO_DATA: "?",
        RankState.SPARE: "-",
        RankState.EXCLUDED: "/",
        RankState.FAILED: "x",
        RankState.FINISHED: "+",
        RankState.STOPPED: "#",
        RankState.LEFT: "<",
    },
    runs={
        RunState.IDLE: "-",
        RunState.STARTING: ".",
        RunState.TRAINING: ">",
        RunState.PAUSED: "=",
        RunState.STALLED: "?",
        RunState.FINISHED: "+",
        RunState.STOPPED: "#",
        RunState.FAILED: "x",
    },
    spinner="|/-\\",
    spark="_.-:=+*#",
    heat=" .:+#",
    eighths=" ........#",
    compute="#",
    data="d",
    wait=".",
    communication="~",
    marker="|",
    rule="-",
    ellipsis="~",
    up="^",
    down="v",
    pending=".",
    dot="-",
    folded=">",
    unfolded="v",
)

VERDICT_TONES: Final[Mapping[Verdict, str]] = {
    Verdict.OK: "ok",
    Verdict.WARN: "warn",
    Verdict.FAIL: "fail",
    Verdict.UNKNOWN: "unknown",
    Verdict.SKIP: "dim",
}
RANK_TONES: Final[Mapping[RankState, str]] = {
    RankState.STARTING: "dim",
    RankState.IMPORTING: "dim",
    RankState.WAITING_FOR_GO: "accent",
    RankState.JOINING: "accent",
    RankState.CALIBRATING: "accent",
    RankState.READY: "accent",
    RankState.TRAINING: "ok",
    RankState.WAITING: "warn",
    RankState.PAUSED: "accent",
    RankState.STALLED: "warn",
    RankState.NO_DATA: "warn",
    RankState.SPARE: "dim",
    RankState.EXCLUDED: "warn",
    RankState.FAILED: "fail",
    RankState.FINISHED: "ok",
    RankState.STOPPED: "dim",
    RankState.LEFT: "warn",
}
RUN_TONES: Final[Mapping[RunState, str]] = {
    RunState.IDLE: "dim",
    RunState.STARTING: "accent",
    RunState.TRAINING: "ok",
    RunState.PAUSED: "accent",
    RunState.STALLED: "warn",
    RunState.FINISHED: "ok",
    RunState.STOPPED: "dim",
    RunState.FAILED: "fail",
}

_TO_ASCII: Final = str.maketrans(
    {
        "…": "~", "·": "-", "–": "-", "—": "-", "→": ">", "←": "<", "↑": "^", "↓": "v", "▲": "^", "▼": "v", "✔": "+",
        "✖": "x", "●": "*", "○": "o", "─": "-", "━": "-", "│": "|", "┃": "|", "▏": "|", "▎": "|", "▌": "|", "▐": "|",
        "█": "#", "▓": "%", "▒": "+", "░": ".", "▁": "_", "▂": "_", "▃": "_", "▄": "_", "▅": "#", "▆": "#", "▇": "#",
        "▔": "-", "▀": "-", "▊": "|", "▋": "|", "▍": "|", "▉": "#", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+",
        "┤": "+", "┬": "+", "┴": "+", "┼": "+", "╭": "+", "╮": "+", "╯": "+", "╰": "+", "÷": "/", "×": "x", "•": "*",
        "⭘": "o", "⏎": "<", "⌫": "<", "η": "n", "≥": ">", "≤": "<", "°": " ", "⊘": "/",
        "′": "'", "“": '"', "”": '"', "’": "'",
    }
)  # fmt: skip


def to_ascii(text: str) -> str:
    """Return the text in ASCII with the same width in cells."""
    if text.isascii():
        return text
    text = text.translate(_TO_ASCII)
    return "".join(each if each.isascii() else "?" * cell_len(each) for each in text)


class AsciiFilter(LineFilter):
    """The last step before the terminal: whatever drew it, only ASCII leaves."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """Replace every character beyond ASCII. The width stays."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


def default_theme(environ: Mapping[str, str]) -> str:
    """Choose a theme for the terminal: the terminal's own colours where it has 16 or fewer."""
    if environ.get("COLORTERM") or "256" in environ.get("TERM", "") or environ.get("TERM_PROGRAM"):
        return "textual-dark"
    if environ.get("TERM", "") in (
        "",
        "dumb",
        "linux",
        "xterm",
        "screen",
        "tmux",
        "vt100",
        "vt220",
        "ansi",
        "xterm-16color",
    ):
        return "ansi-dark"
    return "textual-dark"

"""Which level and which rank a log shows, by mouse: the keys for the same are in the footer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.strip import Strip

from hetero_tui.widgets.lines import LineView
from hetero_tui.widgets.log_filter import LEVELS, Level


@dataclass(frozen=True, slots=True)
class Shown:
    """What a log shows and what else it could."""

    level: Level
    rank: int | None
    """All ranks when ``None``."""
    ranks: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Chip:
    text: str
    message: Message | None = None
    is_chosen: bool = False

    @property
    def label(self) -> str:
        return f"[{self.text}]" if self.is_chosen else f" {self.text} "


class LogChips(LineView):
    """One line: ``level [all] warnings errors   rank [all] 0 1 2 …``."""

    DEFAULT_CSS = "LogChips { height: 1; overflow: hidden hidden; }"

    class LevelChosen(Message):
        """A level was clicked."""

        def __init__(self, level: Level) -> None:
            super().__init__()
            self.level = level

    class RankChosen(Message):
        """A rank was clicked, or all of them."""

        def __init__(self, rank: int | None) -> None:
            super().__init__()
            self.rank = rank

    def __init__(self, shown: Callable[[], Shown]) -> None:
        """``shown`` tells what the log shows now."""
        super().__init__(classes="log-chips")
        self._shown = shown
        self._drawn: Shown | None = None

    def pull(self) -> None:
        """Ranks come while a run starts."""
        if self._shown() != self._drawn:
            self.refresh()

    def render_line(self, y: int) -> Strip:  # noqa: ARG002
        """Draw the chips; a chosen one is in brackets, so it shows without colour."""
        self._drawn = self._shown()
        line = self.line()
        for chip in self._chips(self._drawn):
            if chip.is_chosen:
                line.add(chip.label, self.tone("cursor") + self.tone("bold"))
            else:
                line.add(chip.label, None if chip.message else self.tone("dim"))
        return line.strip(self.size.width)

    def _chips(self, shown: Shown) -> list[_Chip]:
        levels = [_Chip(level, self.LevelChosen(level), level == shown.level) for level in LEVELS]
        chips = [_Chip("level"), *levels, _Chip("rank"), _Chip("all", self.RankChosen(None), shown.rank is None)]
        ranks = [_Chip(str(rank), self.RankChosen(rank), rank == shown.rank) for rank in shown.ranks]
        return chips + _around_chosen(ranks, self.size.width - sum(len(chip.label) for chip in chips))

    def on_click(self, event: events.Click) -> None:
        """Find the chip under the mouse."""
        left = 0
        for chip in self._chips(self._shown()):
            if left <= event.x < left + len(chip.label):
                if chip.message is not None:
                    self.post_message(chip.message)
                return
            left += len(chip.label)


def _around_chosen(chips: Sequence[_Chip], width: int) -> list[_Chip]:
    """Return as many chips as fit, in their order: those nearest to the chosen one, or the first."""
    more = _Chip("…")
    if sum(len(chip.label) for chip in chips) <= width:
        return list(chips)
    begin = end = next((at for at, chip in enumerate(chips) if chip.is_chosen), 0)
    left = width - 2 * len(more.label)
    while True:
        can_end = end < len(chips) and len(chips[end].label) <= left
        can_begin = begin > 0 and len(chips[begin - 1].label) <= left
        if not can_end and not can_begin:
            break
        if can_end:
            left -= len(chips[end].label)
            end += 1
        if begin > 0 and len(chips[begin - 1].label) <= left:
            begin -= 1
            left -= len(chips[begin].label)
    return [*([more] if begin > 0 else []), *chips[begin:end], *([more] if end < len(chips) else [])]

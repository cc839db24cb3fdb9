"""What went wrong first, what it means and what to do; what only followed from it is folded into one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.views import FailureRecord
from hetero_tui.widgets.lines import LineView, fit
from remote.checks.model import Verdict

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

SHOWN_CAUSES = 3


class FailureLines(LineView):
    """Nothing while nothing has failed; the height follows what there is to say."""

    def __init__(self, session: SessionProtocol, *, id: str = "failures") -> None:
        super().__init__(id=id)
        self._session = session
        self._lines: list[tuple[str, str]] = []
        self._count = -1

    def pull(self) -> None:
        """Say it anew when a rank failed."""
        failures = self._session.store.failures
        if len(failures) == self._count:
            return
        self._count = len(failures)
        self._lines = _lines(failures)
        self.styles.height = len(self._lines)
        self.virtual_size = Size(self.size.width, len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw a line."""
        width = self.size.width
        if y >= len(self._lines):
            return self.line().strip(width)
        text, tone = self._lines[y]
        glyph = f" {self.glyphs.verdicts[Verdict.FAIL]} " if tone == "fail" else "   "
        line = self.line("header" if tone == "fail" else "").add(glyph, self.tone("fail"))
        return line.add(fit(text, max(0, width - 3), ellipsis=self.glyphs.ellipsis), self.tone(tone)).strip(width)


def _lines(failures: tuple[FailureRecord, ...]) -> list[tuple[str, str]]:
    causes = [each for each in failures if not each.consequence] or list(failures[:1])
    lines: list[tuple[str, str]] = []
    for index, each in enumerate(causes[:SHOWN_CAUSES]):
        word = "failed first" if index == 0 else "failed"
        code = "" if each.exit_code is None else f" (exit code {each.exit_code})"
        lines.append((f"rank {each.rank} on {each.host} {word}{code}: {each.error}", "fail"))
        if each.cause:
            lines.append((f"means: {each.cause}", ""))
        if each.next_step:
            lines.append((f"next: {each.next_step}", "accent"))
    if len(causes) > SHOWN_CAUSES:
        lines.append((f"and {len(causes) - SHOWN_CAUSES} more that failed by themselves, below", "dim"))
    followed = [each for each in failures if each not in causes]
    if followed:
        ranks = ", ".join(str(each.rank) for each in followed[:12]) + (", …" if len(followed) > 12 else "")
        lines.append((f"followed from it: rank {ranks} lost a peer", "dim"))
    return [(text, tone or "bold") for text, tone in lines]

"""Common ground of the line-API widgets: named tones from the style sheet, and a builder of strips."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hetero_tui.theme import ASCII, UNICODE, Glyphs

Align = Literal["left", "right"]


def glyphs_of(app: App[Any]) -> Glyphs:
    """Return the glyphs this app draws with."""
    return ASCII if getattr(app, "ascii_only", False) else UNICODE


def fit(text: str, width: int, align: Align = "left", ellipsis: str = "…") -> str:
    """Return the text in exactly ``width`` cells; what does not fit is cut with a mark."""
    if width <= 0:
        return ""
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + ellipsis
    padding = " " * (width - length)
    return padding + text if align == "right" else text + padding


class LineBuilder:
    """Collects pieces of one line."""

    __slots__ = ("base", "over", "segments", "width")

    def __init__(self, base: Style, over: Style | None = None) -> None:
        """``over`` is laid over every piece: what colours mean cannot be read on the colour of a cursor."""
        self.base = base
        self.over = over
        self.segments: list[Segment] = []
        self.width = 0

    def add(self, text: str, style: Style | None = None) -> LineBuilder:
        """Append text; ``style`` is laid over the base."""
        if text:
            look = self.base if style is None else self.base + style
            self.segments.append(Segment(text, look if self.over is None else look + self.over))
            self.width += len(text) if text.isascii() else cell_len(text)
        return self

    def cell(self, text: str, width: int, style: Style | None = None, align: Align = "left") -> LineBuilder:
        """Append text in a column of fixed width."""
        return self.add(fit(text, width, align), style)

    def pad_to(self, column: int, style: Style | None = None) -> LineBuilder:
        """Append spaces up to a column."""
        return self.add(" " * max(0, column - self.width), style)

    def strip(self, width: int) -> Strip:
        """Return the line in exactly ``width`` cells."""
        return Strip(self.segments, self.width).adjust_cell_length(width, self.base)


class LineView(ScrollView, can_focus=False):
    """A widget that draws its own lines. ``pull`` is called every ``PACE`` seconds while it is on screen."""

    PACE: ClassVar[float] = 0.25
    """Figures over ten seconds that change more often than this cannot be read; text and what turns is quicker."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"tone--{name}"
        for name in (
            "ok", "warn", "fail", "unknown", "dim", "accent", "bold", "header", "cursor", "cursor-blurred", "track",
            "badge", "compute", "data", "wait", "communication",
            "series-0", "series-1", "series-2", "series-3", "series-4", "series-5",
        )
    }  # fmt: skip
    """What a colour means; the rules are in ``hetero.tcss``."""

    DEFAULT_CSS = """
    LineView { background: $background; color: $foreground; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
    """

    def __init__(self, *, id: str | None = None, classes: str = "") -> None:
        super().__init__(id=id, classes=f"live {classes}".strip())
        self._tones: dict[str, Style] = {}
        self._base_style: Style | None = None

    @property
    def glyphs(self) -> Glyphs:
        """Glyphs of the app."""
        return glyphs_of(self.app)

    @property
    def base(self) -> Style:
        """The widget's own style; reading it from the tree costs too much to do for every line."""
        if self._base_style is None:
            self._base_style = self.rich_style
        return self._base_style

    def tone(self, name: str) -> Style:
        """Return a tone to lay over the base."""
        style = self._tones.get(name)
        if style is None:
            style = self._tones[name] = self.get_component_rich_style(f"tone--{name}", partial=True)
        return style

    def line(self, tone: str = "") -> LineBuilder:
        """Begin a line."""
        if not tone:
            return LineBuilder(self.base)
        over = self.tone(tone) + Style(dim=False) if tone == "cursor" else None
        return LineBuilder(self.base + self.tone(tone), over)

    def notify_style_update(self) -> None:
        """Forget cached styles: the theme or a class has changed."""
        super().notify_style_update()
        self._tones.clear()
        self._base_style = None

    def pull(self) -> None:
        """Fetch what is new and repaint if anything changed."""

"""A bar for each host's image and for each layer on its way, with rate, time left, way and reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.geometry import Size
from textual.strip import Strip

from hetero_tui.image_report import size_text
from hetero_tui.sanitize import clean
from hetero_tui.widgets.bars import bar
from hetero_tui.widgets.lines import LineView, fit
from remote.checks.model import Verdict

if TYPE_CHECKING:
    from remote.images.model import HostImagePlan, ImagePlan, ImageProgress, LayerProgress

NAME_WIDTH: Final = 16
WORDS: Final = {
    "waiting": "waits",
    "reading": "is read at its source",
    "building": "is built",
    "sending": "is sent",
    "pulling": "is pulled",
    "unpacking": "is unpacked by the engine",
    "checking": "is compared",
    "done": "is there",
    "failed": "failed",
}
PLANNED: Final = {
    "none": "no container",
    "present": "is there",
    "registry": "to be pulled",
    "build": "to be built",
    "send": "to be sent",
    "impossible": "no way",
}


class ImageBars(LineView, can_focus=True):
    """Hosts with their image; a host whose layers move has one line for each of them below it."""

    can_focus = True

    def __init__(self) -> None:
        super().__init__(id="image-bars")
        self.plan: ImagePlan | None = None
        self.progress: dict[str, ImageProgress] = {}
        self.cursor = 0
        self._rows: list[tuple[HostImagePlan, LayerProgress | None]] = []

    def show(self, plan: ImagePlan) -> None:
        """Show a plan; progress that was told stays."""
        self.plan = plan
        self._lay_out()

    def moved(self, progress: ImageProgress) -> None:
        """Take in one host's progress."""
        self.progress[progress.host] = progress
        self._lay_out()

    @property
    def host(self) -> str:
        """The host under the cursor, or an empty string."""
        hosts = self.plan.hosts if self.plan else ()
        return hosts[self.cursor].host if self.cursor < len(hosts) else ""

    def move_cursor(self, by: int) -> None:
        """Move to another host."""
        count = len(self.plan.hosts) if self.plan else 0
        self.cursor = max(0, min(count - 1, self.cursor + by))
        self.refresh()

    def _lay_out(self) -> None:
        self._rows = []
        for host in self.plan.hosts if self.plan else ():
            self._rows.append((host, None))
            told = self.progress.get(host.host)
            if told is not None and told.phase in ("sending", "pulling", "unpacking"):
                self._rows += [(host, layer) for layer in told.layers if layer.done < layer.total]
        self.virtual_size = Size(self.size.width, len(self._rows))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw a host or one of its layers."""
        width = self.scrollable_content_region.width
        index = round(self.scroll_y) + y
        if index >= len(self._rows):
            text = " Asking the engines…" if self.plan is None and y == 0 else ""
            return self.line().add(text, self.tone("dim")).strip(width)
        host, layer = self._rows[index]
        return self._layer(layer, width) if layer is not None else self._host(host, width)

    def _layer(self, layer: LayerProgress, width: int) -> Strip:
        line = self.line().pad_to(NAME_WIDTH + 4).cell(layer.layer, 13, self.tone("dim"))
        fraction = layer.done / layer.total if layer.total else 0.0
        line.add(bar(fraction, 14, self.glyphs), self.tone("accent") + self.tone("track"))
        return line.add(f" {size_text(layer.done)} of {size_text(layer.total)}", self.tone("dim")).strip(width)

    def _host(self, host: HostImagePlan, width: int) -> Strip:
        chosen = host.host == self.host
        told = self.progress.get(host.host)
        phase = told.phase if told else ""
        failed = phase == "failed" or (told is None and host.method == "impossible")
        there = phase == "done" or (told is None and host.method in ("present", "none"))
        verdict = Verdict.FAIL if failed else Verdict.OK if there else None
        tone = self.tone("fail" if failed else "ok" if there else "accent")
        line = self.line("cursor" if chosen and self.has_focus else "cursor-blurred" if chosen else "").add(" ")
        line.add(f"{self.glyphs.verdicts[verdict] if verdict else self.glyphs.pending} ", tone)
        line.cell(clean(host.host), NAME_WIDTH, self.tone("bold")).add(" ")
        if told is not None and told.total and not there and not failed:
            line.add(bar(told.done / told.total, 14, self.glyphs), self.tone("accent") + self.tone("track"))
            line.add(f" {100 * told.done // told.total:3d} % ")
        line.add(WORDS[told.phase] if told else PLANNED[host.method], tone)
        if told is not None and told.rate and phase in ("reading", "sending", "pulling"):
            line.add(f" · {size_text(told.rate)}/s over 3 s", self.tone("dim"))
            if told.seconds_left:
                line.add(f" · {told.seconds_left:.0f} s left", self.tone("dim"))
        why = clean((told.detail if told else "") or host.why, 300)
        moved = f", {size_text(host.bytes_to_move)}" if host.bytes_to_move and not there else ""
        if host.warning and told is None:
            why = f"{why}. Warning: {clean(host.warning, 300)}"
        if width - line.width > 8:
            line.add(fit(f"  {host.method}{moved}: {why}", width - line.width), self.tone("dim"))
        return line.strip(width)

"""Is it worth it? What the cluster is predicted to do, without each host, and in each way to communicate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from hetero_tui import formats, prediction_report
from hetero_tui.preflight import PreflightProtocol
from hetero_tui.sanitize import clean
from hetero_tui.screens.base import LiveScreen
from hetero_tui.widgets.key_footer import KeyFooter
from hetero_tui.widgets.lines import fit
from remote.errors import RemoteError
from remote.prediction import Outcome, Prediction

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol


class Predicted(Message):
    """A prediction came about, or why it did not."""

    def __init__(self, prediction: Prediction | None, error: RemoteError | None) -> None:
        super().__init__()
        self.prediction = prediction
        self.error = error


class MeasureMoved(Message):
    """A host is being measured, or has been."""

    def __init__(self, host: str, what: str) -> None:
        super().__init__()
        self.host = host
        self.what = what


class PredictionScreen(LiveScreen):
    """One text that says where every number comes from."""

    TITLE = "Is it worth it?"
    HELP = (
        "Predicted from measured speeds and connections. m measures every host's speed where the job will run: some "
        "ten seconds, nothing is left behind."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,p", "leave", "Checklist", id="prediction.leave"),
        Binding("m", "measure", "Measure speeds", id="prediction.measure"),
    ]

    def __init__(self, session: SessionProtocol, preflight: PreflightProtocol) -> None:
        super().__init__(session)
        self._preflight = preflight
        self._prediction: Prediction | None = None
        self._error: RemoteError | None = None
        self._measuring: dict[str, str] = {}
        self._busy = False

    def compose(self) -> ComposeResult:
        """Header, text, footer."""
        yield self.header()
        with VerticalScroll(id="prediction-scroll"):
            yield Static(Content("Predicting…"), id="prediction-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Predict from what is known."""
        super().on_mount()
        self.query_one("#prediction-scroll", VerticalScroll).focus()
        self.run_worker(self._predict(), group="predict", exclusive=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Measuring starts something on the hosts: not with ``--readonly``, and not twice."""
        if action == "measure":
            return not self.hetero.readonly and not self._busy
        return True

    async def _predict(self) -> None:
        self.post_message(Predicted(*await prediction_report.try_predict(self._preflight.predict)))

    @on(Predicted)
    def predicted(self, message: Predicted) -> None:
        """Show it."""
        self._prediction, self._error = message.prediction, message.error
        self.draw()

    def action_measure(self) -> None:
        """Measure every host, then predict again."""
        self._busy = True
        self._measuring.clear()
        self.refresh_bindings()
        self.draw()
        self.run_worker(self._measure(), group="measure", exclusive=True)

    async def _measure(self) -> None:
        def report(host: str, what: str) -> None:
            self.post_message(MeasureMoved(host, what))

        try:
            await self._preflight.measure(report)
        except RemoteError as error:
            self.post_message(MeasureMoved("", error.message))
        self._busy = False
        self.refresh_bindings()
        await self._predict()

    @on(MeasureMoved)
    def measure_moved(self, message: MeasureMoved) -> None:
        """Show how far the measuring is."""
        self._measuring[message.host] = message.what
        self.draw()

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002
        """Fit the bars to the width."""
        self.draw()

    def draw(self) -> None:
        """Show what is known now."""
        width = max(40, self.size.width - 4)
        pieces: list[str | tuple[str, str]] = []
        for host, what in self._measuring.items():
            pieces.append(f"{host or 'cluster'}: {clean(what)}\n")
        if self._measuring:
            pieces.append("\n")
        if self._prediction is not None:
            pieces += prediction_pieces(self._prediction, width, time.time(), self.hetero.glyphs.eighths)
        elif self._error is not None:
            pieces += [("No prediction yet: ", "bold"), clean(self._error.message), "\n"]
            pieces.append(f"{clean(self._error.next_step)}\n" if self._error.next_step else "")
        else:
            pieces.append("Predicting…")
        self.query_one("#prediction-text", Static).update(Content.assemble(*pieces))

    def action_leave(self) -> None:
        """Go back to the checklist."""
        self.app.pop_screen()


def prediction_pieces(prediction: Prediction, width: int, now: float, eighths: str) -> list[str | tuple[str, str]]:
    """Return the prediction as styled text.

    Args:
        prediction: what was predicted.
        width: of the text, in cells.
        now: seconds since the epoch.
        eighths: what bars are drawn with, from an empty to a full cell.
    """
    pieces: list[str | tuple[str, str]] = []
    if prediction.simulated:
        pieces.append(("SIMULATED SPEEDS: these figures describe no real machine\n\n", "bold $text-warning"))
    first, *others = prediction_report.advice(prediction)
    pieces.append((f"{first}\n", "bold"))
    pieces += [f"{line}\n" for line in others]
    pieces.append("\n")
    rows = prediction_report.table(prediction)
    most = max(outcome.samples_per_second for _, outcome in rows)
    base = prediction.everyone.samples_per_second
    label = min(max(len(text) for text, _ in rows), max(18, width - 44))
    bar = max(0, min(40, width - label - 46))
    short = width < 96
    heading = "compute + gradients" if short else f"{'':{bar}} a step is"
    pieces.append((f"{'':{label}}  {'samples/s':>9} {'':>6}  {heading}\n", "$muted"))
    for text, outcome in rows:
        pieces += _row(text, outcome, label, 0 if short else bar, (base, most), eighths)
        pieces.append(f"{short_step(outcome) if short else f' {prediction_report.step_words(outcome)}'}\n")
    pieces.append("\n")
    pieces.append(("Where the numbers come from\n", "bold"))
    for speed in prediction.speeds:
        pieces.append(f"  {speed.host}: {prediction_report.speed_words(speed, now)}\n")
    pieces += [f"  connections: {prediction.link_source}\n", f"  {prediction_report.NOT_IN_IT}\n"]
    shares = zip(prediction.everyone.hosts, prediction.everyone.shares, strict=True)
    pieces.append(f"  shares of {prediction.global_batch}: {', '.join(f'{host} {share}' for host, share in shares)}\n")
    return pieces


def _row(
    text: str, outcome: Outcome, label: int, bar: int, scale: tuple[float, float], eighths: str
) -> list[str | tuple[str, str]]:
    base, most = scale
    change = outcome.samples_per_second / base - 1 if base > 0 else 0.0
    style = "$text-success" if change > 0.01 else "$text-error" if change < -0.01 else ""
    filled = 8 * bar * outcome.samples_per_second / most if most > 0 else 0.0
    full, part = divmod(round(filled), 8)
    drawn = (eighths[-1] * full + (eighths[part] if part else "")).ljust(bar)
    rate = formats.rate(outcome.samples_per_second)
    return [
        f"{fit(text, label)}  {rate:>9} ",
        (f"{change:>+6.0%}  ", style) if style else f"{change:>+6.0%}  ",
        (drawn, "$text-accent"),
    ]


def short_step(outcome: Outcome) -> str:
    """Say what a step consists of where there is little room."""
    exchange = outcome.communication_seconds
    moved = "?" if exchange is None else formats.short_seconds(exchange)
    return f"{formats.short_seconds(outcome.compute_seconds)} + {moved}"

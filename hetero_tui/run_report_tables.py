"""The tables of a report: what HTML and Markdown both tell, as rows of plain text. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from hetero_tui.formats import duration
from hetero_tui.image_report import size_text
from hetero_tui.prediction_report import compared_text
from hetero_tui.report import SIMULATED
from hetero_tui.run_report import RunFigures
from hetero_tui.sanitize import clean
from hetero_tui.views import EFFICIENCY_DEFINITION

_FIGURE: Final = re.compile(r"[-+]?\d[\d.e+-]*( ?[%×a-zA-Z°]+)?$|–$")


@dataclass(frozen=True, slots=True)
class Table:
    """One section of a report."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def is_figures(self, column: int) -> bool:
        """Tell whether a column holds figures, which are set flush right."""
        cells = [row[column] for row in self.rows]
        return column > 0 and all(len(cell) < 14 and _FIGURE.match(cell) for cell in cells)


def tables(figures: RunFigures) -> tuple[Table, ...]:
    """Return every table about one run."""
    return (_summary(figures), _plan(figures), _predictions(figures), _balance(figures), _hardware(figures),
            _events(figures))  # fmt: skip


def comparison(runs: Sequence[RunFigures]) -> Table:
    """Return all runs beside the first, which is the baseline."""
    baseline = runs[0].samples_per_second
    rows = []
    for each in runs:
        against = f"{each.samples_per_second / baseline:.2f}×" if baseline > 0 else "–"
        rows.append(
            (
                each.run.run_id,
                each.run.plan.policy,
                each.workload,
                str(each.run.plan.world_size),
                str(each.run.plan.global_batch),
                figure(each.samples_per_second),
                against,
                f"{each.step_seconds * 1000:.1f} ms",
                part(each.efficiency),
                part(each.wait),
                "–" if each.gpu_percent is None else f"{each.gpu_percent:.0f} %",
                loss(each.document["loss"]),
                "simulated" if each.run.simulated else "measured",
            )
        )
    return Table(
        "Comparison",
        ("run", "policy", "workload", "ranks", "global batch", "samples/s", "against first", "step", "of ideal",
         "waiting", "GPU use", "last loss", "speeds"),
        tuple(rows),
        "The first run is the baseline. samples/s and step are means over all steps.",
    )  # fmt: skip


def warning(runs: Sequence[RunFigures]) -> str:
    """Return what has to be said before any figure, or nothing."""
    return SIMULATED if any(each.run.simulated for each in runs) else ""


def _summary(figures: RunFigures) -> Table:
    document = figures.document
    plan = figures.run.plan
    rows = [
        ("state", str(document["detail"])),
        ("workload", figures.workload or "–"),
        ("ranks", f"{plan.world_size} on {len(plan.hosts)} hosts, backend {plan.backend}"),
        ("global batch", f"{plan.global_batch} samples, policy {plan.policy}"),
        ("steps", str(figures.steps)),
        ("elapsed", duration(document["seconds"])),
        ("throughput", f"{figure(figures.samples_per_second)} samples/s (mean over all steps)"),
        ("step", f"{figures.step_seconds * 1000:.1f} ms (mean)"),
        ("efficiency", f"{part(figures.efficiency)} of ideal"),
        ("loss", f"{loss(document['first_loss'])} → {loss(document['loss'])}"),
    ]
    if document["prediction"]:
        rows.append(("before the launch", compared_text(document["prediction"])))
    note = f"Efficiency: {EFFICIENCY_DEFINITION.replace(', over 10 s', '')}, over the whole run."
    return Table("Summary", ("", ""), _cleaned(rows), note)


def _plan(figures: RunFigures) -> Table:
    rows = [
        (
            host.host,
            host.runtime,
            ", ".join(f"{rank.rank} ({rank.device})" for rank in host.ranks),
            host.image or "–",
            host.variable("GLOO_SOCKET_IFNAME") or "–",
        )
        for host in figures.run.plan.hosts
    ]
    notes = " · ".join(figures.run.plan.notes)
    return Table("Plan", ("host", "runtime", "ranks", "image", "interface"), _cleaned(rows), clean(notes))


def _predictions(figures: RunFigures) -> Table:
    rows = []
    for each in figures.predictions:
        error = each.error
        rows.append(
            (
                str(each.shares.step),
                "/".join(map(str, each.shares.shares[:16])),
                figure(each.shares.predicted_samples_per_second),
                figure(each.measured),
                "–" if error is None else f"{error:+.0%}",
                str(each.steps),
                each.shares.reason,
            )
        )
    return Table(
        "Prediction against measurement",
        ("from step", "shares", "predicted samples/s", "measured samples/s", "error", "steps", "reason"),
        _cleaned(rows),
        "One row for each batch plan: what it promised, and the mean until the next one.",
    )


def _balance(figures: RunFigures) -> Table:
    rows = [
        (
            f"{each.rank} {each.host}",
            each.device,
            f"{each.totals.share / each.totals.steps:.1f}" if each.totals.steps else "–",
            figure(each.speed),
            part(each.part(each.totals.compute)),
            part(each.part(each.totals.data)),
            part(each.part(each.totals.wait)),
            part(each.part(each.totals.communication)),
        )
        for each in figures.ranks
    ]
    return Table(
        "Balance",
        ("rank", "device", "mean share", "samples/s alone", "computing", "data", "waiting", "communication"),
        _cleaned(rows),
        "Parts of each rank's own time; what is missing to 100 % is the optimizer and the rest.",
    )


def _hardware(figures: RunFigures) -> Table:
    rows = []
    for each in figures.ranks:
        facts = figures.facts.get(each.host)
        hardware = each.hardware
        rows.append(
            (
                f"{each.rank} {each.host}",
                each.device_name or (facts.cpu_model if facts else "–"),
                "–" if hardware.mean_gpu is None else f"{hardware.mean_gpu:.0f} %",
                "–" if hardware.mean_cpu is None else f"{hardware.mean_cpu:.0f} %",
                size_text(hardware.highest_memory) if hardware.highest_memory else "–",
                "–" if hardware.highest_temperature is None else f"{hardware.highest_temperature:.0f} °C",
                ", ".join(sorted(hardware.throttled)) or "–",
            )
        )
    columns = ("rank", "device", "mean GPU", "mean CPU", "highest memory", "highest temperature", "throttled")
    return Table("Hardware", columns, _cleaned(rows))


def _events(figures: RunFigures) -> Table:
    rows = [
        (
            f"{datetime.fromtimestamp(max(0.0, min(each.time, 4e9)), UTC):%H:%M:%S}",
            f"{each.host}{f' rank {each.rank}' if each.rank >= 0 else ''}",
            each.level,
            each.text,
        )
        for each in figures.events
    ]
    left_out = figures.events_left_out
    note = f"Times are UTC. {left_out} earlier ones are in the recording." if left_out else "Times are UTC."
    return Table("Events", ("time", "where", "level", "what"), _cleaned(rows), note)


def _cleaned(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(clean(cell, 400) for cell in row) for row in rows)


def figure(value: float) -> str:
    """Return a rate with three digits or whole."""
    return "–" if value <= 0 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def part(value: float | None) -> str:
    """Return a fraction in percent."""
    return "–" if value is None else f"{value:.1%}"


def loss(value: float | None) -> str:
    """Return a loss."""
    return "–" if value is None else f"{value:.4g}"

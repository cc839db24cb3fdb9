"""A prediction as text and as a document, and what became of it once the run had ended. Pure but for one file."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from hetero_tui import formats
from remote.errors import RemoteError
from remote.prediction import HostSpeed, Outcome, Prediction
from remote.speeds import NotMeasured
from trainer.errors import UNFIT

PREDICTION_FILE: Final = "prediction.json"
"""Kept beside the run it was made for."""
WORDS: Final = {
    "exact": "float32 gradients",
    "bf16": "16-bit gradients, relative error about 1e-3",
    "fp16": "16-bit gradients, relative error about 1e-3",
    "powersgd": "low-rank gradients: an approximation with error feedback",
    "local_sgd": "parameters averaged every few steps: an approximation",
}
NOT_IN_IT: Final = "Not in it: the optimizer, the computing of a compression, and whatever else the hosts have to do."


def document(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction for programs."""
    return {
        "simulated": prediction.simulated,
        "global_batch": prediction.global_batch,
        "policy": prediction.policy,
        "communication": prediction.wished,
        "everyone": _outcome(prediction.everyone),
        "without": [{"host": host, **_outcome(outcome)} for host, outcome in prediction.without],
        "alone": _outcome(prediction.alone),
        "best": _outcome(prediction.best),
        "modes": [_outcome(outcome) for outcome in prediction.modes],
        "speeds": [
            {
                "host": speed.host,
                "samples_per_second": [round(table.samples_per_second, 3) for table in speed.tables],
                "source": speed.source,
                "measured_at": speed.at or None,
                "simulated": speed.simulated,
            }
            for speed in prediction.speeds
        ],
        "links": prediction.link_source,
    }


def missing_document(error: RemoteError | None) -> dict[str, Any]:
    """Return why there is no prediction, for programs."""
    hosts = list(error.hosts) if isinstance(error, NotMeasured) else []
    return {"missing": error.message if error else "", "hosts": hosts}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    known = outcome.communication_seconds is not None
    return {
        "hosts": list(outcome.hosts),
        "communication": outcome.mode,
        "samples_per_second": round(outcome.samples_per_second, 3),
        "compute_seconds": round(outcome.compute_seconds, 6),
        "communication_seconds": round(outcome.communication_seconds or 0.0, 6) if known else None,
        "shares": list(outcome.shares),
    }


def advice(prediction: Prediction) -> list[str]:
    """Say in words whether it is worth it, and what would be better."""
    everyone, best, alone = prediction.everyone, prediction.best, prediction.alone
    count = len(everyone.hosts)
    lines = []
    if count > 1:
        gain = everyone.samples_per_second / alone.samples_per_second
        verdict = "worth it" if gain >= 1.1 else "hardly worth it" if gain >= 1.0 else "not worth it"
        lines.append(
            f"{verdict}: {formats.rate(everyone.samples_per_second)} samples/s with all {count} hosts, {gain:.2f} × "
            f"{alone.hosts[0]} alone ({formats.rate(alone.samples_per_second)})"
        )
    else:
        lines.append(f"{formats.rate(everyone.samples_per_second)} samples/s")
    left_out = [host for host in everyone.hosts if host not in best.hosts]
    changed_mode = best.mode != everyone.mode
    if left_out or changed_mode:
        what = [f"leave out {', '.join(left_out)}"] if left_out else []
        what += [f'communication = "{best.mode}" ({WORDS[best.mode]})'] if changed_mode else []
        lines.append(f"best: {formats.rate(best.samples_per_second)} samples/s; {' and '.join(what)}")
    else:
        lines.append("best as it is: all hosts, communication as configured")
    if everyone.communication_seconds is None:
        lines.append("gradients are not counted: not every connection between these hosts was measured")
    return lines


def table(prediction: Prediction) -> list[tuple[str, Outcome]]:
    """Return what is compared, in the order it is shown."""
    rows = [("all hosts, as configured", prediction.everyone)]
    rows += [(f"without {host}", outcome) for host, outcome in prediction.without]
    rows.append((f"{prediction.alone.hosts[0]} alone", prediction.alone))
    named = ", ".join(prediction.best.hosts)
    rows += [(f"{mode.mode} on {named}", mode) for mode in prediction.modes if len(mode.hosts) > 1]
    return rows


def text(prediction: Prediction, now: float) -> str:
    """Return a prediction for people.

    Args:
        prediction: what was predicted.
        now: seconds since the epoch, for the age of the measurements.
    """
    lines = ["Is it worth it? Predicted" + (", from SIMULATED speeds" if prediction.simulated else "") + ":"]
    lines += [f"  {line}" for line in advice(prediction)]
    lines.append("")
    best = prediction.everyone.samples_per_second
    for label, outcome in table(prediction):
        change = outcome.samples_per_second / best - 1 if best > 0 else 0.0
        lines.append(
            f"  {label[:44]:<44} {formats.rate(outcome.samples_per_second):>6} samples/s {change:>+6.0%}   "
            f"{step_words(outcome)}"
        )
    lines.append("")
    lines += [f"  {speed.host}: {speed_words(speed, now)}" for speed in prediction.speeds]
    lines += [f"  connections: {prediction.link_source}", f"  {NOT_IN_IT}"]
    return "\n".join(lines)


def step_words(outcome: Outcome) -> str:
    """Say what a step consists of."""
    exchange = outcome.communication_seconds
    moved = "gradients unknown" if exchange is None else f"gradients {formats.short_seconds(exchange)}"
    return f"compute {formats.short_seconds(outcome.compute_seconds)}, {moved}"


def speed_words(speed: HostSpeed, now: float) -> str:
    """Say how quick a host is and how that is known."""
    rates = " + ".join(formats.rate(each.samples_per_second) for each in speed.tables)
    age = f", {formats.duration(max(0.0, now - speed.at))} ago" if speed.at else ""
    return f"{rates} samples/s ({speed.source}{age})"


def compared(folder: Path | None, measured: float | None) -> dict[str, Any] | None:
    """Return what was predicted for a stored run beside what it did, or None where nothing was predicted.

    Args:
        folder: the run's folder.
        measured: samples/s of the run; None when it did not come that far.
    """
    if folder is None:
        return None
    try:
        stored = json.loads((folder / PREDICTION_FILE).read_text("utf-8"))
        everyone = stored["everyone"]
        predicted = float(everyone["samples_per_second"])
        simulated = bool(stored["simulated"])
        counted = everyone["communication_seconds"] is not None
        if not math.isfinite(predicted):
            return None
    except (OSError, *UNFIT):
        return None  # from before there were predictions, or there was nothing to predict from
    return {
        "predicted_samples_per_second": predicted,
        "measured_samples_per_second": measured,
        "measured_over_predicted": round(measured / predicted, 4) if measured and predicted > 0 else None,
        "communication_counted": counted,
        "simulated": simulated,
    }


def compared_text(comparison: dict[str, Any]) -> str:
    """Say in one line what became of a prediction."""
    predicted = comparison["predicted_samples_per_second"]
    start = f"predicted {formats.rate(predicted)} samples/s"
    if not comparison["communication_counted"]:
        start += " (gradients not counted)"
    if comparison["measured_over_predicted"] is None:
        return f"{start}; the run did not come far enough to compare"
    measured = comparison["measured_samples_per_second"]
    part = comparison["measured_over_predicted"]
    return f"{start}, measured {formats.rate(measured)}: {part:.0%} of the prediction"


async def try_predict(
    predict: Callable[[], Awaitable[Prediction]],
) -> tuple[Prediction | None, RemoteError | None]:
    """Return the prediction, or why there is none."""
    try:
        return await predict(), None
    except RemoteError as error:
        return None, error

"""What the store keeps of one rank."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from hetero_tui.sanitize import clean
from hetero_tui.step_rows import StepRow
from hetero_tui.views import RankState, RankView, StepParts
from hetero_tui.windows import History, StepWindow, Totals
from trainer.events import Calibrated, Done, Event, Failed, Hardware, Hello, Joined, Step

SPARK_POINTS: Final = 40
SPARK_SECONDS: Final = 1.0
"""Steps shorter than this are averaged into one point of the spark."""
QUIET_SECONDS: Final = 5.0
"""Silence of at least this long, and of several steps, is reported."""
QUIET_STEPS: Final = 5.0
STEP_POINTS: Final = 256
_LIVE: Final = (
    RankState.JOINING,
    RankState.CALIBRATING,
    RankState.READY,
    RankState.TRAINING,
)
_DONE: Final = {"finished": RankState.FINISHED, "stopped": RankState.STOPPED, "left": RankState.LEFT}
_FIELD_CELLS: Final = 200


class RankRecord:
    """State of one rank, changed by its events only."""

    def __init__(self, rank: int, host: str) -> None:
        self.rank = rank
        self.host = host
        self.state = RankState.STARTING
        self.device = ""
        self.device_name = ""
        self.simulated = False
        self.process_id = 0
        self.planned_share: int | None = None
        self.planned_speed = 0.0
        self.excluded = False
        self.last_share = 0
        self.step = 0
        self.window = StepWindow()
        self.hardware: Hardware | None = None
        self.calibrated: Calibrated | None = None
        self.joined = False
        self.last_event: float | None = None
        self.last_step: float | None = None
        self.lost_lines = 0
        self.error = ""
        self.steps = History(STEP_POINTS)
        """Seconds of data and compute over optimizer steps."""
        self._spark: deque[float] = deque(maxlen=SPARK_POINTS)
        self._spark_share = 0
        self._spark_seconds = 0.0
        self._waits: deque[float] = deque(maxlen=SPARK_POINTS)
        self._spark_wait = 0.0

    @property
    def share(self) -> int:
        """Samples of the global batch by the plan in force; the last batch of an epoch may be shorter."""
        return self.last_share if self.planned_share is None else self.planned_share

    def feed_step(self, row: StepRow, now: float) -> None:
        """Take in one step; the same as ``feed`` with the event that it stands for."""
        self.last_event = now
        self._feed_step(row, now)

    def feed(self, event: Event, now: float) -> None:
        """Take in one event that came at ``now`` on this machine's monotonic clock."""
        self.last_event = now
        match event:
            case Hello():
                self.state = RankState.WAITING_FOR_GO
                self.device = clean(event.device, _FIELD_CELLS)
                self.device_name = clean(event.device_name, _FIELD_CELLS)
                self.simulated = event.simulated
                self.process_id = event.process_id
                self.error = ""
                self.joined = False
                self.last_step = None
                self.window.clear()
            case Joined():
                self.joined = True
                self.state = RankState.READY
            case Calibrated():
                self.calibrated = event
                self.state = RankState.READY if self.joined else RankState.JOINING
            case Step():
                self._feed_step(event, now)
            case Hardware():
                self.hardware = event
            case Failed():
                self.fail(event.error)
            case Done():
                self._feed_done(event)
            case _:
                pass

    def _feed_done(self, event: Done) -> None:
        self.state = _DONE[event.state]
        if self.state is RankState.LEFT:
            self.error = "left: terminated from outside"

    def fail(self, error: str) -> None:
        """The rank is gone; the first reason stays."""
        if self.state is not RankState.FAILED:
            self.state = RankState.FAILED
            self.error = clean(error)

    def _feed_step(self, event: Step | StepRow, now: float) -> None:
        self.state = RankState.TRAINING
        self.last_step = now
        self.step = event.step
        self.last_share = sane_samples(event.share)
        duration = sane_seconds(event.duration)
        compute, data = sane_seconds(event.compute), sane_seconds(event.data)
        wait = sane_seconds(event.wait)
        if compute or data:
            self.steps.add(event.step, compute + data)
        totals = self.window.second(event.time)
        totals.steps += 1
        totals.share += self.last_share
        totals.global_batch += sane_samples(event.global_batch)
        totals.compute += compute
        totals.data += data
        totals.wait += wait
        totals.communication += sane_seconds(event.communication)
        totals.duration += duration
        totals.start = min(totals.start, event.time - duration)
        totals.end = max(totals.end, event.time)
        self._spark_share += self.last_share
        self._spark_seconds += duration
        self._spark_wait += min(duration, wait)
        if self._spark_seconds >= SPARK_SECONDS:
            self._spark.append(self._spark_share / self._spark_seconds)
            self._waits.append(self._spark_wait / self._spark_seconds)
            self._spark_share = 0
            self._spark_seconds = self._spark_wait = 0.0

    def view(self, now: float, *, paused: bool) -> RankView:
        """Return the rank as it stands at ``now``."""
        totals = self.window.totals()
        age = None if self.last_event is None else max(0.0, now - self.last_event)
        step_seconds = totals.duration / totals.steps if totals.steps else 0.0
        parts = _parts(totals)
        state, shown_age = self._shown_state(now, age, step_seconds, parts, paused=paused)
        hardware = self.hardware
        gpu = hardware is not None and hardware.gpu_memory_used is not None
        return RankView(
            rank=self.rank,
            host=self.host,
            state=state,
            device=self.device,
            device_name=self.device_name,
            simulated=self.simulated,
            share=self.share,
            samples_per_second=totals.share / totals.elapsed if totals.elapsed > 0 else 0.0,
            speed=totals.share / totals.compute if totals.compute > 0 else 0.0,
            parts=parts,
            step_seconds=step_seconds,
            memory_used=None if hardware is None else hardware.gpu_memory_used if gpu else hardware.memory_used,
            memory_total=None if hardware is None else hardware.gpu_memory_total if gpu else hardware.memory_total,
            utilisation=_utilisation(hardware),
            temperature=None if hardware is None else hardware.gpu_temperature,
            power=None if hardware is None else hardware.gpu_power,
            throttle_reasons=() if hardware is None else tuple(clean(each, 60) for each in hardware.throttle_reasons),
            age=shown_age,
            spark=tuple(self._spark),
            waits=tuple(self._waits),
            step=self.step,
            lost_lines=self.lost_lines,
            error=self.error,
            planned_speed=self.planned_speed,
            link_bytes_per_second=_link(self.calibrated),
            machine_percent=None if hardware is None else hardware.cpu_percent,
        )

    def _shown_state(
        self, now: float, age: float | None, step_seconds: float, parts: StepParts, *, paused: bool
    ) -> tuple[RankState, float | None]:
        if self.state not in _LIVE or age is None:
            return self.state, age
        if self.planned_share == 0:
            return RankState.EXCLUDED if self.excluded else RankState.SPARE, age
        if paused:
            return RankState.PAUSED, age
        quiet = max(QUIET_SECONDS, QUIET_STEPS * step_seconds)
        if age > quiet:
            return RankState.NO_DATA, age
        since_step = 0.0 if self.last_step is None else now - self.last_step
        if self.state is RankState.TRAINING and since_step > 2 * quiet:
            return RankState.STALLED, since_step
        if self.state is RankState.TRAINING and parts.wait > 0.5:
            return RankState.WAITING, age
        return self.state, age


def sane_seconds(value: float) -> float:
    """Return a duration that sums and quotients can be made of; what is impossible counts as zero."""
    return value if 1e-9 < value < 1e9 else 0.0


def sane_speed(value: float) -> float:
    """Return samples per second that can be compared; what is impossible counts as unknown."""
    return value if 1e-9 < value < 1e12 else 0.0


def sane_samples(value: int) -> int:
    """Return a number of samples that sums and quotients can be made of."""
    return min(max(0, value), 10**12)


def _parts(totals: Totals) -> StepParts:
    if totals.duration <= 0:
        return StepParts()
    whole = max(totals.duration, totals.compute + totals.data + totals.wait + totals.communication)
    return StepParts(
        compute=totals.compute / whole,
        data=totals.data / whole,
        wait=totals.wait / whole,
        communication=totals.communication / whole,
    )


def _link(calibrated: Calibrated | None) -> float:
    speed = calibrated.link_bytes_per_second if calibrated else 0.0
    return speed if 0 < speed < 1e15 else 0.0


def _utilisation(hardware: Hardware | None) -> float | None:
    if hardware is None:
        return None
    value = hardware.gpu_percent if hardware.gpu_percent is not None else hardware.cpu_percent
    return value if value is not None and math.isfinite(value) else None

"""The figures of a stored run that a report shows: one pass over its recording, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hetero_tui import prediction_report, report
from hetero_tui.ingest import Ingest
from hetero_tui.rank_record import sane_samples, sane_seconds
from hetero_tui.recording import apply_record, record_time
from hetero_tui.store import Store
from hetero_tui.stored_runs import StoredRun
from hetero_tui.views import EventRecord, SharesRecord
from hetero_tui.windows import History, Point, Totals
from remote.facts import Facts
from remote.run_dir import RunDirError
from remote.stored_lines import stored_line
from trainer.events import Event, EventError, Hardware, Hello, Shares, Step, decode

EVENTS_SHOWN = 200


@dataclass(slots=True)
class HardwareFigures:
    """What a rank's machine did over the run."""

    samples: int = 0
    gpu_percent: float = 0.0
    """Sum over the samples that have one."""
    gpu_samples: int = 0
    cpu_percent: float = 0.0
    cpu_samples: int = 0
    highest_memory: int = 0
    highest_temperature: float | None = None
    throttled: set[str] = field(default_factory=set)

    def add(self, event: Hardware) -> None:
        """Take in one reading."""
        self.samples += 1
        if event.gpu_percent is not None:
            self.gpu_percent += event.gpu_percent
            self.gpu_samples += 1
        if event.cpu_percent is not None:
            self.cpu_percent += event.cpu_percent
            self.cpu_samples += 1
        self.highest_memory = max(self.highest_memory, event.gpu_memory_used or event.memory_used or 0)
        if event.gpu_temperature is not None:
            self.highest_temperature = max(self.highest_temperature or 0.0, event.gpu_temperature)
        if len(self.throttled) < 20:
            self.throttled.update(event.throttle_reasons)

    @property
    def mean_gpu(self) -> float | None:
        """Mean utilisation of the GPU in percent."""
        return self.gpu_percent / self.gpu_samples if self.gpu_samples else None

    @property
    def mean_cpu(self) -> float | None:
        """Mean use of the CPU in percent."""
        return self.cpu_percent / self.cpu_samples if self.cpu_samples else None


@dataclass(slots=True)
class RankFigures:
    """One rank over the whole run."""

    rank: int
    host: str = ""
    device: str = ""
    device_name: str = ""
    totals: Totals = field(default_factory=Totals)
    rate: History = field(default_factory=lambda: History(256))
    """Samples per second of the rank's own share, by step."""
    hardware: HardwareFigures = field(default_factory=HardwareFigures)

    @property
    def speed(self) -> float:
        """Samples per second while computing."""
        return self.totals.share / self.totals.compute if self.totals.compute > 0 else 0.0

    def part(self, seconds: float) -> float:
        """Return the fraction of the rank's time that ``seconds`` is."""
        return seconds / self.totals.duration if self.totals.duration > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a batch plan promised and what came of it, up to the next plan."""

    shares: SharesRecord
    steps: int
    measured: float
    """Samples per second over those steps; 0 when there were none."""

    @property
    def error(self) -> float | None:
        """How much more was promised than came, as a fraction of what came."""
        promised = self.shares.predicted_samples_per_second
        return promised / self.measured - 1 if self.measured > 0 and promised > 0 else None


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Everything a report tells of one run."""

    run: StoredRun
    document: Mapping[str, Any]
    """As ``up --json`` prints it."""
    workload: str
    steps: int
    samples_per_second: float
    """Mean over all steps: samples of all global batches over the time of all steps."""
    step_seconds: float
    efficiency: float | None
    """Mean throughput over the sum of what each rank does per second while computing, over the whole run."""
    loss: tuple[Point, ...]
    throughput: tuple[Point, ...]
    ranks: tuple[RankFigures, ...]
    predictions: tuple[Prediction, ...]
    events: tuple[EventRecord, ...]
    events_left_out: int
    facts: Mapping[str, Facts]

    @property
    def wait(self) -> float:
        """Mean part of the steps that ranks spent waiting for slower ones."""
        return _mean([each.part(each.totals.wait) for each in self.ranks if each.totals.steps])

    @property
    def gpu_percent(self) -> float | None:
        """Mean utilisation of the GPUs that told it."""
        told = [each.hardware.mean_gpu for each in self.ranks if each.hardware.mean_gpu is not None]
        return _mean(told) if told else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class _Collector:
    def __init__(self) -> None:
        self.ranks: dict[int, RankFigures] = {}
        self.step = -1
        self.batch = 0
        self.seconds = 0.0
        self.steps = 0
        self.segments: list[tuple[int, int, float]] = []
        """For each batch plan: steps, samples, seconds."""

    def take(self, host: str, event: Event) -> None:
        if not 0 <= event.rank < 4096:
            return
        rank = self.ranks.setdefault(event.rank, RankFigures(event.rank))
        match event:
            case Hello():
                rank.host, rank.device, rank.device_name = host, event.device, event.device_name
            case Hardware():
                rank.hardware.add(event)
            case Shares():
                self.segments.append((0, 0, 0.0))
            case Step():
                self._take_step(host, rank, event)
            case _:
                pass

    def _take_step(self, host: str, rank: RankFigures, event: Step) -> None:
        rank.host = rank.host or host
        duration, share = sane_seconds(event.duration), sane_samples(event.share)
        rank.totals.add(
            Totals(
                steps=1,
                share=share,
                compute=sane_seconds(event.compute),
                data=sane_seconds(event.data),
                wait=sane_seconds(event.wait),
                communication=sane_seconds(event.communication),
                duration=duration,
            )
        )
        if duration:
            rank.rate.add(event.step, share / duration)
        if event.step <= self.step or not duration:
            return
        self.step = event.step
        self.steps += 1
        batch = sane_samples(event.global_batch)
        self.batch += batch
        self.seconds += duration
        if self.segments:
            steps, samples, seconds = self.segments[-1]
            self.segments[-1] = (steps + 1, samples + batch, seconds + duration)


def run_figures(run: StoredRun) -> RunFigures:
    """Read a stored run.

    Raises:
        RunDirError: its folder is damaged.
    """
    clock = [0.0]
    store = Store(clock=lambda: clock[0], wall_clock=lambda: clock[0])
    ingest = Ingest(store)
    found = _Collector()
    for record in run.run_dir.records():
        clock[0] = record_time(record, clock[0])
        repeated, broken = store.duplicate_lines, store.broken_events
        apply_record(store, ingest, record)
        line = stored_line(record)
        if line is not None and (store.duplicate_lines, store.broken_events) == (repeated, broken):
            event = _event(line.text)
            if event is not None:
                found.take(line.host, event)
    ended = run.run_dir.read_ended()
    document = report.result_document(
        run.run_id, store, ended.states if ended else (), simulated=run.simulated, folder=str(run.run_dir.path)
    )
    rate = found.batch / found.seconds if found.seconds else 0.0
    document["prediction"] = prediction_report.compared(run.run_dir.path, rate or None)  # the mean, as all figures here
    ideal = sum(each.speed for each in found.ranks.values())
    events = tuple(store.events.tail(store.events.next))
    return RunFigures(
        run=run,
        document=document,
        workload=_workload(run),
        steps=found.steps,
        samples_per_second=rate,
        step_seconds=found.seconds / found.steps if found.steps else 0.0,
        efficiency=rate / ideal if ideal > 0 else None,
        loss=store.loss_history,
        throughput=store.throughput_history,
        ranks=tuple(found.ranks[rank] for rank in sorted(found.ranks)),
        predictions=_predictions(store.shares_history, found.segments),
        events=events[-EVENTS_SHOWN:],
        events_left_out=store.events.next - len(events[-EVENTS_SHOWN:]),
        facts=_facts(run),
    )


def _event(text: str) -> Event | None:
    try:
        return decode(text)
    except EventError:
        return None


def _predictions(shares: tuple[SharesRecord, ...], segments: list[tuple[int, int, float]]) -> tuple[Prediction, ...]:
    # The store keeps the last plans only, so both lists are read from their ends.
    kept = segments[-len(shares) :] if shares else []
    return tuple(
        Prediction(record, steps, samples / seconds if seconds else 0.0)
        for record, (steps, samples, seconds) in zip(shares[-len(kept) :] if kept else (), kept, strict=True)
    )


def _facts(run: StoredRun) -> Mapping[str, Facts]:
    try:
        return run.run_dir.read_facts()
    except RunDirError:
        return {}


def _workload(run: StoredRun) -> str:
    argv = run.plan.hosts[0].argv if run.plan.hosts else ()
    if "--workload" in argv[:-1]:
        return argv[argv.index("--workload") + 1]
    return next((each for each in argv if each.endswith(".py")), "")

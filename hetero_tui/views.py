"""What the screens draw: frozen values, made by the store when asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RankState(StrEnum):
    """Where one rank stands, in the word that is shown."""

    STARTING = "starting"
    IMPORTING = "importing"
    WAITING_FOR_GO = "waiting for go"
    JOINING = "joining"
    CALIBRATING = "calibrating"
    READY = "ready"
    TRAINING = "training"
    WAITING = "waiting"
    """Training, but more than half of its time goes into waiting for slower ranks."""
    PAUSED = "paused"
    STALLED = "stalled"
    """The rank still speaks, but no step has ended for a long time."""
    NO_DATA = "no data"
    """Nothing has come from the rank for a long time."""
    SPARE = "spare"
    EXCLUDED = "excluded"
    """A spare because a person took its host out of the shares."""
    FAILED = "failed"
    FINISHED = "finished"
    STOPPED = "stopped"
    LEFT = "left"
    """Its host was told to end from outside; the others go on."""

    @property
    def ended(self) -> bool:
        """No more events are expected."""
        return self in (RankState.FAILED, RankState.FINISHED, RankState.STOPPED, RankState.LEFT)


class RunState(StrEnum):
    """Where the whole run stands, in the word that is shown."""

    IDLE = "no run"
    STARTING = "starting"
    TRAINING = "training"
    PAUSED = "paused"
    STALLED = "no data"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """The run is over."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED)


@dataclass(frozen=True, slots=True)
class StepParts:
    """How a rank spends its steps, as fractions of their duration over the window."""

    compute: float = 0.0
    data: float = 0.0
    wait: float = 0.0
    communication: float = 0.0

    @property
    def other(self) -> float:
        """Optimizer and everything that is not measured on its own."""
        return max(0.0, 1.0 - self.compute - self.data - self.wait - self.communication)


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank as the table shows it. Rates are over the window of ten seconds on the rank's own clock."""

    rank: int
    host: str
    state: RankState
    device: str = ""
    device_name: str = ""
    simulated: bool = False
    share: int = 0
    """Samples of the global batch by the plan in force."""
    samples_per_second: float = 0.0
    """Samples of this rank's share over elapsed time."""
    speed: float = 0.0
    """Samples per second while computing: what the rank could do if it never had to wait."""
    parts: StepParts = StepParts()
    step_seconds: float = 0.0
    """Mean duration of a step."""
    memory_used: int | None = None
    """Bytes; of the GPU when there is one, else main memory of the process."""
    memory_total: int | None = None
    utilisation: float | None = None
    """Percent; of the GPU when there is one, else of the CPU."""
    temperature: float | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    throttle_reasons: tuple[str, ...] = ()
    age: float | None = None
    """Seconds since the last event came in, on this machine's clock; ``None`` before the first."""
    spark: tuple[float, ...] = ()
    """Samples per second, about one value a second, oldest first."""
    waits: tuple[float, ...] = ()
    """Part of its steps the rank spent waiting, about one value a second, oldest first."""
    step: int = 0
    lost_lines: int = 0
    error: str = ""
    planned_speed: float = 0.0
    """Samples per second the plan in force reckons with; 0 when it is not known."""
    link_bytes_per_second: float = 0.0
    """As the rank measured it; 0 when it did not."""
    machine_percent: float | None = None
    """Use of the whole machine's processor."""

    @property
    def state_text(self) -> str:
        """The state in words, with the age where that is the news."""
        if self.state in (RankState.NO_DATA, RankState.STALLED) and self.age is not None:
            return f"{self.state} {self.age:.0f} s"
        return self.state.value


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Throughput against what the ranks do while computing, and the three factors whose product it is.

    ``total = throughput / sum over ranks of (samples / compute seconds)``. ``balance`` is lost to shares that do not
    fit the speeds, ``jitter`` to steps whose slowest rank changes, ``communication`` to everything after the
    computing: reduction, optimizer, pauses.
    """

    total: float
    balance: float
    jitter: float
    communication: float
    ideal_samples_per_second: float


EFFICIENCY_DEFINITION = "samples/s of the cluster ÷ sum of what each rank does per second while computing, over 10 s"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The run as a whole. Rates are over the window of ten seconds."""

    state: RunState
    state_text: str
    step: int = 0
    """Optimizer steps done."""
    steps_total: int = 0
    epoch: int = 0
    eta: float | None = None
    """Seconds until the last step at the present rate."""
    elapsed: float | None = None
    """Seconds since the first rank said hello."""
    samples_per_second: float = 0.0
    global_batch: int = 0
    efficiency: Efficiency | None = None
    loss: float | None = None
    learning_rate: float | None = None
    policy: str = ""
    ranks: int = 0
    ranks_training: int = 0
    ranks_failed: int = 0
    lost_lines: int = 0
    skipped_lines: int = 0
    """Lines of output that came faster than they could be shown; the run's folder has them."""
    duplicate_lines: int = 0
    broken_events: int = 0
    age: float | None = None
    """Seconds since anything came in."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of output, safe to draw."""

    time: float
    """Seconds since the epoch: the rank's clock for an event, this machine's for plain output."""
    host: str
    rank: int
    """-1 for output that belongs to no rank."""
    text: str
    stream: str = "stdout"
    """``stdout``, ``stderr``, ``notice``, ``warning``, ``error`` or ``mark``."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened, for the list of events."""

    time: float
    host: str
    rank: int
    kind: str
    level: str
    """``info``, ``warning`` or ``error``."""
    text: str
    step: int | None = None
    code: str = ""
    """Of a notice: what it is for programs (``trainer.events.Notice``)."""
    about: str = ""
    """Of a notice: the host that a refusal is about."""


@dataclass(frozen=True, slots=True)
class SharesRecord:
    """A batch plan that took effect."""

    time: float
    step: int
    shares: tuple[int, ...]
    policy: str
    reason: str
    predicted_samples_per_second: float
    speeds: tuple[float, ...]
    excluded: tuple[int, ...] = ()
    """Ranks whose host a person has excluded."""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A rank that failed."""

    time: float
    host: str
    rank: int
    error: str
    traceback: str
    exit_code: int | None
    step: int | None
    consequence: bool
    """The message says that another rank went away: most likely not the cause."""
    cause: str = ""
    """What errors like it mean; empty when it is not known."""
    next_step: str = ""

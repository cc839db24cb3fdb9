"""The event schema: one JSON object a line on a rank's standard output.

Everything the screens, the reports and the stored runs know of a training run is one of these events. A line
is an event when it is a JSON object whose ``ht`` field holds the schema version; every other line is plain output.
The module uses the standard library only, so the control plane can import it without torch.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import islice
from typing import Any, ClassVar, Final, Literal

SCHEMA_VERSION: Final = 1
MAX_EVENT_BYTES: Final = 256 * 1024
"""A line longer than this is never decoded as an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event carries."""

    kind: ClassVar[str] = ""

    rank: int
    """Global rank of the process that speaks; -1 for the agent that starts the ranks of one host."""
    seq: int = 0
    """Counts up from 0 within one rank, without a gap: a missing number is a lost line."""
    time: float = 0.0
    """Seconds since the epoch on the clock of the rank's host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Event):
    """The rank's process is up and has imported torch; it waits for the launcher's go."""

    kind: ClassVar[str] = "hello"
    host: str
    local_rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    """A torch device string such as ``cuda:0``, ``cpu`` or ``mps``."""
    device_name: str = ""
    torch_version: str = ""
    backend: str = ""
    process_id: int = 0
    interface: str = ""
    simulated: bool = False
    """True when this rank's speed is held down on purpose (the demo)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Event):
    """The process group is formed and this rank is a member."""

    kind: ClassVar[str] = "joined"
    seconds: float = 0.0
    world_size: int = 1
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated(Event):
    """What the rank measured of itself before training."""

    kind: ClassVar[str] = "calibrated"
    samples_per_second: float = 0.0
    table: tuple[tuple[int, float], ...] = ()
    """(micro-batch in samples, seconds for one forward and backward), rising."""
    max_micro_batch: int = 0
    link_bytes_per_second: float = 0.0
    """Measured all-reduce rate of the group; 0 when not measured."""
    bytes_per_sample: float = 0.0
    """Memory of one more sample in a micro-batch; 0 when not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares(Event):
    """A batch plan took effect: rank 0 (or the lowest living rank) tells it for all."""

    kind: ClassVar[str] = "shares"
    step: int = 0
    shares: tuple[int, ...] = ()
    """Samples of the global batch for each rank, in rank order."""
    policy: str = ""
    reason: str = ""
    predicted_samples_per_second: float = 0.0
    speeds: tuple[float, ...] = ()
    """Samples per second each rank is planned with, in rank order."""
    excluded: tuple[int, ...] = ()
    """Ranks without a share because a person has excluded their host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """One optimizer step as this rank lived it. All durations are seconds."""

    kind: ClassVar[str] = "step"
    step: int = 0
    epoch: int = 0
    steps_total: int = 0
    share: int = 0
    """Samples of this step's global batch that this rank computed."""
    global_batch: int = 0
    loss: float = math.nan
    """Mean loss over the global batch (the same on all ranks)."""
    learning_rate: float = math.nan
    compute: float = 0.0
    """Forward and backward up to the first collective."""
    data: float = 0.0
    """Waiting for input data."""
    wait: float = 0.0
    """Waiting for slower ranks before the reduction can start."""
    communication: float = 0.0
    """Moving gradients once everybody is there."""
    duration: float = 0.0
    """The whole step, including the optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware(Event):
    """What the machine is doing; ``None`` where there is no such sensor."""

    kind: ClassVar[str] = "hardware"
    source: str = ""
    """Where the figures come from, such as ``psutil`` or ``psutil+nvml``."""
    cpu_percent: float | None = None
    memory_used: int | None = None
    """Bytes of main memory used by this process."""
    memory_total: int | None = None
    gpu_percent: float | None = None
    gpu_memory_used: int | None = None
    gpu_memory_total: int | None = None
    gpu_temperature: float | None = None
    """Degrees Celsius."""
    gpu_power: float | None = None
    """Watts."""
    throttle_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch(Event):
    """An epoch ended."""

    kind: ClassVar[str] = "epoch"
    epoch: int = 0
    samples: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint was written, refused or restored."""

    kind: ClassVar[str] = "checkpoint"
    action: str = "saved"
    """``saved``, ``restored`` or ``refused``."""
    path: str = ""
    step: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership(Event):
    """The set of ranks that train changed."""

    kind: ClassVar[str] = "membership"
    generation: int = 0
    members: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    joined: tuple[int, ...] = ()
    pause: float = 0.0
    """Seconds from the last good step to the first step of the new group."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something a person should read."""

    kind: ClassVar[str] = "notice"
    level: Literal["info", "warning", "error"] = "info"
    text: str = ""
    step: int | None = None
    code: str = ""
    """What it is for programs, whatever the words: ``paused``, ``resumed``, or a command of a person that changes
    nothing: ``exclude-refused``, ``admit-refused``, ``policy-refused``. Empty where no program has to know, and in
    recordings of trainers that did not say it."""
    about: str = ""
    """Name of the host that a refusal is about, as the command gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    """A line of ordinary output of a rank's process, relayed by the agent, which is the one that numbers it."""

    kind: ClassVar[str] = "output"
    stream: Literal["stdout", "stderr"] = "stdout"
    text: str = ""
    source_rank: int = -1
    """The rank whose process wrote the line; -1 for the agent's own children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The rank is about to end because of an error, or the agent saw it end."""

    kind: ClassVar[str] = "failed"
    error: str = ""
    """One line: type and message."""
    traceback: str = ""
    exit_code: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    """The rank ended in good order."""

    kind: ClassVar[str] = "done"
    steps: int = 0
    samples: int = 0
    """Samples of all ranks together."""
    seconds: float = 0.0
    loss: float = math.nan
    state: Literal["finished", "stopped", "left"] = "finished"
    """``left``: its host was told to end from outside, and the others go on without it."""


EVENT_TYPES: Final[Mapping[str, type[Event]]] = {
    event_type.kind: event_type
    for event_type in (
        Hello, Joined, Calibrated, Shares, Step, Hardware, Epoch, Checkpoint, Membership, Notice, Output, Failed, Done,
    )
}  # fmt: skip


class EventError(ValueError):
    """A line claims to be an event and is not a valid one."""


def encode(event: Event) -> str:
    """Return the event as one line of JSON without the newline. NaN and infinity become ``null``."""
    payload = {"ht": SCHEMA_VERSION, "kind": event.kind} | asdict(event)
    return json.dumps(_without_nan(payload), separators=(",", ":"), allow_nan=False)


def _without_nan(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case tuple() | list():
            return [_without_nan(each) for each in value]
        case dict():
            return {key: _without_nan(each) for key, each in value.items()}
        case _:
            return value


def decode(line: str) -> Event | None:
    """Read one line of output.

    Returns the event, or ``None`` when the line is plain output. Fields this version does not know are ignored,
    so an older reader can follow a newer trainer.

    Raises:
        EventError: the line is marked as an event but its fields have the wrong shape.
    """
    if not line.startswith('{"ht":') or len(line) > MAX_EVENT_BYTES:
        return None
    try:
        payload = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventError(f"broken event: {error}") from None
    if not isinstance(payload, dict):
        return None
    return from_mapping(payload)


def from_mapping(payload: Mapping[str, Any]) -> Event:
    """Build an event from decoded JSON.

    Raises:
        EventError: unknown kind, a missing field or a field of the wrong type.
    """
    kind = payload.get("kind")
    event_type = EVENT_TYPES.get(kind) if isinstance(kind, str) else None
    if event_type is None:
        raise EventError(f"unknown kind of event: {str(kind)[:40]!r}")
    names, types = _PLAIN[event_type]
    if tuple(payload) == names and tuple(map(type, payload.values())) == types:
        # As ``encode`` writes it, and nothing to convert: a log holds millions of these.
        return event_type(**dict(islice(payload.items(), 2, None)))
    values: dict[str, Any] = {}
    for spec in fields(event_type):
        if spec.name in payload:
            values[spec.name] = _checked(f"{kind}.{spec.name}", str(spec.type), payload[spec.name])
        elif spec.default is MISSING:
            raise EventError(f"{kind}: {spec.name} is missing")
    return event_type(**values)


_PLAIN_TYPES: Final[Mapping[str, type]] = {"int": int, "float": float, "bool": bool, "str": str}


def _plain_shape(event_type: type[Event]) -> tuple[tuple[str, ...], tuple[type, ...]]:
    """Return the names and types of an encoded event's values that need no check of their own; impossible for some."""
    own = fields(event_type)
    names = ("ht", "kind", *(spec.name for spec in own))
    return names, (int, str, *(_PLAIN_TYPES.get(str(spec.type), object) for spec in own))


_PLAIN: Final = {event_type: _plain_shape(event_type) for event_type in EVENT_TYPES.values()}


def _checked(where: str, annotation: str, value: Any) -> Any:
    """Return ``value`` as the annotated type; JSON has no tuples and no NaN, so both are restored here."""
    match annotation:
        case "int":
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        case "float":
            if value is None:
                return math.nan
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return _as_float(where, value)
        case "bool":
            if isinstance(value, bool):
                return value
        case "str":
            if isinstance(value, str):
                return value
        case "int | None":
            return None if value is None else _checked(where, "int", value)
        case "float | None":
            return None if value is None else _checked(where, "float", value)
        case "tuple[int, ...]" | "tuple[float, ...]" | "tuple[str, ...]":
            if isinstance(value, list):
                item = annotation.removeprefix("tuple[").removesuffix(", ...]")
                return tuple(_checked(where, item, each) for each in value)
        case "tuple[tuple[int, float], ...]":
            if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
                return tuple((_checked(where, "int", pair[0]), _checked(where, "float", pair[1])) for pair in value)
        case _ if annotation.startswith("Literal["):
            # A postponed annotation is the compiler's own spelling, with the quotes of repr.
            choices = annotation.removeprefix("Literal[").removesuffix("]").split(", ")
            if isinstance(value, str) and repr(value) in choices:
                return value
    raise EventError(f"{where}: expected {annotation}, got {str(value)[:40]!r}")


def _as_float(where: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise EventError(f"{where}: number out of range") from None


class Emitter:
    """Numbers the events of one rank and writes them, one line each. Safe to use from several threads."""

    def __init__(
        self, rank: int, write: Callable[[str], object], clock: Callable[[], float] = time.time, *, first_seq: int = 0
    ) -> None:
        """``write`` takes one complete line with its newline; ``clock`` returns seconds since the epoch.

        ``first_seq`` lets a rank that was started again go on counting where its last process stopped.
        """
        self.rank = rank
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._next_seq = first_seq

    def emit(self, event_type: type[Event], /, **values: Any) -> None:
        """Fill in rank, seq and time, and write the event."""
        with self._lock:
            event = event_type(rank=self.rank, seq=self._next_seq, time=self._clock(), **values)
            self._next_seq += 1
            self._write(encode(event) + "\n")

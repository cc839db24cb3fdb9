"""What the commands print with ``--json``: the shapes, for programs and for the page that documents them.

``schema`` in each document is the version. New keys may appear in the same version; no key changes its meaning or goes.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from hetero_tui.report import SCHEMA


class HostPhase(TypedDict):
    """How this program stands with a host."""

    host: str
    phase: str
    detail: str


class Fix(TypedDict):
    """What would mend a finding."""

    text: str
    commands: list[str]
    host: str
    needs_root: bool


class CheckFinding(TypedDict):
    """One check on one host; an empty host means the whole cluster."""

    check: str
    title: str
    host: str
    verdict: Literal["ok", "warn", "fail", "unknown", "skip"]
    reason: str
    evidence: str
    fix: Fix | None
    seconds: float


class Check(TypedDict):
    """``check``: the checklist, and what the cluster is predicted to do or why that cannot be told."""

    schema: int
    cluster: str
    ok: bool
    hosts: list[HostPhase]
    checks: list[CheckFinding]
    prediction: dict[str, Any]


class Interrupted(TypedDict):
    """``up`` and ``demo`` that are interrupted before there is a run; once there is one they print its result."""

    schema: int
    run: str
    state: Literal["interrupted"]
    detail: str


class Refused(TypedDict):
    """``up`` and ``demo`` that start nothing because checks fail: the checklist, with ``ok`` false."""

    schema: int
    cluster: str
    ok: bool
    hosts: list[HostPhase]
    checks: list[CheckFinding]


class Plan(TypedDict):
    """``plan``: what would be started where. Its shape is that of ``plan.json`` in a run's folder."""

    schema: int
    plan: dict[str, Any]


class Images(TypedDict):
    """``images``: how each host gets its image."""

    schema: int
    ok: bool
    brought: bool
    hosts: list[dict[str, Any]]


class HostData(TypedDict):
    """How one host's data set differs from the master's; paths are below the folder.

    Nothing can be brought there for the reason in ``problem``; ``failure`` says why bringing failed.
    """

    host: str
    lacking: list[str]
    differing: list[str]
    extra: list[str]
    bytes_lacking: int
    free_bytes: int
    unfinished: bool
    problem: str
    failure: str


class Data(TypedDict):
    """``data``: every host's data set against the master's, after bringing where that was asked for."""

    schema: int
    ok: bool
    brought: bool
    master: str
    folder: str
    files: int
    bytes: int
    hosts: list[HostData]


class ImageList(TypedDict):
    """``images ls`` and ``images rm``."""

    schema: int
    images: list[dict[str, Any]]


class Balance(TypedDict):
    """Efficiency and its three factors, over the last ten seconds of the run."""

    definition: str
    total: float | None
    shares: float | None
    jitter: float | None
    communication: float | None
    ideal_samples_per_second: float | None


class Rank(TypedDict):
    """One rank at the end; parts are fractions of its steps."""

    rank: int
    host: str
    device: str
    state: str
    simulated: bool
    share: int
    samples_per_second: float | None
    speed: float | None
    compute: float | None
    data: float | None
    wait: float | None
    communication: float | None


class _Result(TypedDict):
    schema: int
    run: str
    state: str
    detail: str
    simulated: bool
    folder: str
    steps: int
    global_batch: int
    seconds: float | None
    samples_per_second: float | None
    loss: float | None
    first_loss: float | None
    policy: str
    balance: Balance | None
    ranks: list[Rank]
    share_changes: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    hosts: list[dict[str, Any]]
    lost_lines: int


class Result(_Result, total=False):
    """``up``, ``watch`` and ``demo``: how a run went."""

    checkpoints: list[str]
    kept_on_hosts: dict[str, str]
    prediction: dict[str, Any] | None


class Started(TypedDict):
    """``up --detach``: the run that has begun."""

    schema: int
    run: str


class Status(TypedDict):
    """``status``: what runs on the hosts."""

    schema: int
    hosts: list[HostPhase]
    runs: list[dict[str, Any]]


class LogLine(TypedDict):
    """``logs``, one a line: output of a rank, or of an agent with rank -1."""

    schema: int
    time: float | None
    host: str
    rank: int
    stream: str
    text: str


class Stopped(TypedDict):
    """``stop``: the runs that ended and the checkpoints that came home."""

    schema: int
    stopped: list[str]
    checkpoints: list[str]


class HostChange(TypedDict):
    """``exclude`` and ``admit``: the plan in force, by rank; ``changed`` says whether it is a new one."""

    schema: int
    run: str
    command: Literal["exclude", "admit"]
    host: str
    changed: bool
    step: int
    reason: str
    excluded: list[str]
    shares: list[int]
    predicted_samples_per_second: float | None
    predicted_cost: float | None


class StoredRunEntry(TypedDict):
    """One run kept on this machine."""

    run: str
    folder: str
    begun: str
    recording_bytes: int
    cluster: str
    world_size: int
    policy: str
    simulated: bool
    ended: str
    problem: str


class Runs(TypedDict):
    """``runs``: what is kept on this machine."""

    schema: int
    runs: list[StoredRunEntry]


class ReplayEvent(TypedDict):
    """``replay``, one a line: an event of a rank. ``trainer/events.py`` says what each kind holds."""

    schema: int
    kind: Literal["event"]
    at: float
    host: str
    event: dict[str, Any]


class ReplayOutput(TypedDict):
    """``replay``, one a line: plain output."""

    schema: int
    kind: Literal["line"]
    at: float
    host: str
    stream: str
    text: str


class ReplayAct(TypedDict):
    """``replay``, one a line: what the program did or noticed."""

    schema: int
    kind: Literal["did"]
    at: float
    did: dict[str, Any]


class ReplayResult(TypedDict):
    """``replay``, the last line."""

    schema: int
    kind: Literal["result"]
    result: Result


class ReportRun(TypedDict):
    """One run of a report; means are over all its steps."""

    run: str
    policy: str
    simulated: bool
    steps: int
    samples_per_second: float
    against_first: float | None
    step_seconds: float
    efficiency: float | None
    result: Result


class Report(TypedDict):
    """``report``: where the pages are, and their figures."""

    schema: int
    html: str
    markdown: str
    runs: list[ReportRun]


class InitHost(TypedDict):
    """One machine that was tried."""

    host: str
    reached: str
    problem: str
    taken: bool
    runtime: Literal["docker", "process"]
    described: str


class Init(TypedDict):
    """``init``: the file that was written, and every machine that was tried."""

    schema: int
    file: str
    hosts: list[InitHost]


class Split(TypedDict):
    """One way to split a global batch; ``waits`` are the seconds that each rank waits in every step."""

    name: str
    shares: list[int]
    step_seconds: float
    samples_per_second: float
    waits: list[float]


class Shares(TypedDict):
    """``shares``: what each way to split a global batch costs and brings."""

    schema: int
    splits: list[Split]


class DoctorSection(TypedDict):
    """One section of the report."""

    title: str
    markdown: str


class Doctor(TypedDict):
    """``doctor``: what belongs into a bug report; ``file`` is empty unless ``--report`` named one."""

    schema: int
    redacted: bool
    file: str
    sections: list[DoctorSection]


DOCUMENTS: Final[dict[str, tuple[type[Any], ...]]] = {
    "check": (Check,),
    "plan": (Plan,),
    "images": (Images,),
    "images ls": (ImageList,),
    "images rm": (ImageList,),
    "data": (Data,),
    "up": (Result, Started, Refused, Interrupted),
    "watch": (Result,),
    "demo": (Result, Refused, Interrupted),
    "status": (Status,),
    "logs": (LogLine,),
    "stop": (Stopped,),
    "exclude": (HostChange,),
    "admit": (HostChange,),
    "runs": (Runs,),
    "replay": (ReplayEvent, ReplayOutput, ReplayAct, ReplayResult),
    "report": (Report,),
    "init": (Init,),
    "shares": (Shares,),
    "doctor": (Doctor,),
}
"""What each command prints; ``logs`` and ``replay`` print one document a line."""


def validate(command: str, document: object) -> None:
    """Check that a document is one the command may print.

    Raises:
        pydantic.ValidationError: it is not.
    """
    shapes = DOCUMENTS[command]
    shape: Any = shapes[0]
    for other in shapes[1:]:
        shape = shape | other
    TypeAdapter(shape).validate_python(document, strict=True)


def schemas() -> dict[str, Any]:
    """Return the JSON schema of every document, by command."""
    return {command: [TypeAdapter(shape).json_schema() for shape in shapes] for command, shapes in DOCUMENTS.items()}


def output_schema() -> str:
    """Return all schemas as one JSON document."""
    return json.dumps({"schema": SCHEMA, "commands": schemas()}, indent=2)


def page() -> str:
    """Return the page that documents them."""
    lines = [
        "# JSON output",
        "",
        "<!-- Written by `make docs`; a test compares it with the code. -->",
        "",
        "These commands take `--json`: one document on standard output, at the end, also when `up` restarts a run that",
        "failed; progress, warnings and questions go to standard error. `logs` and `replay` print one document a line.",
        "A command that cannot do its work leaves standard output empty and says why on standard error. Interrupted,",
        "`up`, `demo` and `watch` print theirs all the same, with the state in which the run is then.",
        "`schema` is the version: in the same version keys may be added, none",
        f"changes its meaning or goes. This is version {SCHEMA}. `hetero-tui schema --output` prints JSON Schema.",
        "",
        "Exit codes: 0 all well · 1 something failed · 2 a mistake in the call or in cluster.toml · 130 interrupted.",
        "A document that could not be written to its end is no success: 1, unless its reader had enough (`head`).",
        "`up` exits 0 only when training finished; `watch` also when somebody stopped the run on purpose.",
        "",
    ]
    told: set[str] = set()
    for command, shapes in DOCUMENTS.items():
        lines += [f"## {command}", ""]
        for shape in shapes:
            schema = TypeAdapter(shape).json_schema()
            definitions = schema.get("$defs", {})
            lines += _section(schema, command if shape.__name__ in told else "")
            told.add(shape.__name__)
            for name, definition in definitions.items():
                if name not in told:
                    told.add(name)
                    lines += [f"**{name}**", "", *_section(definition, "")]
    return "\n".join(lines).rstrip() + "\n"


def _section(schema: dict[str, Any], again: str) -> list[str]:
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    lines = [str(schema.get("description", "")).replace("``", "`"), ""]
    if again:
        return [*lines, f"As above: `{schema['title']}`.", ""]
    lines += ["| key | type |", "|---|---|"]
    required = schema.get("required", [])
    for key, value in schema["properties"].items():
        lines.append(f"| `{key}`{'' if key in required else ' (not always)'} | {_type(value)} |")
    return [*lines, ""]


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_type(each) for each in value["anyOf"])
    if "$ref" in value:
        return f"{value['$ref'].rpartition('/')[2]}"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    return str(value.get("type", "any"))

"""``experiments/<cluster>/<run>/`` on the master: everything known of one run, kept as it happens.

===================  ====================================================================================
``plan.json``        the launch plan
``facts.json``       what every host said about itself
``checks.json``      the checklist's results
``cluster.toml``     the inventory as it was
``events.jsonl.gz``  the recording: every line of every host's log with its position, and what the program did
``ended.json``       how every host's part ended, and which hosts still keep what they could not hand over
``checkpoints/``     the newest good checkpoint, brought home before the run was removed from the hosts
``output/HOST/``     what else the run wrote to its output folder on that host
``logs/HOST.log``    what the ranks said, as plain text for people: no measurements, no control characters
===================  ====================================================================================
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from remote.checks.model import CheckResult
from remote.errors import UserError
from remote.facts import Facts
from remote.plan import LaunchPlan
from remote.recording import RecordingBusy, RecordingFile, read_recording
from remote.runtime import HostRunState, LogLine
from remote.stored_lines import StoredLine, document_in, readable, records_in, stored_block, stored_line, written

PLAN_FILE: Final = "plan.json"
FACTS_FILE: Final = "facts.json"
CHECKS_FILE: Final = "checks.json"
INVENTORY_FILE: Final = "cluster.toml"
ENDED_FILE: Final = "ended.json"
EVENTS_FILE: Final = "events.jsonl.gz"
LOG_FOLDER: Final = "logs"

_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_T = TypeVar("_T")


class RunDirError(UserError):
    """A run's folder is missing, damaged, or in use by another instance of this program."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    states: tuple[HostRunState, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    """Hosts where it was not removed, for its results could not be brought home, with the reason."""


def new_run_id(clock: Callable[[], float], token: Callable[[], str] = lambda: secrets.token_hex(2)) -> str:
    """Return an id such as ``20261123-034500-ab12``: UTC, sorts by time, differs within one second.

    Args:
        clock: returns seconds since the epoch.
        token: returns four hexadecimal digits.
    """
    return f"{datetime.fromtimestamp(clock(), UTC):%Y%m%d-%H%M%S}-{token()}"


def file_name(name: str) -> str:
    """Return ``name`` as one harmless path component: no separator, no leading dot, never empty."""
    quoted = quote(name, safe="")[:200]
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted or "%00"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new, never half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(slots=True)
class RunDir:
    """The folder of one run. One instance at a time may append; any number may read."""

    path: Path
    fraction_read: float = field(default=0.0, repr=False)
    """How much of the recording has been read when somebody is reading it."""
    _events: RecordingFile | None = field(default=None, repr=False)
    _logs: dict[str, BinaryIO] = field(default_factory=dict, repr=False)
    _read_to: tuple[int, dict[str, str]] | None = field(default=None, repr=False)
    """Size of the recording when it was last read to its end, and each host's position there."""

    @classmethod
    def create(cls, experiments: Path, cluster: str, run_id: str) -> RunDir:
        """Make the folder of a new run.

        Raises:
            RunDirError: the run exists already, or the folder cannot be made.
        """
        path = cls.folder(experiments, cluster, run_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / LOG_FOLDER).mkdir()
        except FileExistsError:
            raise RunDirError(
                f"{path} exists already", next_step="start again: every run gets an id of its own"
            ) from None
        except OSError as error:
            raise RunDirError(
                f"cannot make {path}: {error.strerror}", next_step="choose another folder with --experiments"
            ) from None
        return cls(path)

    @staticmethod
    def folder(experiments: Path, cluster: str, run_id: str) -> Path:
        """Return where a run is or would be kept."""
        return experiments / file_name(cluster) / file_name(run_id)

    @classmethod
    def open(cls, experiments: Path, cluster: str, run_id: str) -> RunDir:
        """Open the folder of a known run.

        Raises:
            RunDirError: there is no such run.
        """
        path = cls.folder(experiments, cluster, run_id)
        if path.is_dir():
            return cls(path)
        known = ", ".join(cls.run_ids(experiments, cluster)[-5:]) or "none"
        raise RunDirError(f"no run {run_id!r} of {cluster!r} in {experiments}", next_step=f"runs stored there: {known}")

    @classmethod
    def open_or_create(cls, experiments: Path, cluster: str, run_id: str) -> RunDir:
        """Open the run's folder, or make it: for taking over a run that another machine started.

        Raises:
            RunDirError: the folder cannot be made.
        """
        path = cls.folder(experiments, cluster, run_id)
        return cls(path) if path.is_dir() else cls.create(experiments, cluster, run_id)

    @classmethod
    def latest(cls, experiments: Path, cluster: str) -> RunDir | None:
        """Return the newest run of a cluster, or None when there is none."""
        run_ids = cls.run_ids(experiments, cluster)
        return cls.open(experiments, cluster, run_ids[-1]) if run_ids else None

    @staticmethod
    def run_ids(experiments: Path, cluster: str) -> tuple[str, ...]:
        """Return the ids of all stored runs of a cluster, oldest first."""
        folder = experiments / file_name(cluster)
        if not folder.is_dir():
            return ()
        return tuple(sorted(each.name for each in folder.iterdir() if _RUN_ID.fullmatch(each.name) and each.is_dir()))

    @property
    def run_id(self) -> str:
        """Id of the run, from the folder's name."""
        return self.path.name

    @property
    def events_path(self) -> Path:
        """Where every host's lines are kept."""
        return self.path / EVENTS_FILE

    def log_path(self, host: str) -> Path:
        """Where a host's output is kept as plain text."""
        return self.path / LOG_FOLDER / f"{file_name(host)}.log"

    def write_json(self, name: str, value: object) -> None:
        """Write one JSON document atomically. ``name`` is a plain file name such as ``report.json``."""
        text = json.dumps(value, indent=2, ensure_ascii=False)
        write_atomically(self.path / file_name(name), f"{text}\n".encode(errors="backslashreplace"))

    def write_plan(self, plan: LaunchPlan) -> None:
        """Keep the launch plan."""
        self.write_json(PLAN_FILE, TypeAdapter(LaunchPlan).dump_python(plan, mode="json"))

    def write_facts(self, facts: Mapping[str, Facts]) -> None:
        """Keep what the hosts said about themselves, by host name."""
        self.write_json(FACTS_FILE, TypeAdapter(dict[str, Facts]).dump_python(dict(facts), mode="json"))

    def write_checks(self, results: Sequence[CheckResult]) -> None:
        """Keep the checklist's results."""
        self.write_json(CHECKS_FILE, TypeAdapter(list[CheckResult]).dump_python(list(results), mode="json"))

    def write_inventory(self, text: str) -> None:
        """Keep a copy of ``cluster.toml``."""
        write_atomically(self.path / INVENTORY_FILE, text.encode())

    def write_ended(self, ended: Ended) -> None:
        """Keep how the run ended: from then on nobody needs to ask the hosts."""
        self.write_json(ENDED_FILE, TypeAdapter(Ended).dump_python(ended, mode="json"))

    def read_ended(self) -> Ended | None:
        """Return how the run ended, or None when that is not known here.

        Raises:
            RunDirError: the file is damaged.
        """
        return self._read(ENDED_FILE, TypeAdapter(Ended)) if (self.path / ENDED_FILE).exists() else None

    def read_plan(self) -> LaunchPlan:
        """Return the launch plan.

        Raises:
            RunDirError: it is missing or damaged.
        """
        return self._read(PLAN_FILE, TypeAdapter(LaunchPlan))

    def read_facts(self) -> dict[str, Facts]:
        """Return the facts by host name.

        Raises:
            RunDirError: they are missing or damaged.
        """
        return self._read(FACTS_FILE, TypeAdapter(dict[str, Facts]))

    def read_checks(self) -> list[CheckResult]:
        """Return the checklist's results.

        Raises:
            RunDirError: they are missing or damaged.
        """
        return self._read(CHECKS_FILE, TypeAdapter(list[CheckResult]))

    def _read(self, name: str, shape: TypeAdapter[_T]) -> _T:
        path = self.path / name
        try:
            return shape.validate_json(path.read_bytes())
        except OSError as error:
            raise RunDirError(
                f"cannot read {path}: {error.strerror}", next_step="this run cannot be taken over from this folder"
            ) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunDirError(
                f"{path} is damaged: {where or 'document'}: {first['msg']}",
                next_step="this run cannot be taken over from this folder",
            ) from None

    def append(self, host: str, lines: Sequence[LogLine], at: float | None = None) -> None:
        """Keep a batch of lines of one host's log, positions included, and hand it to the operating system.

        Args:
            host: inventory name.
            lines: as the host sent them.
            at: when they came, in seconds since the epoch; now, when left out.

        Raises:
            RunDirError: another instance of this program is writing to this run.
            OSError: the disk is full or gone.
        """
        if not lines:
            return
        stamp = time.time() if at is None else at
        self._recording().append(written(host, lines, stamp))
        log = self._logs.get(host) or self._open_log(host)
        log.write(readable(lines).encode(errors="backslashreplace"))
        log.flush()

    def append_record(self, record: Mapping[str, object]) -> None:
        """Keep something that is no line of a host: what the program did or noticed.

        Raises:
            RunDirError: another instance of this program is writing to this run.
            OSError: the disk is full or gone.
        """
        self._recording().append(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def _recording(self) -> RecordingFile:
        if self._events is None:
            try:
                self._events = RecordingFile(self.events_path)
            except RecordingBusy:
                raise RunDirError(
                    f"another hetero-tui writes to {self.path}", next_step="close it first, or watch with --readonly"
                ) from None
        return self._events

    def _open_log(self, host: str) -> BinaryIO:
        path = self.log_path(host)
        path.parent.mkdir(exist_ok=True)
        log = self._logs[host] = path.open("ab")
        return log

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield every document of the recording in the order in which things happened; what is none is passed over.

        One with ``did`` tells of this program; any other holds lines of a host, see ``stored_lines.stored_block``. Both
        have ``at``, in seconds since the epoch.
        """
        positions: dict[str, str] = {}
        try:
            size = self.events_path.stat().st_size

            def tell(position: int) -> None:
                self.fraction_read = min(1.0, position / max(1, size))

            for raw in read_recording(self.events_path, tell):
                if (document := document_in(raw)) is None:
                    continue
                if (block := stored_block(document)) is not None and block.position:
                    positions[block.host] = block.position
                yield document
        except FileNotFoundError:
            return
        self._read_to = size, positions

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every record of the recording in the order in which things happened; what is none is passed over.

        A record of a line has ``host``, ``position`` (empty unless the log can go on behind it), ``line`` and, where it
        is not standard output, ``stream``; any other has a ``did``. Both have ``at``, in seconds since the epoch.
        """
        for document in self.documents():
            yield from records_in(document)

    def lines(self) -> Iterator[StoredLine]:
        """Yield every stored line of every host in the order of arrival.

        A last line that a crash cut short is left out; so is one that is not a record.
        """
        for record in self.records():
            stored = stored_line(record)
            if stored is not None:
                yield stored

    def positions(self, *, as_read: bool = False) -> dict[str, str]:
        """Return for each host the position behind its last stored line: where its log goes on.

        With ``as_read`` behind the last line that :meth:`records` gave here, whatever others have written since.
        """
        if self._read_to is None or not (as_read or self._read_to[0] == self._size()):
            self._read_to = None
            for _ in self.documents():
                pass
        return dict(self._read_to[1]) if self._read_to is not None else {}

    def _size(self) -> int:
        return self.events_path.stat().st_size if self.events_path.exists() else 0

    def close(self) -> None:
        """Close the files and let another instance write; harmless when nothing is open."""
        for file in (self._events, *self._logs.values()):
            if file is not None:
                file.close()
        self._events = None
        self._logs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

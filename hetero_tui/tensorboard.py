"""TensorBoard event files, written while the run goes on, without TensorBoard, protobuf or torch.

A file is a sequence of TFRecords (length, masked CRC of the length, data, masked CRC of the data; both CRC-32C), each
the protocol buffer ``tensorflow.Event`` with ``wall_time`` = 1 (double), ``step`` = 2 (int64), ``file_version`` = 3
(string) and ``summary`` = 5, whose ``value`` = 1 has ``tag`` = 1 (string) and ``simple_value`` = 2 (float). Sources:
tensorflow/core/lib/io/record_writer.cc, tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto.
"""

from __future__ import annotations

import itertools
import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from hetero_tui.step_rows import StepRow
from trainer.events import Done, Epoch, Event, Failed, Hardware, Shares, Step

FOLDER: Final = "tensorboard"
WRITE_SECONDS: Final = 2.0
MOST_PENDING: Final = 2_000
"""Events that are held back at most; when a long past is read, as many come within a fraction of a second."""
MANY: Final = 48
"""Blocks of one length from which on their checksums are reckoned together."""
RANK_SECONDS: Final = 1.0
"""How often each rank's own figures are written. TensorBoard draws 1 000 points of a curve at most."""
LARGEST: Final = 3e38
"""About the largest 32-bit float."""
_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, bits reversed (RFC 3720, appendix B.4)."""


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


_PLANES: Final = tuple(bytes(entry >> shift & 0xFF for entry in _TABLE) for shift in (0, 8, 16, 24))
"""The table's entries byte by byte, for ``bytes.translate``."""


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc32c_of_all(blocks: Sequence[bytes]) -> list[int]:
    """Return the CRC-32C of each of many blocks of one length: all first bytes at once, then all second ones.

    The bytes of all checksums that have the same weight are held in one long number each. For hundreds of blocks that
    takes a tenth of the time of one after the other.
    """
    count, length = len(blocks), len(blocks[0])
    joined = b"".join(blocks)
    first = second = third = fourth = int.from_bytes(b"\xff" * count, "little")
    for column in range(length):
        index = (first ^ int.from_bytes(joined[column::length], "little")).to_bytes(count, "little")
        first, second, third, fourth = (
            int.from_bytes(index.translate(_PLANES[0]), "little") ^ second,
            int.from_bytes(index.translate(_PLANES[1]), "little") ^ third,
            int.from_bytes(index.translate(_PLANES[2]), "little") ^ fourth,
            int.from_bytes(index.translate(_PLANES[3]), "little"),
        )
    planes = [plane.to_bytes(count, "little") for plane in (first, second, third, fourth)]
    return [int.from_bytes(each, "little") ^ 0xFFFFFFFF for each in map(bytes, zip(*planes, strict=True))]


def _masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache(maxsize=1024)
def _header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + _masked(crc32c(packed))


def record(data: bytes) -> bytes:
    """Return ``data`` framed as one TFRecord."""
    return _header(len(data)) + data + _masked(crc32c(data))


def framed(blocks: Sequence[bytes]) -> bytes:
    """Return all blocks framed as TFRecords, in their order."""
    by_length: dict[int, list[int]] = {}
    for number, data in enumerate(blocks):
        by_length.setdefault(len(data), []).append(number)
    found = [b""] * len(blocks)
    for numbers in by_length.values():
        alike = [blocks[number] for number in numbers]
        sums = crc32c_of_all(alike) if len(alike) >= MANY else map(crc32c, alike)
        for number, crc in zip(numbers, sums, strict=True):
            found[number] = _header(len(blocks[number])) + blocks[number] + _masked(crc)
    return b"".join(found)


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


@lru_cache(maxsize=4096)
def _before_value(tag: str) -> bytes:
    """Return all that stands in a summary before the four bytes of a value, for they alone change."""
    return _field(1, _field(1, tag.encode(errors="replace")) + b"\x15" + bytes(4))[:-4]


def scalars(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return an event that holds scalars by tag."""
    summary = b"".join([_before_value(tag) + struct.pack("<f", value) for tag, value in values.items()])
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + _field(5, summary)


class TensorBoardWriter:
    """Writes the scalars of a run below its folder. Sees every new event once.

    Nothing stays open between two writes, so whoever is told of the last event has nothing to close.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``folder`` is the run's; ``clock`` returns seconds and decides when to write."""
        self._folder = folder / FOLDER
        self._clock = clock
        self._path: Path | None = None
        self._pending: list[bytes] = []
        self._written = clock()
        self._step = -1
        self._told: dict[int, float] = {}
        """When each rank's figures were last written, by the time its steps tell."""

    def observe(self, host: str, event: Event | StepRow) -> None:  # noqa: ARG002
        """Take in what the event says in numbers; it is written within seconds, at the latest when a rank ends.

        Raises:
            OSError: the disk is full or gone.
        """
        step, values = self._scalars(event)
        finite = {tag: value for tag, value in values.items() if math.isfinite(value) and abs(value) < LARGEST}
        if finite and math.isfinite(event.time):
            self._pending.append(scalars(event.time, step, finite))
        is_due = len(self._pending) >= MOST_PENDING or self._clock() - self._written > WRITE_SECONDS
        if is_due or isinstance(event, Done | Failed):
            self.flush()

    def flush(self) -> None:
        """Write what has not been written yet.

        Raises:
            OSError: the disk is full or gone.
        """
        self._written = self._clock()
        if not self._pending:
            return
        path = self._path or self._create()
        with path.open("ab") as file:
            file.write(framed(self._pending))
        self._pending.clear()

    def _scalars(self, event: Event | StepRow) -> tuple[int, dict[str, float]]:
        match event:
            case StepRow() | Step():
                values = self._of_rank(event)
                if event.step > self._step:
                    # The first rank to tell of a step tells it for all.
                    self._step = event.step
                    values |= {"train/loss": event.loss, "train/learning rate": event.learning_rate}
                    values["train/epoch"] = float(event.epoch)
                    if event.duration > 0:
                        values["cluster/samples per second"] = event.global_batch / event.duration
                return event.step, values
            case Shares():
                return event.step, {"cluster/predicted samples per second": event.predicted_samples_per_second}
            case Epoch() if event.accuracy is not None:
                return event.epoch, {"epoch/loss": event.loss, "epoch/accuracy": event.accuracy}
            case Epoch():
                return event.epoch, {"epoch/loss": event.loss}
            case Hardware():
                figures = {
                    "CPU percent": event.cpu_percent,
                    "memory bytes": event.memory_used,
                    "GPU percent": event.gpu_percent,
                    "GPU memory bytes": event.gpu_memory_used,
                    "GPU temperature": event.gpu_temperature,
                    "GPU watts": event.gpu_power,
                }
                return max(0, self._step), {
                    f"hardware {event.rank}/{name}": float(value)
                    for name, value in figures.items()
                    if value is not None
                }
            case _:
                return 0, {}

    def _of_rank(self, event: Step | StepRow) -> dict[str, float]:
        """Return what a step tells of its rank alone; nothing when that was told less than a second ago."""
        if 0 <= event.time - self._told.get(event.rank, -math.inf) < RANK_SECONDS:
            return {}
        self._told[event.rank] = event.time
        values = {
            f"rank {event.rank}/compute seconds": event.compute,
            f"rank {event.rank}/wait seconds": event.wait,
            f"rank {event.rank}/communication seconds": event.communication,
            f"rank {event.rank}/data seconds": event.data,
            f"rank {event.rank}/share": float(event.share),
        }
        if event.compute > 0:
            values[f"rank {event.rank}/speed (samples per second computing)"] = event.share / event.compute
        return values

    def _create(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        version = b"\x09" + struct.pack("<d", now) + _field(3, b"brain.Event:2")
        # TensorBoard reads the files of a folder in the order of their names, which begin with the time.
        for count in itertools.count():
            path = self._folder / f"events.out.tfevents.{now:.0f}.hetero-tui.{count}"
            try:
                with path.open("xb") as file:
                    file.write(record(version))
            except FileExistsError:
                continue
            self._path = path
            break
        assert self._path is not None
        return self._path

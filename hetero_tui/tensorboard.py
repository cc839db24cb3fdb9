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
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from trainer.events import Done, Epoch, Event, Failed, Hardware, Shares, Step

FOLDER: Final = "tensorboard"
WRITE_SECONDS: Final = 2.0
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


@cache
def _table_of_pairs() -> tuple[int, ...]:
    """Return what each two bytes, the first in the low bits, do to the checksum."""
    after_one = [(_TABLE[pair & 0xFF], pair >> 8) for pair in range(1 << 16)]
    return tuple(_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8 for crc, byte in after_one)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``."""
    # Two bytes at a time: for a run of short steps this is most of the work of writing them down.
    table, crc = _table_of_pairs(), 0xFFFFFFFF
    for pair in struct.unpack(f"<{len(data) >> 1}H", data[: len(data) & ~1]):
        crc = table[(crc ^ pair) & 0xFFFF] ^ crc >> 16
    if len(data) & 1:
        crc = _TABLE[(crc ^ data[-1]) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """Return ``data`` framed as one TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


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
        self._pending = bytearray()
        self._written = clock()
        self._step = -1
        self._told: dict[int, float] = {}
        """When each rank's figures were last written, by the time its steps tell."""

    def observe(self, host: str, event: Event) -> None:  # noqa: ARG002
        """Take in what the event says in numbers; it is written within seconds, at the latest when a rank ends.

        Raises:
            OSError: the disk is full or gone.
        """
        step, values = self._scalars(event)
        finite = {tag: value for tag, value in values.items() if math.isfinite(value) and abs(value) < LARGEST}
        if finite and math.isfinite(event.time):
            self._pending += record(scalars(event.time, step, finite))
        if isinstance(event, Done | Failed) or self._clock() - self._written > WRITE_SECONDS:
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
            file.write(self._pending)
        self._pending.clear()

    def _scalars(self, event: Event) -> tuple[int, dict[str, float]]:
        match event:
            case Step():
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

    def _of_rank(self, event: Step) -> dict[str, float]:
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

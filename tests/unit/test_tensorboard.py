"""TensorBoard files, read back by the protobuf library and, where it is installed, by TensorBoard itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tui.tensorboard import FOLDER, TensorBoardWriter, crc32c, crc32c_of_all, framed, record
from trainer.events import Done, Epoch, Hardware, Shares, Step


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


def write(folder: Path) -> Path:
    writer = TensorBoardWriter(folder)
    for step in range(5):
        for rank in (0, 1):
            writer.observe(
                "a",
                Step(
                    rank=rank, time=1e9 + step, step=step, share=8, global_batch=16, loss=1 / (1 + step), compute=0.5,
                    duration=2.0,
                ),
            )  # fmt: skip
    writer.observe("a", Step(rank=0, time=1e9, step=2, loss=float("nan"), compute=float("inf")))
    writer.observe("a", Hardware(rank=1, time=1e9 + 5, cpu_percent=12.5))
    writer.observe("a", Shares(rank=0, time=1e9 + 5, step=4, predicted_samples_per_second=99.5))
    writer.observe("a", Epoch(rank=0, time=1e9 + 5, epoch=0, loss=0.25, accuracy=0.75))
    writer.observe("a", Done(rank=0, time=1e9 + 6))
    (path,) = (folder / FOLDER).iterdir()
    return path


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def event_class() -> type[Any]:
    """``tensorflow.Event`` as far as it is used, declared to the protobuf library."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    shapes: dict[str, list[tuple[str, int, int, str]]] = {
        "Value": [("tag", 1, field.TYPE_STRING, ""), ("simple_value", 2, field.TYPE_FLOAT, "")],
        "Summary": [("value", 1, field.TYPE_MESSAGE, ".t.Value")],
        "Event": [
            ("wall_time", 1, field.TYPE_DOUBLE, ""),
            ("step", 2, field.TYPE_INT64, ""),
            ("file_version", 3, field.TYPE_STRING, ""),
            ("summary", 5, field.TYPE_MESSAGE, ".t.Summary"),
        ],
    }
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, type_name in fields:
            added = message.field.add(name=field_name, number=number, type=kind, label=field.LABEL_OPTIONAL)
            if type_name:
                added.type_name = type_name
            if field_name == "value":
                added.label = field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))
    return found


def test_the_protobuf_library_reads_every_record(tmp_path: Path) -> None:
    event = event_class()
    version, *rest = [event.FromString(each) for each in records(write(tmp_path))]
    assert version.file_version == "brain.Event:2"
    found: dict[str, list[tuple[int, float]]] = {}
    for each in rest:
        for value in each.summary.value:
            found.setdefault(value.tag, []).append((each.step, value.simple_value))
    assert [step for step, _ in found["train/loss"]] == list(range(5))
    assert [value for _, value in found["train/loss"]] == pytest.approx([1 / (1 + step) for step in range(5)])
    assert found["cluster/samples per second"] == [(step, 8.0) for step in range(5)]
    assert found["rank 1/speed (samples per second computing)"] == [(step, 16.0) for step in range(5)]
    assert found["hardware 1/CPU percent"] == [(4, 12.5)]
    assert found["epoch/accuracy"] == [(0, 0.75)]
    assert rest[0].wall_time == 1e9


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed; the protobuf library has read the file")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        EventAccumulator,
    )

    accumulator = EventAccumulator(str(write(tmp_path).parent))
    accumulator.Reload()
    assert [(each.step, each.value) for each in accumulator.Scalars("train/loss")] == [
        (step, pytest.approx(1 / (1 + step))) for step in range(5)
    ]
    assert accumulator.Scalars("epoch/accuracy")[0].value == 0.75


def test_who_takes_over_begins_a_file_of_its_own(tmp_path: Path) -> None:
    first = write(tmp_path)
    second = TensorBoardWriter(tmp_path)
    second.observe("a", Step(rank=0, time=1e9, step=9, loss=1.0))
    second.flush()
    assert len(set((tmp_path / FOLDER).iterdir()) - {first}) == 1


def test_fast_steps_tell_the_loss_each_and_their_rank_once_a_second(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(41):
        for rank in (0, 1):
            time = 1e9 + step / 10
            writer.observe("a", Step(rank=rank, time=time, step=step, share=8, global_batch=16, loss=1.0, compute=0.5))
    writer.observe("a", Done(rank=0, time=1e9 + 5))
    (path,) = (tmp_path / FOLDER).iterdir()
    written = b"".join(records(path))
    assert written.count(b"train/loss") == 41
    assert written.count(b"rank 1/compute seconds") == 5
    assert written.count(b"rank 0/share") == 5


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=200), st.integers(1, 4))
def test_checksums_reckoned_together_are_those_of_each(blocks: list[bytes], repeated: int) -> None:
    assert framed(blocks * repeated) == b"".join(map(record, blocks * repeated))
    alike = [block.ljust(40, b"\0") for block in blocks] or [b"alone"]
    assert crc32c_of_all(alike) == list(map(crc32c, alike))

"""What reaches the ranks: control messages, checkpoints, the coordinator's protocol, variables and data files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import socket
import threading
from typing import Any, cast

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.hostile import DEEP, as_json, few, fresh_folder, json_values, mangled, texts, untouched
from trainer.checkpoint import CheckpointFolder
from trainer.control import ControlFolder
from trainer.coordinator import Coordinator
from trainer.environment import read_host
from trainer.errors import CheckpointError, CoordinatorLost, RunAborted, TrainerError
from trainer.link import Link, RunOver
from trainer.options import parse
from trainer.roster import Roster
from trainer.state import Progress
from trainer.workloads.images import Cifar

IDENTITY = {"model": "simple_cnn", "seed": 0}


def _checkpoint() -> tuple[bytes, dict[str, Any]]:
    with fresh_folder() as folder:
        tensors = {"weight": torch.arange(8.0)}
        path = CheckpointFolder(folder, keep=2, identity=IDENTITY).save(
            Progress(step=10), {"policy": "equal"}, tensors, {"scale": 1.0}, tensors
        )
        return path.read_bytes(), json.loads(torch.load(path, weights_only=True)["facts"])


CHECKPOINT, FACTS = _checkpoint()
MESSAGE = b'{"command":"simulate","samples_per_second":50,"policy":"equal","host":"a","by":"me"}'
HELLO = {"type": "hello", "rank": 0, "run": "r"}
TYPES = ["hello", "ready", "broken", "command", "left", "unanswered", "failed", "take_part", "finished", "form",
         "break", "abort", "over", "x"]  # fmt: skip
FIELDS = ["rank", "step", "card", "generation", "reason", "name", "command", "addresses", "elastic",
          "heartbeat_timeout", "members", "steps", "source", "left", "joined", "cards", "index"]  # fmt: skip
protocol = st.lists(
    st.one_of(
        st.builds(lambda kind, more: more | {"type": kind}, st.sampled_from(TYPES),
                  st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6)),
        json_values,
    ),
    max_size=5,
)  # fmt: skip


@few
@given(st.lists(st.one_of(mangled(MESSAGE), json_values.map(as_json).map(str.encode)), min_size=1, max_size=3))
@example([MESSAGE.replace(b"50", b"1" + b"0" * 400)])
@example([DEEP.encode()])
def test_control_messages_are_obeyed_or_told(messages: list[bytes]) -> None:
    complaints: list[str] = []
    names = {f"{number}-x.json": data for number, data in enumerate(messages)}
    with fresh_folder() as folder, untouched(folder, names):
        obeyed = ControlFolder(folder, complaints.append).read(now=True)
    assert len(obeyed) + len(complaints) == len(messages)


@few
@given(mangled(CHECKPOINT), st.booleans())
def test_a_mangled_checkpoint_is_read_or_refused_and_stays(data: bytes, is_signed: bool) -> None:
    _read_checkpoint(data, is_signed=is_signed)


@few
@given(
    st.one_of(json_values, st.dictionaries(st.sampled_from(sorted(FACTS)), json_values).map(lambda new: FACTS | new)),
    st.sampled_from(["tensors", "model", "facts"]),
)
@example({key: value for key, value in FACTS.items() if key != "identity"}, "facts")
@example(FACTS | {"identity": 5}, "facts")
@example(FACTS | {"progress": FACTS["progress"] | {"step": 10**400}}, "facts")
def test_facts_of_any_shape_in_a_checkpoint_are_read_or_refused(facts: Any, lacking: str) -> None:
    content: dict[str, Any] = {"facts": as_json(facts), "tensors": {"weight": torch.ones(2)}, "model": {}}
    if lacking != "facts":
        content[lacking] = [1, "x"]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    _read_checkpoint(buffer.getvalue(), is_signed=True)


def _read_checkpoint(data: bytes, *, is_signed: bool) -> None:
    digest = hashlib.sha256(data if is_signed else b"").hexdigest()
    names = {"step-00000010.pt": data, "step-00000010.pt.sha256": f"{digest}  step-00000010.pt\n".encode()}
    with fresh_folder() as folder, untouched(folder, names):
        try:
            saved, refused = CheckpointFolder(folder, keep=2, identity=IDENTITY).newest()
        except CheckpointError:
            return
    assert (saved is None) == bool(refused)
    assert is_signed or saved is None


class Writer:
    """What the coordinator writes to; nobody reads it."""

    transport = property(lambda self: self)

    def write(self, data: bytes) -> None:
        assert data.endswith(b"\n")

    def abort(self) -> None: ...

    def close(self) -> None: ...

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return "192.0.2.1", 5


@few
@given(protocol, protocol, st.booleans())
@example([{"type": "ready", "step": 1, "card": 5}], [{"type": "ready", "step": 1, "card": {}}], True)
@example([{"type": "ready", "step": float("inf"), "card": {}}], [], True)
@example([{"type": "unanswered", "addresses": [5]}], [{"type": "take_part", "heartbeat_timeout": -1}], True)
def test_a_rank_that_says_anything_is_heard_or_dropped(one: list[Any], other: list[Any], elastic: bool) -> None:
    async def serve() -> None:
        coordinator = Coordinator(Roster(2, elastic), run_id="r", heartbeat_timeout=5.0)
        for rank, said in enumerate((one, other)):
            reader = asyncio.StreamReader()
            for message in [HELLO | {"rank": rank}, *said]:
                reader.feed_data(as_json(message).encode() + b"\n")
            reader.feed_eof()
            await coordinator._serve(reader, cast("asyncio.StreamWriter", Writer()))
        assert not coordinator._peers

    asyncio.run(serve())


@few
@given(
    st.one_of(protocol.map(lambda said: "".join(f"{as_json(each)}\n" for each in said)), texts, st.just(DEEP + "\n"))
)
@example('{"type":"form","generation":1e999}\n')
@example("[]\n")
@example('{"type":"break","generation":null}\n')
def test_a_coordinator_that_says_anything_is_obeyed_or_given_up(said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(said.encode(errors="replace"))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        speaker = threading.Thread(target=speak)
        speaker.start()
        link = Link("127.0.0.1", server.getsockname()[1], run_id="r", rank=0, timeout=30.0)
        try:
            with contextlib.suppress(RunAborted, RunOver, CoordinatorLost):
                link.form(1, {}, lambda: None)
        finally:
            link.close()
            speaker.join()


@few
@given(
    st.dictionaries(
        st.sampled_from(["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "HETERO_RANKS", "HETERO_DEVICES", "MASTER_PORT",
                         "HETERO_SIMULATED_SAMPLES_PER_SECOND", "HETERO_CONTROL"]),
        st.one_of(texts, st.integers(-3, 10**20).map(str)),
    ),
    st.lists(st.one_of(texts, st.sampled_from(["--epochs", "--policy", "--workload", "5", "--samples=x", "x.py"]))),
)  # fmt: skip
@example({"WORLD_SIZE": "9" * 30, "LOCAL_WORLD_SIZE": "9" * 30}, [])
def test_variables_and_options_are_taken_or_refused(environment: dict[str, str], words: list[str]) -> None:
    with contextlib.suppress(TrainerError):
        read_host(environment)
    if "--help" in words or "-h" in words:
        return
    with contextlib.suppress(TrainerError):
        parse(words)


@few
@given(st.one_of(mangled(bytes([3]) + bytes(3072)), st.binary(max_size=50)))
def test_a_file_of_images_is_read_or_refused(data: bytes) -> None:
    names = {f"data_batch_{number}.bin": data for number in range(1, 6)}
    with fresh_folder() as folder, untouched(folder, names), contextlib.suppress(TrainerError):
        assert Cifar(folder, 10).size > 0

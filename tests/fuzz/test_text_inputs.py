"""cluster.toml, log lines, events, facts, positions and recordings: an error of the tree or none, never another."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hetero_tui.ingest import Ingest
from hetero_tui.output import harmless, json_text
from hetero_tui.recording import apply_record
from hetero_tui.store import Store
from remote.docker_logs import LineAssembler, Position
from remote.errors import CommandFailed, InventoryError
from remote.facts import parse_facts
from remote.inventory import Inventory, parse_inventory
from remote.runtime import LogLine
from tests.fuzz.hostile import DEEP, as_json, few, json_values, mangled, texts
from trainer.events import EVENT_TYPES, EventError, decode

GOOD = """\
[cluster]
name = "home"
[image]
ref = "trainer:1"
[training]
workload = "simple_cnn"
env = { A = "1" }
[limits]
restarts = 2
[[hosts]]
name = "desk"
address = "local"
devices = [0, "GPU-1"]
[[hosts]]
name = "laptop"
address = "192.168.1.42"
"""
FACTS = "@@HTUI1\nsystem\tLinux\nmemory\t1 2\naddress\teth0 10.0.0.1/24\n@@END\n"

_FIELDS = sorted({field.name for kind in EVENT_TYPES.values() for field in dataclasses.fields(kind)})


@few
@given(mangled(GOOD.encode()))
def test_a_cluster_file_is_read_or_refused_as_a_whole(data: bytes) -> None:
    with contextlib.suppress(InventoryError):
        assert isinstance(parse_inventory(data.decode(errors="replace"), "cluster.toml"), Inventory)


@few
@given(st.dictionaries(texts, json_values, max_size=4), st.sampled_from(["cluster", "limits", "training", "hosts", ""]))
def test_any_table_in_a_cluster_file_is_read_or_refused(table: dict[str, object], name: str) -> None:
    header = "[[hosts]]" if name == "hosts" else f"[{name}]" if name else ""
    lines = [header, *(f"{as_json(key)} = {as_json(value)}" for key, value in table.items())]
    with contextlib.suppress(InventoryError):
        parse_inventory("\n".join(lines), "cluster.toml")


def test_a_deep_cluster_file_is_refused() -> None:
    with pytest.raises(InventoryError):
        parse_inventory(f"a = {DEEP}", "cluster.toml")


@few
@given(st.sampled_from(sorted(EVENT_TYPES)), st.dictionaries(st.sampled_from(_FIELDS), json_values, max_size=8))
def test_an_event_is_read_or_refused_and_the_store_survives_it(kind: str, fields: dict[str, object]) -> None:
    line = as_json({"ht": 1, "kind": kind, "rank": 0, "seq": 0, "time": 1.0} | fields)
    with contextlib.suppress(EventError):
        decode(line)
    _feed(line)


@few
@given(st.one_of(texts, st.binary(max_size=300).map(lambda data: data.decode(errors="surrogateescape"))), texts)
def test_any_line_of_output_goes_into_the_store_and_comes_out_harmless(line: str, host: str) -> None:
    store = _feed(line, '{"ht":' + line, '{"ht":1,"kind":' + line, host=host)
    for number in range(store.log.first, store.log.next):
        # Cc and Cs: control characters and halves of pairs; Cf turns the reading direction.
        assert not {unicodedata.category(each) for each in store.log[number].text} & {"Cc", "Cs", "Cf"}


def test_a_deep_event_is_refused() -> None:
    store = _feed('{"ht":1,"kind":' + DEEP, '{"ht":' + DEEP)
    assert store.broken_events == 2


def _feed(*lines: str, host: str = "h1") -> Store:
    store = Store()
    ingest = Ingest(store)
    asyncio.run(ingest.feed(host, [LogLine(line, "1") for line in lines]))
    store.cluster_view()
    store.rank_views()
    return store


@few
@given(mangled(FACTS.encode()), st.floats(), st.floats())
def test_facts_are_read_or_refused(data: bytes, sent_at: float, received_at: float) -> None:
    with contextlib.suppress(CommandFailed):
        parse_facts("h1", data.decode(errors="replace"), sent_at=sent_at, received_at=received_at)


_KEYS = ("system", "memory", "cpu", "disk", "clock", "gpu", "route", "address", "ports", "quota", "online", "uname")


@few
@given(st.lists(st.tuples(st.sampled_from(_KEYS), texts), max_size=20))
def test_facts_of_any_value_are_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    body = "\n".join(f"{key}\t{value}" for key, value in pairs)
    text = FACTS.replace("@@END", f"{body}\n@@END")
    with contextlib.suppress(CommandFailed):
        parse_facts("h1", text, sent_at=1.0, received_at=2.0)


@few
@given(texts, st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=80)), max_size=6))
def test_positions_and_frames_of_a_log_are_taken_or_refused(position: str, frames: list[tuple[int, bytes]]) -> None:
    with contextlib.suppress(ValueError):
        Position.parse(position)
    assembler = LineAssembler()
    assert all(isinstance(line.text, str) for line in [*assembler.feed(frames), *assembler.finish()])


@few
@given(st.dictionaries(st.sampled_from(["did", "host", "devices", "phase", "message", "text", "rank"]), json_values))
def test_a_record_of_a_recording_is_applied_or_passed_over(record: dict[str, object]) -> None:
    for did in ("expect", "launch", "control", "note", "mark"):
        store = Store()
        apply_record(store, Ingest(store), {"host": "h1", "did": did, **record})


@few
@given(st.one_of(texts, st.text(), st.text(alphabet="\x1b[]0123;m\x07\x9b\u202e\u2028\r\nab")))
@example("a\x1b]52;c;Y2F0\x07b\nc\x9b2Jd\u202e\ud800")
def test_whatever_was_said_goes_to_the_terminal_as_text(text: str) -> None:
    shown = harmless(text)
    assert not {unicodedata.category(each) for each in shown.replace("\n", "")} & {"Cc", "Cs", "Cf"}
    written = json_text({"text": text, text: [text]})
    assert not {unicodedata.category(each) for each in written.replace("\n", "")} & {"Cc", "Cs", "Cf"}
    assert json.loads(written) == {"text": text, text: [text]}

"""What hosts, engines and their neighbours answer: read, or refused with an error that names the host."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from remote.answers import json_document, json_lines
from remote.checks.network_probe import Place, build_report, read_answer
from remote.checks.script import script_finding
from remote.checks.software_report import read_software
from remote.claim import SinceBoot
from remote.dataset import read_listing, read_summary
from remote.dataset_pack import repacked
from remote.decode_errors import decode
from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.engine_image import image_info
from remote.errors import CommandFailed, EngineError, HostBusy, ImageError, RemoteError
from remote.facts import parse_facts
from remote.images.engine_pull import check_message, check_messages, messages
from remote.images.inbox import Inbox
from remote.images.registry import Registry
from remote.images.registry_pull import PullProgress
from remote.images.store import LayerStore, StoredImage, StoredLayer
from remote.overlay_host import look
from remote.plan_contract import LABEL_CLOCK
from remote.process_runtime import ProcessRuntime
from remote.runner import Completed
from remote.runtime import HostRunState
from remote.shells import which_shell
from tests.fuzz.hostile import (
    DEEP,
    Stream,
    as_json,
    few,
    fresh_folder,
    in_chunks,
    json_values,
    mangled,
    mangled_tar,
    numbers,
    tar_of,
    texts,
)
from tests.unit.scripted import ScriptedRunner

WINDOWS = Path("tests/transcripts/windows.facts").read_bytes()
PLACE = Place("alpha", "host", "192.0.2.1")
PROBE = {
    "hetero_probe": 1, "token": "t", "started": 1.0, "ended": 9.0, "python": "3.11", "interface_addresses": ["a"],
    "binds": [{"port": 5, "error": "", "in_use": False}], "master_bind": {"port": 6, "error": ""},
    "links": [{"to": "alpha", "kind": "data", "attempts": {"5": {"at": 2.0, "sent": 1e9, "round_trip": 0.1}}}],
}  # fmt: skip
STATE = {"run_id": "20260101-000000-abcd", "state": "running", "code": None, "ranks": [0], "started_at": 1.8e9}
BOOT = "1f2e3d4c-0000-4000-8000-000000000000"
RECORD: dict[str, Any] = {
    "Id": "c" * 64, "Created": "2026-01-01T00:00:00.5Z", "Mounts": [{"Type": "bind", "Destination": "/x"}],
    "State": {"Status": "exited", "ExitCode": 137, "Error": "no gpu", "StartedAt": "2026-01-01T00:00:00Z"},
    "Config": {"Labels": {"hetero.run": "r1", "hetero.host": "h1", "hetero.ranks": "0,1", LABEL_CLOCK: f"{BOOT} 5.00"}},
}  # fmt: skip
PULL = (
    b'{"status":"Downloading","id":"a","progressDetail":{"current":5,"total":9}}\n{"status":"Pull complete","id":"a"}\n'
)
PACKED = tar_of([("./a/b.bin", b"data" * 40), ("./c", b"x")], links=[("./d", "/etc/passwd")])


@st.composite
def altered(draw: st.DrawFn, whole: Any) -> Any:
    """Return JSON that was right until some of its values became others."""
    if draw(st.integers(0, 9)) == 0:
        return draw(json_values)
    if isinstance(whole, dict):
        return {key: draw(altered(value)) for key, value in whole.items() if draw(st.integers(0, 9))}
    if isinstance(whole, list):
        return [draw(altered(value)) for value in whole]
    if draw(st.integers(0, 4)):
        return whole
    # Of the same kind, but absurd: what checks the shape lets it pass.
    alike = texts if isinstance(whole, str) else numbers if isinstance(whole, (int, float)) else json_values
    return draw(st.one_of(alike, json_values))


def completed(stdout: str) -> ScriptedRunner:
    return ScriptedRunner(Completed("h1", "x", 0, stdout, ""))


def settled(asked: Coroutine[Any, Any, object]) -> object:
    """Return what came of something that has nothing to wait for, or the error of the tree."""
    try:
        asked.send(None)
    except StopIteration as end:
        result: object = end.value
        return result
    except RemoteError as error:
        return error
    raise AssertionError("it waits for something")


async def told(asked: Awaitable[object]) -> object:
    """Return what came of it, or the error of the tree."""
    try:
        return await asked
    except RemoteError as error:
        return error


@few
@given(st.one_of(mangled(WINDOWS), st.binary(max_size=200)))
def test_facts_of_powershell_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CommandFailed):
        parse_facts("h1", data.decode(errors="replace"), sent_at=1.0, received_at=2.0)


@few
@given(texts, st.text(max_size=400))
def test_a_login_shell_is_told_or_not(reply: str, more: str) -> None:
    for said in (reply, f"HTUI {reply}", f"{more} HTUI .PSVersion.Major {reply}"):
        assert which_shell(said) in ("posix", "cmd", "powershell", None)


@few
@given(altered(PROBE), st.floats())
@example(as_json(PROBE | {"links": [{"attempts": {"9" * 5000: {}}}]}), 0.0)
def test_a_probe_line_is_believed_as_far_as_its_shape_is_right(said: Any, offset: float) -> None:
    line = said if isinstance(said, str) else as_json(said)
    answer = read_answer(PLACE, f"Welcome\n{line}\nbye", "t", offset)
    answers = () if answer is None else (answer,)
    assert build_report(("alpha", "beta"), answers, {"beta": "gone"}, 29500).hosts.keys() <= {"alpha"}


@few
@given(
    st.one_of(
        json_values,
        st.dictionaries(
            st.sampled_from(["python", "torch", "devices", "missing", "problem", "architectures"]), json_values
        ),
    )
)
@example({"missing": 7})
@example({"python": "3.11", "architectures": 7})
@example(DEEP)
def test_what_a_python_says_of_software_is_read_or_not(said: object) -> None:
    line = f"noise\nHETERO {said if isinstance(said, str) else as_json(said)}\n"
    read_software(line)
    script_finding("h1", "/hetero/data/train.py", "the image", Completed("h1", "x", 0, line, ""))


@few
@given(altered(STATE))
@example(as_json(STATE)[:-5])
@example(DEEP)
@example(STATE | {"started_at": 10**400})
def test_the_state_of_processes_is_understood_or_refused(said: Any) -> None:
    text = said if isinstance(said, str) else as_json(said)
    for answer in (text, f"[{text}]"):
        runtime = ProcessRuntime("h1", completed(answer), "python3", _root="/cache/hetero-tui/runs")
        for asked in (runtime.inspect("r1"), runtime.runs("home")):
            found = settled(asked)
            assert isinstance(found, (HostRunState, tuple, CommandFailed))
            assert all(each.detail.isprintable() for each in found) if isinstance(found, tuple) else True


@few
@given(altered(RECORD), altered([RECORD | {"Labels": {"hetero.run": "r1"}}]))
@example({"State": "running"}, [{"Id": "c"}])
@example({"State": {"Status": "exited", "ExitCode": "²"}}, [{"Id": "c", "Labels": {"hetero.run": "x\x1b[2J"}}])
@example({"Created": "yesterday", "State": {"StartedAt": "9999999"}}, [{}])
def test_what_an_engine_says_of_containers_is_understood_or_refused(record: Any, listed: Any) -> None:
    async def inspect(_container: str) -> Any:
        return record

    async def list_all(_labels: dict[str, str]) -> tuple[Any, ...]:
        # As the engine's own client does it; it makes the records' outermost shape sure.
        return tuple(each for each in listed if isinstance(each, dict)) if isinstance(listed, list) else ()

    engine = cast("Engine", SimpleNamespace(inspect=inspect, list=list_all))
    runtime = DockerRuntime("h1", engine)
    if record is not None and not isinstance(record, dict):
        return
    asked: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: runtime.inspect("r1"),
        lambda: runtime.runs("home"),
        lambda: runtime._own("r1"),
        lambda: runtime._refuse_if_occupied("other", "home", SinceBoot(BOOT, 99.0)),
    ]
    for each in asked:
        found = settled(each())
        assert not isinstance(found, RemoteError) or isinstance(found, (EngineError, HostBusy))


@few
@given(altered({"Id": "sha256:1", "RootFS": {"Layers": ["a"]}, "Config": {"Env": ["A=1"], "Labels": {}}, "Size": 5}))
def test_an_image_inspection_is_understood_or_refused(found: Any) -> None:
    async def ask(_what: str, _request: object) -> Any:
        return found

    engine = SimpleNamespace(host="h1", _ask=ask, _sdk=None, client=SimpleNamespace(images=None))
    for asked in (Engine.image, Engine.layer_sizes):
        settled(asked(cast("Engine", engine), "a:1"))
    settled(Engine.image_names(cast("Engine", engine)))
    if isinstance(found, dict):
        with contextlib.suppress(TypeError, ValueError, AttributeError, OverflowError):
            assert image_info("a:1", found).ref == "a:1"


@few
@given(st.one_of(mangled(PULL), st.binary(max_size=100)), st.sampled_from([1, 7, 4096]))
@example(b'{"status":', 4096)
@example(b"[" * 70_000 + b"\n", 4096)
@example(b'{"status":"Downloading","id":"a","progressDetail":{"total":1e999}}', 4096)
def test_messages_of_a_pull_are_understood_or_refused(data: bytes, size: int) -> None:
    async def read() -> None:
        progress = PullProgress()
        async for message in messages("h1", in_chunks(data, size)):
            check_message("h1", message)
            with contextlib.suppress(ValueError, TypeError, AttributeError, OverflowError):
                progress.note(message)

    settled(read())
    with contextlib.suppress(RemoteError):
        check_messages("h1", data.decode(errors="replace").splitlines())


def test_an_answer_without_an_end_does_not_fill_the_memory() -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 100_000

    async def lines() -> None:
        async for _ in json_lines("h1", "docker events", endless()):
            pass

    assert isinstance(settled(lines()), CommandFailed)
    assert isinstance(settled(json_document("h1", "docker history", endless())), CommandFailed)


@few
@given(
    st.lists(
        st.one_of(
            texts,
            st.sampled_from(
                [
                    "free 12",
                    "problem missing",
                    "5 ./a",
                    "7 ./../b",
                    f"{'9' * 5000} ./a",
                    "unfinished 1",
                    "files 1 2 3-4",
                ]
            ),
        ),
        max_size=6,
    )
)
@example(["free " + "9" * 5000])
def test_a_listing_of_a_data_set_is_read_or_refused(lines: list[str]) -> None:
    text = "\n".join(lines)
    with contextlib.suppress(RemoteError):
        listing = read_listing("h1", text)
        assert not any(path.startswith("/") or ".." in path.split("/") for path in listing.files)
    read_summary(text)


@few
@given(mangled_tar(PACKED))
@example(tar_of([("./a/b.bin", b"x"), ("./../../.ssh/authorized_keys", b"x"), ("/etc/passwd", b"x"), ("./c", b"")]))
def test_only_the_files_that_were_asked_for_pass_on_to_other_hosts(packed: bytes) -> None:
    wanted = ("a/b.bin", "c")
    try:
        passed_on = repacked("h1", packed, wanted)
    except CommandFailed:
        return
    with tarfile.open(fileobj=io.BytesIO(passed_on)) as tar:
        assert sorted(member.name for member in tar) == ["./a/b.bin", "./c"]
        assert all(member.isreg() and not member.mode & ~0o777 for member in tar)


@few
@given(st.one_of(texts, st.binary(max_size=400).map(lambda data: data.decode(errors="replace"))))
@example("a" * 30_000)
@example("error: " * 3000)
def test_any_error_text_is_explained_or_left_alone(text: str) -> None:
    decode(text)


@few
@given(st.lists(st.one_of(texts, st.sampled_from(["tools yes", "kernel yes", "port taken", "tun no"])), max_size=6))
def test_what_a_host_has_of_wireguard_is_read(lines: list[str]) -> None:
    settled(look(completed("\n".join(lines)), 29500))


REQUESTS = (
    b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/r/blobs/sha256:" + b"a" * 64 + b" HTTP/1.1\r\nHost: x\r\n"
    b"Range: bytes=1-\r\n\r\nPOST /v2/r/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    b"PATCH /v2/r/blobs/uploads/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\nPUT /v2/r/blobs/uploads/" + b"0" * 32 + b"?digest=sha256:" + b"a" * 64
    + b" HTTP/1.1\r\nHost: x\r\n\r\n"
)  # fmt: skip


@few
@given(st.one_of(mangled(REQUESTS), st.binary(max_size=200)), st.sampled_from([1, 50, 4096]))
@example(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 4096)
@example(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nmore", 4096)
@example(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\nmore", 4096)
def test_requests_of_an_engine_are_answered_or_hung_up_on(data: bytes, size: int) -> None:
    with fresh_folder() as folder:
        store = LayerStore.open(folder / "store")
        config, layer = store.add(json.dumps({}).encode()), store.add(b"layer" * 20)
        image = StoredImage(config, (StoredLayer(layer, layer, 100),), "amd64")
        registry, inbox = Registry(store, image, repository="r"), Inbox(store, ("sha256:" + "b" * 64,), repository="r")
        digest = layer.removeprefix("sha256:").encode()
        asked = data.replace(b"a" * 64, digest)
        found = asyncio.run(told(registry.serve(Stream(asked, size), lambda _digest, _first, _count: None)))
        assert not isinstance(found, RemoteError)
        found = asyncio.run(told(inbox.serve(Stream(asked, size))))
        assert not isinstance(found, RemoteError) or isinstance(found, ImageError)
        assert {path.name for path in store.blobs.iterdir()} == {config[7:], layer[7:]}

"""Layers that an engine pushes here, and the configuration that is made of what it tells."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from remote.engine_image import ImageInfo
from remote.images.image_config import compose_config
from remote.images.inbox import Inbox
from remote.images.read import new_layers
from remote.images.store import LayerStore
from remote.runner import StreamPair

WANTED, OTHER = b"new" * 100_000, b"old" * 100_000


def _sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore.open(tmp_path)


class Pusher:
    """Pushes one layer as the distribution client of an engine does."""

    def __init__(self, port: int, repository: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._uploads = f"/v2/{repository}/blobs/uploads/"
        self._blobs = f"/v2/{repository}/blobs"

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, target: str, body: bytes | None = None) -> http.client.HTTPResponse:
        pieces = (body[at : at + 7000] for at in range(0, len(body), 7000)) if body else None
        self._connection.request(method, target, body=pieces, encode_chunked=True)
        answer = self._connection.getresponse()
        answer.read()
        return answer

    def push(self, packed: bytes) -> list[int]:
        digest = _sha(packed)
        begun = self.ask("POST", self._uploads)
        sent = self.ask("PATCH", begun.headers["Location"], packed)
        assert sent.headers["Range"] == f"0-{len(packed) - 1}"
        put = self.ask("PUT", f"{sent.headers['Location']}?digest={digest.replace(':', '%3A')}")
        there = self.ask("HEAD", f"{self._blobs}/{digest}")
        assert there.headers["Content-Length"] == str(len(packed))
        return [begun.status, sent.status, put.status, there.status]


async def _with_pusher(inbox: Inbox, work: Callable[[Pusher], None], repository: str = "") -> None:
    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await inbox.serve(StreamPair(reader, writer))
        finally:
            writer.close()
            await writer.wait_closed()
            ended.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    pusher = Pusher(server.sockets[0].getsockname()[1], repository or inbox.repository)
    try:
        await asyncio.to_thread(work, pusher)
    finally:
        pusher.close()
        await asyncio.wait_for(ended.wait(), 30)
        server.close()


async def test_the_wanted_layer_is_kept_and_the_others_are_not(store: LayerStore) -> None:
    inbox = Inbox(store, (_sha(WANTED),))

    def work(pusher: Pusher) -> None:
        assert pusher.ask("GET", "/v2/").status == 200
        assert pusher.ask("HEAD", f"/v2/{inbox.repository}/blobs/{_sha(b'never')}").status == 404
        assert pusher.push(gzip.compress(OTHER)) == [202, 202, 201, 200]
        assert not inbox.complete.is_set()
        assert pusher.push(gzip.compress(WANTED)) == [202, 202, 201, 200]
        assert pusher.ask("GET", f"/v2/{inbox.repository}/blobs/{_sha(WANTED)}").status == 404, "nothing is given out"

    await _with_pusher(inbox, work)
    assert inbox.complete.is_set()
    assert store.path(_sha(WANTED)).read_bytes() == WANTED
    assert not store.has(_sha(OTHER))
    assert not list(store.blobs.glob("part-*"))


async def test_whoever_does_not_know_the_name_leaves_nothing(store: LayerStore) -> None:
    inbox = Inbox(store, (_sha(WANTED),))

    def work(pusher: Pusher) -> None:
        assert pusher.ask("POST", "/v2/guess/blobs/uploads/").status == 404
        number = "0" * 32
        assert pusher.ask("PATCH", f"/v2/guess/blobs/uploads/{number}", gzip.compress(WANTED)).status == 404
        unknown = f"/v2/{inbox.repository}/blobs/uploads/{number}?digest="
        assert pusher.ask("PUT", f"{unknown}{_sha(WANTED)}").status == 400
        assert pusher.ask("DELETE", unknown).status == 405

    await _with_pusher(inbox, work, "guess")
    assert not inbox.complete.is_set()
    assert list(store.blobs.iterdir()) == []


async def test_a_layer_that_breaks_off_leaves_nothing(store: LayerStore) -> None:
    inbox = Inbox(store, (_sha(WANTED),))

    def work(pusher: Pusher) -> None:
        assert pusher.push(gzip.compress(WANTED)[:-20])[1] == 202

    await _with_pusher(inbox, work)
    assert not inbox.complete.is_set()
    assert list(store.blobs.iterdir()) == []


def test_only_the_top_of_an_image_is_pushed(store: LayerStore) -> None:
    base, code = store.add(bytes(9000)), _sha(b"code")
    info = ImageInfo("a:1", "sha256:id", "", (base, code), "amd64", "linux", 10_000)
    assert new_layers(info, store) == (code,)
    assert new_layers(ImageInfo("a:1", "", "", (base, code), "amd64", "linux", 90_000), store) is None, "most is new"
    assert new_layers(ImageInfo("a:1", "", "", (code, base), "amd64", "linux", 10_000), store) is None, (
        "the base is new"
    )
    assert new_layers(ImageInfo("a:1", "", "", (base,), "amd64", "linux", 9000), store) == (), "other settings only"


def test_a_configuration_says_what_the_engine_said() -> None:
    run = {"Cmd": ["python3"], "Env": ["A=1"], "User": "trainer", "Labels": {"b": "c"}}
    inspected = {
        "Id": "sha256:1",
        "Architecture": "arm64",
        "Variant": "v8",
        "Os": "linux",
        "Created": "2026-01-02T03:04:05.678Z",
        "Config": run,
        "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
    }
    history = [
        {"Created": 200, "CreatedBy": "COPY code", "Size": 5, "Comment": ""},
        {"Created": 150, "CreatedBy": "ENV A=1", "Size": 0},
        {"Created": 100, "CreatedBy": "import", "Size": 7, "Comment": "base"},
    ]
    made = json.loads(compose_config(inspected, history))
    assert made["config"] == run
    assert made["rootfs"] == {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]}
    assert (made["architecture"], made["variant"], made["created"]) == ("arm64", "v8", "2026-01-02T03:04:05.678Z")
    assert [step.get("empty_layer", False) for step in made["history"]] == [False, True, False]
    assert [step["created_by"] for step in made["history"]] == ["import", "ENV A=1", "COPY code"]
    assert "history" not in json.loads(compose_config(inspected, history[:1])), "no telling which step made which layer"
    assert compose_config(inspected, history) == compose_config(dict(reversed(inspected.items())), history)

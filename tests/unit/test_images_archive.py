"""Archives in every layout, the store, and the registry that offers what is in it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import h11
import pytest

from remote.errors import ImageError
from remote.images.archive import read_archive, write_archive
from remote.images.registry import Registry
from remote.images.store import MEDIA_GZIP, LayerStore, StoredImage
from remote.runner import StreamPair
from tests.fuzz.hostile import tar_of

LAYERS = (b"base" * 5000, b"top" * 70)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _config(layers: tuple[bytes, ...] = LAYERS) -> bytes:
    diff_ids = [f"sha256:{_sha(layer)}" for layer in layers]
    return json.dumps({"architecture": "arm64", "os": "linux", "rootfs": {"diff_ids": diff_ids}}).encode()


def _classic() -> bytes:
    names = [f"{_sha(layer)}/layer.tar" for layer in LAYERS]
    manifest = [{"Config": f"{_sha(_config())}.json", "RepoTags": ["a:1"], "Layers": names}]
    files = [*zip(names, LAYERS, strict=True), (f"{_sha(_config())}.json", _config()), ("x/VERSION", b"1.0")]
    return tar_of([*files, ("manifest.json", json.dumps(manifest).encode())])


def _by_digest(layers: tuple[bytes, ...]) -> bytes:
    names = [f"blobs/sha256/{_sha(layer)}" for layer in layers]
    config = f"blobs/sha256/{_sha(_config())}"
    manifest = [{"Config": config, "RepoTags": ["a:1"], "Layers": names}]
    files = [("manifest.json", json.dumps(manifest).encode()), *zip(names, layers, strict=True), (config, _config())]
    return tar_of([*files, ("oci-layout", b"{}")])


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _read(data: bytes, store: LayerStore, size: int = 1000) -> StoredImage:
    (image,) = await read_archive(_pieces(data, size), store)
    return image


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore.open(tmp_path / "store")


@pytest.mark.parametrize("size", [1, 511, 100_000])
async def test_classic_layout_in_pieces_of_any_size(store: LayerStore, size: int) -> None:
    image = await _read(_classic(), store, size)
    assert image.diff_ids == tuple(f"sha256:{_sha(layer)}" for layer in LAYERS)
    assert [layer.digest for layer in image.layers] == list(image.diff_ids)
    assert (image.architecture, image.size) == ("arm64", sum(map(len, LAYERS)))
    assert store.is_complete(image)


async def test_blobs_by_digest_packed_and_not(store: LayerStore) -> None:
    packed = (gzip.compress(LAYERS[0]), LAYERS[1])
    image = await _read(_by_digest(packed), store)
    assert image.diff_ids == tuple(f"sha256:{_sha(layer)}" for layer in LAYERS)
    assert image.layers[0].digest == f"sha256:{_sha(packed[0])}"
    assert image.layers[0].media_type == MEDIA_GZIP


async def test_a_layer_that_is_a_link_to_another(store: LayerStore) -> None:
    config = _config((LAYERS[0], LAYERS[0]))
    one, two = f"{'1' * 64}/layer.tar", f"{'2' * 64}/layer.tar"
    manifest = json.dumps([{"Config": f"{_sha(config)}.json", "Layers": [one, two]}]).encode()
    files = [(one, LAYERS[0]), (f"{_sha(config)}.json", config), ("manifest.json", manifest)]
    image = await _read(tar_of(files, links=((two, f"../{one}"),)), store)
    assert image.layers[0] == image.layers[1]


@pytest.mark.parametrize("at", [100, 600, 15_000])
async def test_an_archive_that_breaks_off_leaves_nothing_unfinished(store: LayerStore, at: int) -> None:
    with pytest.raises(ImageError, match="broke off"):
        await _read(_classic()[:at], store)
    assert not list(store.blobs.glob("part-*"))


async def test_damage_and_nonsense_are_refused(store: LayerStore) -> None:
    with pytest.raises(ImageError, match="damaged"):
        await _read(_classic().replace(b"basebase", b"BASEbase", 1), store)
    with pytest.raises(ImageError, match="damaged"):
        await _read(_by_digest(LAYERS).replace(b"toptop", b"TOPtop", 1), store)
    with pytest.raises(ImageError, match="no image"):
        await _read(tar_of([("readme", b"hello")]), store)
    with pytest.raises(ImageError, match="no image archive"):
        await _read(b"x" * 2048, store)


async def test_what_is_written_reads_back_and_may_leave_layers_out(store: LayerStore, tmp_path: Path) -> None:
    image = await _read(_classic(), store)
    whole = b"".join([piece async for piece in write_archive(store, image, "a:1")])
    assert await _read(whole, LayerStore.open(tmp_path / "other")) == image
    part = b"".join([piece async for piece in write_archive(store, image, "a:1", {image.diff_ids[0]})])
    assert len(whole) - len(part) >= len(LAYERS[0])
    with tarfile.open(fileobj=io.BytesIO(part)) as tar:
        assert len([name for name in tar.getnames() if name.endswith("layer.tar")]) == 1


async def test_the_store_recalls_only_what_is_complete_and_drops_the_oldest(store: LayerStore) -> None:
    image, identity = await _read(_classic(), store), f"sha256:{'e' * 64}"
    assert store.recall(identity) is None
    store.remember(identity, image)
    assert store.recall(identity) == image
    assert store.prune(keep_bytes=10**9) == 0
    assert store.prune(keep_bytes=0, keep=[image.config]) == image.size
    assert store.recall(identity) is None
    with pytest.raises(ImageError, match="digest"):
        store.path("sha256:../../etc/passwd")


async def _ask(registry: Registry, requests: list[tuple[str, str, str]]) -> list[tuple[int, bytes, dict[str, str]]]:
    """Ask over one connection; each request is (method, path, range)."""
    served: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await registry.serve(StreamPair(reader, writer), lambda _digest, _first, count: served.append(count))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    client, answers = h11.Connection(h11.CLIENT), []
    for method, path, wanted in requests:
        headers = [("Host", "x")] + ([("Range", wanted)] if wanted else [])
        writer.write(client.send(h11.Request(method=method, target=path, headers=headers)))
        writer.write(client.send(h11.EndOfMessage()))
        status, body, found = 0, b"", {}
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                status, found = event.status_code, {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        answers.append((status, body, found))
        client.start_next_cycle()
    writer.close()
    await writer.wait_closed()
    server.close()
    return answers


async def test_the_registry_answers_a_pull_and_goes_on_from_any_byte(store: LayerStore) -> None:
    image = await _read(_classic(), store)
    registry = Registry(store, image)
    base = f"/v2/{registry.repository}"
    blob = f"{base}/blobs/{image.layers[0].digest}"
    answers = await _ask(
        registry,
        [
            ("GET", "/v2/", ""),
            ("HEAD", f"{base}/manifests/{registry.digest}", ""),
            ("GET", f"{base}/manifests/{registry.digest}", ""),
            ("GET", f"{base}/blobs/{image.config}", ""),
            ("GET", blob, ""),
            ("GET", blob, "bytes=12345-"),
            ("GET", blob, "bytes=5-9"),
            ("GET", blob, "bytes=99999999-"),
            ("HEAD", blob, ""),
        ],
    )
    assert [status for status, _, _ in answers] == [200, 200, 200, 200, 200, 206, 206, 416, 200]
    assert (answers[1][1], answers[8][1]) == (b"", b"")
    manifest = json.loads(answers[2][1])
    assert f"sha256:{_sha(answers[2][1])}" == registry.digest
    assert [layer["digest"] for layer in manifest["layers"]] == list(image.diff_ids)
    assert answers[3][1] == _config()
    assert answers[4][1] == LAYERS[0]
    assert answers[5][1] == LAYERS[0][12345:]
    assert answers[5][2]["content-range"] == f"bytes 12345-{len(LAYERS[0]) - 1}/{len(LAYERS[0])}"
    assert answers[6][1] == LAYERS[0][5:10]


async def test_whoever_does_not_know_the_name_gets_nothing(store: LayerStore) -> None:
    image = await _read(_classic(), store)
    registry = Registry(store, image)
    other = f"sha256:{'0' * 64}"
    asked = [
        ("GET", f"/v2/guess/manifests/{registry.digest}", ""),
        ("GET", f"/v2/guess/blobs/{image.config}", ""),
        ("GET", f"/v2/{registry.repository}/blobs/{other}", ""),
        ("GET", f"/v2/{registry.repository}/blobs/sha256:../../../etc/passwd", ""),
        ("GET", "/v2/_catalog", ""),
        ("PUT", f"/v2/{registry.repository}/manifests/1", ""),
    ]
    answers = await _ask(registry, asked)
    assert [status for status, _, _ in answers] == [404, 404, 404, 404, 404, 405]

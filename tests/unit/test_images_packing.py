"""When packing pays, that it is done once, and when hosts rather serve each other."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from remote.images.neighbours import THIS, Fan, neighbours_pay
from remote.images.packing import SMALLEST, Codec, Packer, codec_for, has_zstd, link_rate
from remote.images.places import WithThisMachine
from remote.images.store import MEDIA_GZIP, MEDIA_ZSTD, LayerStore, StoredImage, StoredLayer
from remote.local import LocalRunner


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore.open(tmp_path)


def _layer(store: LayerStore, data: bytes) -> StoredLayer:
    digest = store.add(data)
    return StoredLayer(digest, digest, len(data))


@pytest.mark.parametrize(
    ("version", "rate", "zstd", "codec"),
    [
        ("20.10.24", 12e6, True, "gzip"),
        ("20.10.24", 60e6, True, ""),
        ("23.0.1", 12e6, True, "zstd"),
        ("28.2.2", 60e6, True, "zstd"),
        ("28.2.2", 60e6, False, ""),
        ("28.2.2", 12e6, False, "gzip"),
        ("", 12e6, True, "gzip"),
        ("28.2.2", 400e6, True, ""),
    ],
)
def test_the_engine_and_the_link_decide(version: str, rate: float, zstd: bool, codec: Codec) -> None:
    assert codec_for(version, rate, has_zstd=zstd) == codec


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_what_shrinks_is_packed_once_for_everybody(store: LayerStore, codec: Codec) -> None:
    if codec == "zstd" and not has_zstd():
        pytest.skip("zstd is not installed")
    shrinks = _layer(store, os.urandom(SMALLEST // 2).hex().encode())
    random, small = _layer(store, os.urandom(SMALLEST)), _layer(store, b"a" * 1000)
    image = StoredImage(store.add(b"{}"), (shrinks, random, small, shrinks), "amd64")
    packer = Packer(store)
    one, two = await asyncio.gather(*(packer.packed(image, image.layers, codec) for _ in range(2)))
    assert one == two
    assert one.diff_ids == image.diff_ids
    assert one.layers[1:3] == (random, small)
    packed = one.layers[0]
    assert one.layers[3] == packed
    assert packed.size < 0.65 * shrinks.size
    assert packed.media_type == {"gzip": MEDIA_GZIP, "zstd": MEDIA_ZSTD}[codec]
    if codec == "gzip":
        assert gzip.decompress(store.read(packed.digest)) == store.read(shrinks.digest)
    before = set(store.blobs.iterdir())
    assert await Packer(store).packed(image, image.layers, codec) == one, "what was packed once is kept"
    assert set(store.blobs.iterdir()) == before
    assert await packer.packed(image, (), codec) == image, "what is there is not packed"
    store.path(packed.digest).unlink()
    assert store.packed(shrinks.diff_id, codec) is None


async def test_a_link_is_measured() -> None:
    assert await link_rate(LocalRunner("here")) > 1e5


@pytest.mark.parametrize(
    ("alone", "together", "hosts", "pays"),
    [
        (5e6, 5e6, 2, True),
        (12e6, 12e6, 3, True),
        (12e6, 36e6, 3, False),  # the hosts' own links are the slow ones
        (100e6, 100e6, 8, False),
        (30e6, 30e6, 2, False),
        (5e6, 5e6, 1, False),
    ],
)
def test_neighbours_serve_where_the_way_out_is_full(alone: float, together: float, hosts: int, pays: bool) -> None:
    assert neighbours_pay(alone, together, hosts) is pays


async def test_hosts_that_cannot_be_asked_directly_are_served_from_here() -> None:
    class Hosts:
        async def connected(self, name: str) -> LocalRunner:
            return LocalRunner(name)

    fan = Fan(WithThisMachine(Hosts()), ("a", "b"))  # type: ignore[arg-type]
    assert [await fan.server(host) for host in ("a", "b", "elsewhere")] == [THIS, THIS, THIS]
    await fan.close()

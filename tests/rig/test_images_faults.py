"""Faults while an image is on its way: nothing is lost, nothing is left over, nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remote.errors import EngineError, ImageError, RemoteError
from remote.images.send import Delivery
from tests.rig.hosts import Rig
from tests.rig.image_world import World, drop_images, image_world, left_over, make_image, slow_way_out, stray_downloads
from tests.rig.machine import wait_for

pytestmark = pytest.mark.rig

BIG = 160


@pytest.fixture
def images(rig: Rig) -> Iterator[Rig]:
    make_image(rig.host("h1"), "app:1", BIG)
    yield rig
    drop_images(rig)


@pytest.fixture
async def world(images: Rig, tmp_path: Path) -> AsyncIterator[World]:
    async with image_world(images, tmp_path) as world:
        yield world


async def _until(delivery: Delivery, fraction: float, running: asyncio.Task[None]) -> None:
    """Wait until that much has been sent."""
    async with asyncio.timeout(60):
        while delivery.moved < fraction * delivery.image.size:
            assert not running.done(), running.result()
            await asyncio.sleep(0.005)


async def _settled(world: World, name: str) -> None:
    """Wait until the engine has dropped what it had begun."""
    host = world.rig.host(name)
    await asyncio.to_thread(
        wait_for,
        lambda: not stray_downloads(host) and not left_over(host),
        "nothing left over",
        detail=lambda: f"{stray_downloads(host)} {left_over(host)}",
    )


async def test_a_cut_connection_goes_on_where_it_stopped(world: World) -> None:
    target = world.rig.host("h2")
    delivery = await world.delivery("h1", "h2", "app:1")
    running = asyncio.create_task(delivery.run())
    await _until(delivery, 0.5, running)
    target.kill_connections()
    await asyncio.wait_for(running, 120)
    assert delivery.moved < 1.05 * delivery.image.size, "less than 5 % twice"
    assert await world.layers("h2", "app:1") == delivery.image.diff_ids
    await _settled(world, "h2")  # what waited on the lost connection ends when it looks again
    assert any("connecting again" in each.detail for each in world.told)


async def test_cancel_leaves_nothing(world: World) -> None:
    delivery = await world.delivery("h1", "h2", "app:1")
    running = asyncio.create_task(delivery.run())
    await _until(delivery, 0.3, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _settled(world, "h2")
    assert await world.layers("h2", "app:1") == ()
    await (await world.delivery("h1", "h2", "app:1")).run()
    assert await world.layers("h2", "app:1") == delivery.image.diff_ids


async def test_an_engine_that_restarts_says_so_and_the_next_go_succeeds(world: World) -> None:
    target = world.rig.host("h2")
    delivery = await world.delivery("h1", "h2", "app:1")
    running = asyncio.create_task(delivery.run())
    await _until(delivery, 0.3, running)
    await asyncio.to_thread(target.kill_engine)
    with pytest.raises(RemoteError) as caught:
        await asyncio.wait_for(running, 60)
    assert caught.value.host == "h2"
    target.start_engine()
    target.wait_engine()
    await world.hosts.close()

    # The same while it loads an archive, which takes long enough to be caught on a slow link only.
    make_image(world.rig.host("h1"), "app:2", 40)
    loading = await world.delivery("h1", "h2", "app:2")
    with slow_way_out(world.rig, "80mbit"):
        running = asyncio.create_task(loading.run())
        await _until(loading, 0.3, running)
        await asyncio.to_thread(target.kill_engine)
        with pytest.raises(RemoteError) as caught:
            await asyncio.wait_for(running, 60)
    assert (loading.way, caught.value.host) == ("archive", "h2")
    target.start_engine()
    target.wait_engine()
    await world.hosts.close()

    for ref, layers in (("app:1", delivery.image.diff_ids), ("app:2", loading.image.diff_ids)):
        await (await world.delivery("h1", "h2", ref)).run()
        assert await world.layers("h2", ref) == layers
    assert left_over(target) == []


async def test_a_full_disk_is_named_and_freed_again(world: World) -> None:
    target = world.rig.host("h3")
    target.stop_engine()
    target.run("mount", "-t", "tmpfs", "-o", f"size={BIG + 20}m", "small", "/var/lib/docker")
    target.start_engine()
    target.wait_engine()
    await world.hosts.close()
    try:
        delivery = await world.delivery("h1", "h3", "app:1")
        with pytest.raises(EngineError, match="disk is full"):
            await asyncio.wait_for(delivery.run(), 60)
        assert target.docker("images", "--all", "--quiet") == ""
        used = int(target.run("du", "-sm", "/var/lib/docker").stdout.split()[0])
        assert used < 20, "the partial layer is gone"
        assert left_over(target) == []
    finally:
        target.stop_engine()
        target.run("umount", "/var/lib/docker")
        target.start_engine()
        target.wait_engine()
        await world.hosts.close()


async def test_a_damaged_layer_is_refused(world: World) -> None:
    delivery = await world.delivery("h1", "h2", "app:1")
    layer = max(delivery.image.layers, key=lambda each: each.size)
    path = world.store.path(layer.digest)
    with path.open("r+b") as file:
        file.seek(layer.size // 2)
        file.write(b"damaged")
    with pytest.raises((EngineError, ImageError)):
        await asyncio.wait_for(delivery.run(), 200)
    assert await world.layers("h2", "app:1") == ()
    await _settled(world, "h2")

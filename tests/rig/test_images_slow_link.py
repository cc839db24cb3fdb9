"""A slow way out of this machine: layers are packed for it, and one host serves the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remote.images.service import ImageService
from tests.rig.hosts import Rig
from tests.rig.image_world import World, drop_images, image_world, left_over, make_image, slow_way_out

pytestmark = pytest.mark.rig

MEGABYTES = 70
"""More than what is too small to wait for a neighbour with."""


@pytest.fixture
def images(rig: Rig) -> Iterator[Rig]:
    make_image(rig.host("h1"), "app:1", MEGABYTES, packs=True)
    yield rig
    drop_images(rig)


@pytest.fixture
async def world(images: Rig, tmp_path: Path) -> AsyncIterator[World]:
    async with image_world(images, tmp_path) as world:
        yield world


async def test_packed_to_one_host_which_serves_the_other(world: World, tmp_path: Path) -> None:
    image = world.inventory.image.model_copy(update={"ref": "app:1", "method": "send"})
    inventory = world.inventory.model_copy(update={"image": image})
    service = ImageService(inventory, world.hosts, world.hosts.gather, tmp_path / "store")
    with slow_way_out(world.rig, "40mbit"):
        brought = await service.bring(world.told.append)
    assert brought.failures == {}
    (second,) = brought.served
    first = brought.served[second]
    assert {first, second} == {"h2", "h3"}
    assert set(brought.moved) == {first}, "only one came from here"
    assert 0.4 < brought.moved[first] / (MEGABYTES << 20) < 0.75, "packed"
    layers = await world.layers("h1", "app:1")
    assert [await world.layers(name, "app:1") for name in (first, second)] == [layers, layers]
    assert [left_over(host) for host in world.rig.hosts] == [[], [], []]
    told = [each.detail for each in world.told]
    assert any("packing it with gzip first" in each for each in told)
    assert any(f"from {first}, for the way out" in each for each in told)
    assert {each.host for each in await service.placed()} == {"h2", "h3"}

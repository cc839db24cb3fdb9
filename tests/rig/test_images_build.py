"""Building on one host from a context on this machine, and the same layers on every other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remote.images.service import ImageService
from tests.rig.hosts import Rig
from tests.rig.image_world import BASE, World, drop_images, image_world, left_over, make_image

pytestmark = pytest.mark.rig

DOCKERFILE = f"""\
FROM {BASE}
ARG DEVICE=none
COPY . /app
RUN ["/bin/busybox", "sh", "-c", "echo built for $DEVICE; echo $DEVICE >/device"]
"""


@pytest.fixture
def images(rig: Rig) -> Iterator[Rig]:
    make_image(rig.host("h1"), "app:base", 1)
    yield rig
    drop_images(rig)


@pytest.fixture
async def world(images: Rig, tmp_path: Path) -> AsyncIterator[World]:
    async with image_world(images, tmp_path) as world:
        yield world


async def test_built_once_and_the_same_everywhere(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "code.py").write_text("print(1)\n")
    image = world.inventory.image.model_copy(update={"ref": "built:1", "context": str(folder)})
    inventory = world.inventory.model_copy(update={"image": image})
    service = ImageService(inventory, world.hosts, world.hosts.gather, tmp_path / "store")

    plan = await service.plan()
    assert [(each.method, each.source) for each in plan.hosts] == [("build", "h1")] * 3
    brought = await service.bring(world.told.append)
    assert brought.failures == {}
    first = await world.layers("h1", "built:1")
    assert [await world.layers(name, "built:1") for name in ("h2", "h3")] == [first, first]
    assert any(each.detail == "built for cpu" for each in world.told if each.phase == "building")
    assert [each.method for each in (await service.plan()).hosts] == ["present"] * 3
    assert [left_over(host) for host in world.rig.hosts[1:]] == [[], []]

    (folder / "code.py").write_text("print(2)\n")
    assert (await service.bring(world.told.append)).failures == {}
    second = await world.layers("h1", "built:1")
    assert second != first
    assert [await world.layers(name, "built:1") for name in ("h2", "h3")] == [second, second]

    (folder / "Dockerfile").write_text(DOCKERFILE + 'RUN ["/bin/busybox", "sh", "-c", "echo the reason; exit 3"]\n')
    failures = (await service.bring(world.told.append)).failures
    assert set(failures) == {"h1", "h2", "h3"}
    assert "the reason" in failures["h2"].message
    assert "failed at Step 5/" in failures["h2"].message  # the label is a step of its own, the last
    assert await world.layers("h3", "built:1") == second, "a failed build changes nothing"

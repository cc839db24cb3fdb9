"""Images on their way to real engines: what travels, by which way, and that nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remote.images.service import ImageService
from tests.rig.client import Client
from tests.rig.hosts import Rig
from tests.rig.image_world import World, drop_images, image_world, left_over, make_image, reload_sshd

pytestmark = pytest.mark.rig

BIG = 80
"""Megabytes: more than what goes as one archive."""


@pytest.fixture
def images(rig: Rig) -> Iterator[Rig]:
    yield rig
    drop_images(rig)


@pytest.fixture
async def world(images: Rig, tmp_path: Path) -> AsyncIterator[World]:
    async with image_world(images, tmp_path) as world:
        yield world


async def test_two_hosts_at_once_and_then_only_what_changed(world: World) -> None:
    source = world.rig.host("h1")
    make_image(source, "app:1", BIG)
    deliveries = [await world.delivery("h1", name, "app:1") for name in ("h2", "h3")]
    await asyncio.gather(*(each.run() for each in deliveries))
    first = deliveries[0].image
    for each in deliveries:
        assert each.way == "registry"
        assert first.size <= each.moved < 1.01 * first.size, "every byte once"
        assert await world.layers(each.host, "app:1") == first.diff_ids
        assert left_over(world.rig.host(each.host)) == []

    make_image(source, "app:2", 1, base="app:1")
    world.told.clear()
    again = [await world.delivery("h1", name, "app:2") for name in ("h2", "h3")]
    await asyncio.gather(*(each.run() for each in again))
    for each in again:
        assert each.way == "archive"
        assert each.moved < 0.02 * each.image.size
        assert await world.layers(each.host, "app:2") == each.image.diff_ids
        assert left_over(world.rig.host(each.host)) == []
    read = [each for each in world.told if each.phase == "reading"]
    assert read
    assert all(each.detail == "only what is new" for each in read), "the export is not asked for"
    assert left_over(source) == []
    told = "{{json .Config}} {{json .RootFS}} {{.Architecture}} {{.Os}} {{.Created}}"
    inspected = [host.docker("inspect", f"--format={told}", "app:2") for host in world.rig.hosts]
    assert inspected[1:] == inspected[:1] * 2, "a container sees the same"

    third = await world.delivery("h1", "h2", "app:2")
    await third.run()
    assert third.moved == 0, "nothing is missing"
    phases = [each.phase for each in world.told if each.host == "h2"]
    assert phases.count("done") == 2


@pytest.mark.parametrize("forwarding", ["AllowTcpForwarding local", "AllowTcpForwarding no"])
async def test_without_forwarding_an_archive_goes(world: World, forwarding: str) -> None:
    make_image(world.rig.host("h1"), "app:1", BIG)
    target = world.rig.host("h2")
    config = target.folder / "etc/ssh/sshd_config"
    before = config.read_text()
    config.write_text(f"{before}{forwarding}\n")
    reload_sshd(target)
    await world.hosts.close()
    try:
        delivery = await world.delivery("h1", "h2", "app:1")
        await delivery.run()
    finally:
        config.write_text(before)
        reload_sshd(target)
        await world.hosts.close()
    assert delivery.way == "archive"
    assert await world.layers("h2", "app:1") == delivery.image.diff_ids
    assert left_over(target) == []
    assert any("forward" in each.detail or "listen" in each.detail for each in world.told)


async def test_many_requests_over_sessions_leave_room_for_more(world: World) -> None:
    make_image(world.rig.host("h2"), "app:1", 1)
    target = world.rig.host("h2")
    config = target.folder / "etc/ssh/sshd_config"
    before = config.read_text()
    config.write_text(f"{before}AllowStreamLocalForwarding no\n")
    reload_sshd(target)
    await world.hosts.close()
    try:
        engine = await world.hosts.engine("h2")
        for number in range(12):
            assert await engine.image(f"not-there:{number}") is None
    finally:
        config.write_text(before)
        reload_sshd(target)
        await world.hosts.close()


async def test_a_moved_tag_takes_the_old_image_along_and_nothing_of_others(world: World) -> None:
    source, target = world.rig.host("h1"), world.rig.host("h2")
    make_image(source, "app:1", 1)
    await (await world.delivery("h1", "h2", "app:1")).run()
    old = target.docker("images", "--quiet", "app:1")
    make_image(target, "mine:1", 1)
    make_image(source, "app:1", 2)
    await (await world.delivery("h1", "h2", "app:1")).run()
    everything = target.docker("images", "--all", "--quiet").split()
    assert old not in everything
    assert target.docker("images", "--quiet", "mine:1")
    assert left_over(target) == []


async def test_remove_takes_only_what_was_put_there(world: World) -> None:
    make_image(world.rig.host("h1"), "app:1", 1)
    for name in ("h2", "h3"):
        await (await world.delivery("h1", name, "app:1")).run()
    busy = world.rig.host("h3")
    busy.docker("run", "--detach", "--network=host", "app:1", "/bin/busybox", "sleep", "600")
    service = ImageService(world.inventory, world.hosts, world.hosts.gather)
    assert {(each.host, each.ref) for each in await service.placed()} == {("h2", "app:1"), ("h3", "app:1")}
    removed = {each.image.host: each.kept for each in await service.remove()}
    assert removed["h2"] == ""
    assert "container" in removed["h3"]
    assert not world.rig.host("h2").docker("images", "--quiet", "app:1")
    assert busy.docker("images", "--quiet", "app:1")
    assert world.rig.host("h1").docker("images", "--quiet", "app:1"), "the source's own image stays"
    for host in world.rig.hosts:
        assert host.docker("images", "--quiet", world.rig.image)


def test_up_brings_the_image_and_trains(images: Rig, tmp_path: Path) -> None:
    kept = images.host("h2")
    kept.docker("tag", images.image, "kept:1")
    kept.docker("rmi", images.image)
    client = Client(images, tmp_path)
    planned = client.document("images")
    assert {each["host"]: each["method"] for each in planned["hosts"]} == {
        "h1": "present",
        "h2": "send",
        "h3": "present",
    }
    result = client.document("up", timeout=180)
    assert result["state"] == "finished"
    assert client.document("images")["hosts"][1]["method"] == "present"

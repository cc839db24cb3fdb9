"""Pulling from Debian's ``docker-registry`` on another host: plain, with TLS and password, and when it says no."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remote.errors import ImageError
from remote.images.registry_pull import pull_from_registry
from tests.rig.faults.engine_faults import SMALL, for_another_processor, import_small
from tests.rig.hosts import Rig
from tests.rig.image_world import World, drop_images, image_world, left_over, make_image
from tests.rig.machine import wait_for

pytestmark = pytest.mark.rig

PASSWORD = "correct horse"
_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: /srv/registry/data}}}}
http: {{addr: "{address}:{port}"{tls}}}
{auth}
"""


class Registry:
    """A registry on a host of the rig."""

    def __init__(self, rig: Rig, port: int, *, secured: bool) -> None:
        self.host = rig.host("h1")
        self.address = f"{self.host.address}:{port}"
        self.folder = self.host.folder / "srv/registry"
        self.folder.mkdir(exist_ok=True)
        tls = auth = ""
        if secured:
            subject = ("-subj", "/CN=registry", "-addext", f"subjectAltName=IP:{self.host.address}")
            key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "/srv/registry/key.pem")
            self.host.run("openssl", "req", "-x509", *key, "-out", "/srv/registry/ca.pem", "-days", "2", *subject)
            crypted = self.host.run("perl", "-e", "print crypt($ARGV[0], '$2y$05$' . 'a' x 22)", PASSWORD).stdout
            (self.folder / "users").write_text(f"me:{crypted}\n")
            tls = ", tls: {certificate: /srv/registry/ca.pem, key: /srv/registry/key.pem}"
            auth = "auth: {htpasswd: {realm: rig, path: /srv/registry/users}}"
        config = f"{port}.yml"
        text = _CONFIG.format(address=self.host.address, port=port, tls=tls, auth=auth)
        (self.folder / config).write_text(text)
        self.log = f"registry-{port}.log"
        self.host.start_daemon(["docker-registry", "serve", f"/srv/registry/{config}"], self.log)
        wait_for(lambda: "listening on" in self.host.log(self.log), "registry", detail=lambda: self.host.log(self.log))

    def trusted_by(self, name: str, rig: Rig) -> None:
        """Put the certificate where the engine of a host looks for it."""
        folder = f"/etc/docker/certs.d/{self.address}"
        rig.host(name).run("mkdir", "-p", folder)
        rig.host(name).run("tee", f"{folder}/ca.crt", input=(self.folder / "ca.pem").read_text())

    def stop(self) -> None:
        self.host.run("pkill", "-x", "docker-registry")


@pytest.fixture
def images(rig: Rig) -> Iterator[Rig]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    make_image(rig.host("h1"), "app:1", 3)
    yield rig
    drop_images(rig)
    shutil.rmtree(rig.host("h1").folder / "srv/registry", ignore_errors=True)
    for host in rig.hosts:
        host.run("rm", "-rf", "/etc/docker/certs.d")


@pytest.fixture
async def world(images: Rig, tmp_path: Path) -> AsyncIterator[World]:
    async with image_world(images, tmp_path) as world:
        yield world


async def _pull(world: World, name: str, ref: str) -> None:
    await pull_from_registry(await world.hosts.engine(name), ref, world.told.append)


async def test_tls_and_password_from_this_machines_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(world.rig, 5443, secured=True)
    source = world.rig.host("h1")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    ref = f"{registry.address}/team/app:1"
    try:
        with pytest.raises(ImageError, match="does not trust the certificate"):
            await _pull(world, "h2", ref)
        for name in ("h1", "h2"):
            registry.trusted_by(name, world.rig)
        with pytest.raises(ImageError, match="does not let us have") as refused:
            await _pull(world, "h2", ref)
        assert "docker login" in refused.value.next_step

        source.docker("login", "--username", "me", "--password", PASSWORD, registry.address)
        source.docker("tag", "app:1", ref)
        source.docker("push", ref)
        import_small(source, "for another processor")
        for_another_processor(source)
        foreign = f"{registry.address}/team/foreign:1"
        source.docker("tag", SMALL, foreign)
        source.docker("push", foreign)
        source.docker("logout", registry.address)
        auth = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
        await _pull(world, "h2", ref)
        assert await world.layers("h2", ref) == await world.layers("h1", ref) != ()
        assert not (world.rig.host("h2").folder / "srv/trainer/.docker").exists(), "nothing is stored on the host"
        phases = [each.phase for each in world.told if each.host == "h2"]
        assert "pulling" in phases

        with pytest.raises(ImageError, match="is for arm64 only, and this host is amd64") as other:
            await _pull(world, "h2", foreign)
        assert "--platform linux/amd64,linux/arm64" in other.value.next_step
        assert await world.layers("h2", foreign) == ()
        assert left_over(world.rig.host("h2")) == []

        with pytest.raises(ImageError, match="has no") as unknown:
            await _pull(world, "h2", f"{registry.address}/team/app:2")
        assert "correct the name" in unknown.value.next_step
    finally:
        registry.stop()


async def test_plain_http_and_a_registry_that_is_down(world: World) -> None:
    registry = Registry(world.rig, 5080, secured=False)
    try:
        with pytest.raises(ImageError, match="speaks HTTP") as plain:
            await _pull(world, "h2", f"{registry.address}/app:1")
        assert "insecure-registries" in plain.value.next_step
    finally:
        registry.stop()
    with pytest.raises(ImageError, match="cannot reach"):
        await _pull(world, "h2", f"{registry.address}/app:1")

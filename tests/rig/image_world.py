"""Small images on the rig's hosts, and the hosts as the code that brings images sees them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from remote.errors import HostKeyUnknown
from remote.hosts import Hosts
from remote.images.model import ImageProgress
from remote.images.read import read_image
from remote.images.send import Delivery
from remote.images.store import LayerStore
from remote.inventory import Inventory, parse_inventory
from tests.rig.clusters import cluster_toml
from tests.rig.hosts import Rig, RigHost
from tests.rig.machine import call

BASE = "small:base"


def _root() -> bytes:
    """Return a root file system with busybox alone."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("bin/busybox", Path(busybox).read_bytes()), ("bin/sh", b"")):
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if data:
                member.size = len(data)
            else:
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def make_image(host: RigHost, name: str, megabytes: int, *, base: str = "", packs: bool = False) -> None:
    """Build an image with that many megabytes of random bytes, on busybox or on another image.

    With ``packs`` they are hexadecimal digits, which pack to half.
    """
    folder = host.folder / "srv" / f"build-{os.urandom(4).hex()}"
    folder.mkdir()
    try:
        if not base and not host.docker("images", "--quiet", BASE):
            (folder / "root.tar").write_bytes(_root())
            host.docker("import", "--change", "ENV PATH=/bin", f"/srv/{folder.name}/root.tar", BASE)
            (folder / "root.tar").unlink()
        random = os.urandom(1 << 19).hex().encode() if packs else os.urandom(1 << 20)
        with (folder / "weights").open("wb") as file:
            for number in range(megabytes):
                file.write(number.to_bytes(4) + random[4:])
        (folder / "Dockerfile").write_text(f"FROM {base or BASE}\nCOPY weights /weights-{folder.name}\n")
        host.docker("build", "--network=host", "--tag", name, f"/srv/{folder.name}")
    finally:
        shutil.rmtree(folder)


def drop_images(rig: Rig) -> None:
    """Remove every image but the rig's own."""
    for host in rig.hosts:
        names = host.docker("images", "--format={{.Repository}}:{{.Tag}}").split()
        for name in names:
            if "<none>" not in name and name != rig.image:
                host.docker("rmi", "--force", name)
        host.docker("image", "prune", "--force")
        if rig.image not in names:
            raise AssertionError(f"{host.name} has lost {rig.image}")


def reload_sshd(host: RigHost) -> None:
    """Let the host's sshd read its configuration again, and wait until the new one listens."""
    before = _ssh_listeners(host)
    host.run("pkill", "-HUP", "-o", "sshd")
    deadline = time.monotonic() + 10
    while not (now := _ssh_listeners(host)) or now & before:
        if time.monotonic() > deadline:
            raise AssertionError(f"sshd of {host.name} did not come back")
        time.sleep(0.02)


def _ssh_listeners(host: RigHost) -> set[str]:
    """Inodes of the sockets that listen on port 22: others after sshd has started itself anew (proc_pid_net(5))."""
    rows = [line.split() for line in host.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()]
    return {row[9] for row in rows if len(row) > 9 and row[1].endswith(":0016") and row[3] == "0A"}


def left_over(host: RigHost) -> list[str]:
    """Return what a transfer may have left on a host: temporary names, dangling images, files, its processes."""
    names = host.docker("images", "--all", "--format={{.Repository}}:{{.Tag}}").split()
    odd = [name for name in names if "incoming" in name or "127.0.0.1" in name or "hetero-tui-" in name]
    dangling = host.docker("images", "--quiet", "--filter=dangling=true").split()
    files = [path.name for path in (host.folder / "tmp").iterdir() if path.name.startswith("hetero")]
    processes = host.run("pgrep", "-af", "hetero-tui-pull", check=False).stdout.splitlines()
    return [*odd, *(f"dangling {each}" for each in dangling), *files, *(f"process {each}" for each in processes)]


def stray_downloads(host: RigHost) -> list[str]:
    """Return the unfinished downloads and layers in the engine's data root."""
    image = host.data_root / "image/overlay2/layerdb/tmp"
    folders = [host.data_root / "tmp", image]
    files = (path for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file())
    return [f"{path}: {path.stat().st_size}" for path in files]


@dataclass(slots=True)
class World:
    """Hosts that are connected, a store, and what was told."""

    rig: Rig
    inventory: Inventory
    hosts: Hosts
    store: LayerStore
    told: list[ImageProgress] = field(default_factory=list)

    async def delivery(self, source: str, target: str, ref: str) -> Delivery:
        """Read an image where it is and return its delivery to another host, not yet begun."""
        image = await read_image(self.hosts, source, ref, self.store, self.told.append)
        return Delivery(self.hosts, target, ref, image, self.store, self.told.append)

    async def layers(self, host: str, ref: str) -> tuple[str, ...]:
        """Return the layers of an image on a host, none where it is not there."""
        found = await (await self.hosts.engine(host)).image(ref)
        return found.layers if found is not None else ()


async def _nobody(_: HostKeyUnknown) -> bool:
    return False


@contextmanager
def slow_way_out(rig: Rig, rate: str) -> Iterator[None]:
    """Limit what this machine sends to all hosts together, for example to ``40mbit``."""
    limit = ("tbf", "rate", rate, "burst", "64kb", "latency", "100ms")
    call("tc", "qdisc", "replace", "dev", rig.switch.leg, "root", *limit)
    try:
        yield
    finally:
        call("tc", "qdisc", "delete", "dev", rig.switch.leg, "root")


@asynccontextmanager
async def image_world(rig: Rig, folder: Path) -> AsyncIterator[World]:
    """Connect to the rig's hosts."""
    inventory = parse_inventory(cluster_toml(rig))
    hosts = Hosts(inventory)
    await hosts.connect(_nobody)
    try:
        for host in inventory.hosts:
            await hosts.gather(host.name)
        yield World(rig, inventory, hosts, LayerStore.open(folder / "store"))
    finally:
        await hosts.close()

"""How fast and how lean images reach hosts, against ``docker save | ssh docker load`` in the same run.

    python -m benchmarks.images [--quick] [--json FILE]

Needs the rig of the tests (root, sshd, dockerd on Debian). Master, hosts and engines share this machine's cores, so
what is bound by the engines shows here more than on machines of their own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import Figure, Options, at_least, at_most, main, skipped

FIGURES = (
    "first_send_vs_pipe",
    "redeploy_bytes_fraction",
    "redeploy_s",
    "resume_resent_fraction",
    "three_hosts_vs_pipes",
)
PIPE = "docker save | zstd -1 | ssh 'zstd -d | docker load' in the same run"


def figures(options: Options) -> Iterator[Figure]:
    """Measure on a rig of four hosts: one has the image, three get it."""
    try:
        from tests.rig.hosts import Rig
        from tests.rig.image import prepare_image
        from tests.rig.places import RigError, cache_folder
    except ImportError as error:
        yield from (skipped(name, str(error)) for name in FIGURES)
        return
    try:
        with Rig(hosts=4, image=prepare_image(cache_folder())) as rig, tempfile.TemporaryDirectory() as folder:
            yield from asyncio.run(_measure(rig, Path(folder), 100 if options.quick else 900))
    except (RigError, OSError) as error:
        yield from (skipped(name, str(error)) for name in FIGURES)


async def _measure(rig: object, folder: Path, megabytes: int) -> Sequence[Figure]:
    from tests.rig.hosts import Rig
    from tests.rig.image_world import image_world, make_image

    assert isinstance(rig, Rig)
    names = ["h2", "h3", "h4"]
    found = []
    make_image(rig.host("h1"), "app:1", megabytes)
    async with image_world(rig, folder) as world:

        async def send(ref: str, targets: Sequence[str]) -> tuple[float, int, int]:
            """Return seconds from nothing read to all loaded, bytes moved, and bytes of the image."""
            start = time.perf_counter()
            deliveries = [await world.delivery("h1", target, ref) for target in targets]
            await asyncio.gather(*(each.run() for each in deliveries))
            moved = sum(each.moved for each in deliveries)
            return time.perf_counter() - start, moved, deliveries[0].image.size

        pipe = await asyncio.to_thread(_pipe, rig, "app:1", "h2")
        _forget(rig, "h2")
        sent, _, _ = await send("app:1", ["h2"])
        found.append(at_least("first_send_vs_pipe", pipe / sent, 1.0, anchor=PIPE, note=f"{pipe:.1f} s / {sent:.1f} s"))

        make_image(rig.host("h1"), "app:2", 2, base="app:1")
        seconds, moved, size = await send("app:2", ["h2"])
        anchor = "bytes of the image, which save and load moves"
        found.append(at_most("redeploy_bytes_fraction", moved / size, 0.02, "x", anchor=anchor))
        found.append(at_most("redeploy_s", seconds, 3.0, note="reading the image from its engine included"))
        again, _, _ = await send("app:2", ["h2"])
        found.append(at_most("unchanged_s", again, 1.0))

        _forget(rig, "h2")
        delivery = await world.delivery("h1", "h2", "app:1")
        running = asyncio.create_task(delivery.run())
        while delivery.moved < delivery.image.size // 2 and not running.done():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.005)
        rig.host("h2").kill_connections()
        await running
        resent = delivery.moved / delivery.image.size - 1
        found.append(at_most("resume_resent_fraction", resent, 0.05, "x", anchor="starting over sends 0.5 again"))

        _forget(rig, "h2")
        pipes = [await asyncio.to_thread(_pipe, rig, "app:1", name) for name in names]
        for name in names:
            _forget(rig, name)
        world.store.prune(0)
        sent, _, _ = await send("app:1", names)
        note = f"{sum(pipes):.1f} s / {sent:.1f} s"
        found.append(
            at_least("three_hosts_vs_pipes", sum(pipes) / sent, 2.5, anchor="three such pipes in turn", note=note)
        )
    return found


def _pipe(rig: object, ref: str, target: str) -> float:
    """Send an image the way everybody does, from the host that has it through this machine; return seconds."""
    from tests.rig.hosts import Rig

    assert isinstance(rig, Rig)
    ssh = f"ssh -F {rig.ssh_config}"
    command = f"{ssh} h1 'docker save {ref}' | zstd -1 -q | {ssh} {target} 'zstd -d -q | docker load -q'"
    start = time.perf_counter()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL, timeout=300)
    return time.perf_counter() - start


def _forget(rig: object, name: str) -> None:
    """Remove every image of a host but the rig's own."""
    from tests.rig.hosts import Rig

    assert isinstance(rig, Rig)
    names = rig.host(name).docker("images", "--format={{.Repository}}:{{.Tag}}").split()
    if found := [each for each in names if each != rig.image and "<none>" not in each]:
        rig.host(name).docker("rmi", "--force", *found)


if __name__ == "__main__":
    sys.exit(main("images", figures))

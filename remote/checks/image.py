"""The job's image: on every host, for its processor, and the same everywhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, skip, unknown, whole_cluster
from remote.errors import InventoryError
from remote.facts import Facts
from remote.inventory import Inventory

if TYPE_CHECKING:
    from remote.engine import ImageInfo

GO_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def get_image(inventory: Inventory, host: str, ref: str, platform: str = "") -> Fix:
    """Say how the image gets to the host, by the method the inventory names."""
    quoted = shlex.quote(ref)
    at = f"--platform {platform} " if platform else ""
    build = f"docker buildx build {at}--load -t {quoted} ." if platform else f"docker build -t {quoted} ."
    match inventory.image.method:
        case "registry":
            return Fix("pull it on that host", (f"docker pull {at}{quoted}",), host=host)
        case "build":
            return Fix("build it on that host, in the folder with the Dockerfile", (build,), host=host)
        case _:
            return Fix(
                f"pull or build it on {host}, or send it from a machine that has it",
                (f"docker pull {at}{quoted}", build, f"docker save {quoted} | gzip -1 | ssh {host} docker load"),
                host=host,
            )


def image_finding(inventory: Inventory, facts: Facts, ref: str, image: ImageInfo | None) -> Finding:
    """Judge whether the image is there and made for the host's processor."""
    evidence = f"docker image inspect {ref}: {'no such image' if image is None else image.id}"
    if image is None:
        return fail(f"{ref} is not on the host", evidence, get_image(inventory, facts.host, ref))
    wanted = GO_ARCHITECTURES.get(facts.architecture, facts.architecture)
    evidence += f", {image.operating_system}/{image.architecture}, {image.size} bytes; uname -m: {facts.architecture}"
    if image.architecture and wanted and image.architecture != wanted:
        return fail(
            f"{ref} is made for {image.architecture}; the host is {wanted}: exec format error",
            evidence,
            get_image(inventory, facts.host, ref, platform=f"linux/{wanted}"),
        )
    return ok(f"{ref}, {image.size / 1e9:.2f} GB", evidence)


async def _image(context: CheckContext, name: str) -> Finding:
    if context.host(name).runtime == "process":
        return skip("runtime is process")
    try:
        ref = await context.image_ref(name)
    except InventoryError as error:
        return fail(error.message, str(error), Fix(f'{error.next_step}, or runtime = "process"'))
    return image_finding(context.inventory, await context.facts(name), ref, await context.image(name))


def same_image_finding(inventory: Inventory, images: Mapping[str, ImageInfo]) -> Finding:
    """Compare layers of hosts that run the same reference; they differ when a tag was built or pulled twice."""
    by_ref: dict[tuple[str, str], dict[str, list[str]]] = {}
    for host, image in images.items():
        by_ref.setdefault((image.ref, image.architecture), {}).setdefault(image.layers_digest, []).append(host)
    evidence = "\n".join(f"{host}: {image.ref} {image.layers_digest}" for host, image in images.items())
    for (ref, _), groups in by_ref.items():
        if len(groups) == 1:
            continue
        ordered = sorted(groups.values(), key=lambda hosts: (inventory.master.name not in hosts, -len(hosts)))
        reference, others = ordered[0], [host for group in ordered[1:] for host in group]
        return fail(
            f"{ref} is not the same on {', '.join(others)} as on {', '.join(reference)}",
            evidence,
            Fix(
                f"give {', '.join(others)} the image of {reference[0]}, or pull one digest everywhere (image@sha256:…)",
                tuple(
                    f"ssh {reference[0]} 'docker save {shlex.quote(ref)} | gzip -1' | ssh {host} docker load"
                    for host in others
                ),
            ),
        )
    return ok("the same layers on all of them" if len(images) > 1 else "one host only", evidence)


async def _same_image(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    images: dict[str, ImageInfo] = {}
    for name in hosts:
        image = await context.image(name)
        if image is None:
            return unknown(f"the image of {name} went away meanwhile")
        images[name] = image
    return same_image_finding(context.inventory, images)


IMAGE = Check(
    id="image",
    title="Image",
    codes=("PF-24", "PF-27"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the engine have the image this host's ranks will run, made for this host's processor?",
    remedy="Pull it, build it there, or let it be sent; `docker buildx build --platform` for another processor.",
    probe=each_host(_image),
    needs=("engine",),
)
SAME_IMAGE = Check(
    id="same-image",
    title="Same image everywhere",
    codes=("PF-25", "PF-30"),
    severity=Severity.BLOCKS,
    scope="cluster",
    question="Are the layers of each image the same on all hosts that run it? Compared by the digests of the unpacked "
    "layers, for the image id differs between Docker's two image stores.",
    remedy="Build once and distribute; pin a digest.",
    probe=whole_cluster(_same_image),
    needs=("image",),
)
CHECKS = (IMAGE, SAME_IMAGE)

"""The job's image: on every host, for its processor, and the same everywhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, skip, unknown, warn, whole_cluster
from remote.checks.shared import over_ssh
from remote.errors import InventoryError
from remote.facts import Facts
from remote.images.reference import parse_reference
from remote.inventory import Inventory
from remote.runner import Completed

if TYPE_CHECKING:
    from remote.engine import ImageInfo

GO_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def get_image(inventory: Inventory, host: str, ref: str, platform: str = "") -> Fix:
    """Say how the image gets to the host, by the method the inventory names."""
    quoted = shlex.quote(ref)
    at = f"--platform {platform} " if platform else ""
    build = f"docker buildx build {at}--load -t {quoted} ." if platform else f"docker build -t {quoted} ."
    if inventory.image.method == "registry":
        return Fix("pull it on that host", (f"docker pull {at}{quoted}",), host=host)
    if platform:
        return Fix(
            f"build it for {platform} on that host, in the folder with the Dockerfile, or name another image for it "
            "under [image.variants] or as image of the host",
            (build,),
            host=host,
        )
    if parse_reference(ref).is_plain and not inventory.image.context:
        return Fix(
            f"build {ref} on one machine if none has it yet (docker build …: the README and docs/images.md have the "
            "whole command), then let it be brought to the others",
            ("hetero-tui images cluster.toml --bring",),
        )
    return Fix(
        f"let it be brought: pulled, built or sent from a host that has it, as [image] says. By hand on {host}: "
        f"`docker pull {quoted}` or `{build}`",
        ("hetero-tui images cluster.toml --bring",),
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
                tuple(_send(inventory, ref, reference[0], host) for host in others),
            ),
        )
    return ok("the same layers on all of them" if len(images) > 1 else "one host only", evidence)


def _send(inventory: Inventory, ref: str, source: str, target: str) -> str:
    save = over_ssh(inventory.host(source), f"docker save {shlex.quote(ref)} | gzip -1")
    return f"{save} | {over_ssh(inventory.host(target), 'docker load')}"


async def _same_image(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    images: dict[str, ImageInfo] = {}
    for name in hosts:
        image = await context.image(name)
        if image is None:
            return unknown(f"the image of {name} went away meanwhile")
        images[name] = image
    return same_image_finding(context.inventory, images)


REGISTRY_QUESTION = 'curl -sS -o /dev/null -m 10 -w "%{http_code}" -- "$1" 2>&1'
LOCAL_REGISTRY = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


def registry_of(ref: str) -> str:
    """Return the registry of a reference: what is before the first slash, if it looks like a host."""
    first, slash, _ = ref.partition("/")
    return first if slash and (first == "localhost" or "." in first or ":" in first) else "registry-1.docker.io"


def registry_finding(host: str, registry: str, completed: Completed) -> Finding:
    """Judge curl's answer to ``GET /v2/``: 200 and 401 both mean that a registry is there."""
    said = completed.stdout.strip()
    evidence = f"curl https://{registry}/v2/: {said or completed.stderr.strip()} (exit {completed.exit_status})"
    if completed.exit_status == 127:
        return unknown("there is no curl to ask the registry with", evidence)
    if completed.exit_status == 0 and said[-3:] in {"200", "401", "403"}:
        return ok(f"{registry} answers", evidence)
    if "wrong version number" in said or "packet length too long" in said:
        return warn(
            f"{registry} speaks HTTP, and the engine wants HTTPS",
            evidence,
            Fix(
                f'give it a certificate, or add "insecure-registries": ["{registry}"] to /etc/docker/daemon.json',
                ("sudo systemctl restart docker",),
                host=host,
                needs_root=True,
            ),
        )
    if said.endswith("429"):
        return warn(f"{registry} has had enough of this address for now", evidence, Fix("wait, or log in, or send it"))
    return warn(
        f"{registry} cannot be reached",
        evidence,
        Fix('check the host\'s way to the internet, or use method = "send" under [image]', host=host),
    )


async def _registry(context: CheckContext, name: str) -> Finding:
    if context.inventory.image.method not in {"registry", "auto"}:
        return skip(f"images come by method {context.inventory.image.method}")
    if await context.image(name) is not None:
        return skip("the image is there already")
    registry = registry_of(await context.image_ref(name))
    if LOCAL_REGISTRY.fullmatch(registry):
        return skip("the registry is on the host itself")
    command = f"exec /bin/sh -s -- {shlex.quote(f'https://{registry}/v2/')}"
    completed = await context.runner(name).run(command, input=REGISTRY_QUESTION.encode(), timeout=15.0)
    return registry_finding(name, registry, completed)


REGISTRY = Check(
    id="registry",
    title="Registry",
    codes=("PF-29",),
    severity=Severity.WARNS,
    scope="host",
    question="Where the image is still to come from a registry: does the registry answer this host? Asked with curl.",
    remedy="Mend the way to the internet, use HTTPS, or let the image be sent.",
    probe=each_host(_registry),
    needs=("engine",),
)
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
CHECKS = (REGISTRY, IMAGE, SAME_IMAGE)

"""Pulling from a registry, as the host's own engine does it: progress by layer, and errors that say what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from remote.answers import understood
from remote.engine import Engine, ImageInfo
from remote.errors import ConnectionDropped, EngineError, ImageError
from remote.images.credentials import registry_auth
from remote.images.engine_pull import check_message, messages
from remote.images.model import ImageProgress, LayerProgress, Report
from remote.images.rate import Meter
from remote.images.reference import Reference, parse_reference
from remote.images.send import put_name

ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Cause:
    name: str
    pattern: re.Pattern[str]
    cause: str
    next_step: str


def _cause(name: str, pattern: str, cause: str, next_step: str) -> _Cause:
    return _Cause(name, re.compile(pattern, re.IGNORECASE), cause, next_step)


_CAUSES: Final = (
    _cause(
        "rate-limit",
        r"toomanyrequests|too many requests|pull rate limit|\b429\b",
        "{registry} has had enough pulls from this address for now",
        'docker login here (a signed-in account may pull more), wait, or let one host pull and method = "auto" send it',
    ),
    _cause(
        "platform",
        r"no matching manifest|does not match the specified platform|image operating system .{0,40} cannot be used",
        "{image} is not offered for this host's processor",
        "build it for that processor (docker buildx build --platform), or give the host an image of its own",
    ),
    _cause(
        "plain-http",
        r"server gave HTTP response to HTTPS client|http: server gave HTTP response",
        "{registry} speaks HTTP, and the engine wants HTTPS",
        'give it a certificate, or add "insecure-registries": ["{registry}"] to /etc/docker/daemon.json on that host; '
        'method = "send" needs no registry',
    ),
    _cause(
        "certificate",
        r"x509: |certificate (?:signed by unknown authority|is not valid|has expired)|tls: ",
        "the engine does not trust the certificate of {registry}",
        "put its CA into /etc/docker/certs.d/{registry}/ca.crt on that host",
    ),
    _cause(
        "unknown-image",
        r"manifest unknown|manifest for \S+ not found|name unknown|repository name not known|: not found",
        "{registry} has no {image}",
        "correct the name or the tag; docker push it first",
    ),
    _cause(
        "authentication",
        r"unauthorized|authentication required|no basic auth credentials|access denied|access to the resource is denied"
        r"|\bdenied: |incorrect username or password|\b403 forbidden",
        "{registry} does not let us have {image}",
        "docker login {registry} on this machine (nothing is stored on the hosts), or correct the name",
    ),
    _cause(
        "unreachable",
        r"connection refused|no such host|i/o timeout|network is unreachable|server misbehaving|no route to host"
        r"|context deadline exceeded|Client\.Timeout|connection reset|temporary failure in name resolution",
        "this host cannot reach {registry}",
        'check its way to the registry, or use method = "send" under [image]',
    ),
)


def registry_error(host: str, reference: Reference, said: str) -> ImageError | None:
    """Return what an engine's complaint about a pull means, or None for one that is not known."""
    values = {"registry": reference.registry, "image": reference.familiar}
    for each in _CAUSES:
        if each.pattern.search(said):
            return ImageError(
                f"{each.cause.format(**values)}. The engine said: {said[:400]}",
                host=host,
                next_step=_unbuilt(each, reference) + each.next_step.replace("{registry}", reference.registry),
            )
    return None


def _unbuilt(cause: _Cause, reference: Reference) -> str:
    """A plain name that no machine has is more often an image nobody built yet than one of Docker Hub's own."""
    if not reference.is_plain or cause.name not in ("unknown-image", "authentication", "unreachable"):
        return ""
    return f"is {reference.familiar} an image of yours? Then build it on one of the machines first; otherwise "


MOST_LAYERS: Final = 1000
"""No engine stacks more than 127; what names more is not kept."""


@dataclass(slots=True)
class PullProgress:
    """Adds up the engine's messages about each layer."""

    meter: Meter = field(default_factory=lambda: Meter({}))
    unpacked: set[str] = field(default_factory=set)

    def note(self, message: dict[str, Any] | Any) -> None:
        """Take in one message."""
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        detail = message.get("progressDetail") or {}
        if not layer or (len(self.meter.totals) >= MOST_LAYERS and layer not in self.meter.totals):
            return
        if status == "Downloading" and (total := int(detail.get("total") or 0)):
            self.meter.totals[layer] = total
            before = self.meter.reached.get(layer, 0)
            self.meter.note(layer, before, max(0, int(detail.get("current") or 0) - before))
        elif status in ("Download complete", "Verifying Checksum") and layer in self.meter.totals:
            before, total = self.meter.reached.get(layer, 0), self.meter.totals[layer]
            self.meter.note(layer, before, total - before)
        elif status == "Pull complete" and len(self.unpacked) < MOST_LAYERS:
            self.unpacked.add(layer)

    def progress(self, host: str, detail: str = "") -> ImageProgress:
        """Return how far it is."""
        total = sum(self.meter.totals.values())
        layers = tuple(
            LayerProgress(name, self.meter.reached.get(name, 0), size) for name, size in self.meter.totals.items()
        )
        packed = total > 0 and self.meter.done >= total
        return ImageProgress(
            host, "unpacking" if packed else "pulling", self.meter.done, total, self.meter.rate, layers, detail
        )


async def pull_from_registry(engine: Engine, ref: str, report: Report) -> None:
    """Let a host's engine pull an image, with the credentials this machine has for the registry.

    Raises:
        ImageError: the registry refused; the message says why and what to do.
        EngineError: the engine refused.
        ConnectionDropped: the connection was lost more than once.
    """
    reference = parse_reference(ref)
    auth = await registry_auth(reference.registry)
    parameters = {"fromImage": reference.repository, "tag": reference.digest or reference.tag}
    headers = [("X-Registry-Auth", auth)] if auth else []
    existing = await engine.image(ref)
    for attempt in range(1, ATTEMPTS + 1):
        counted = PullProgress()
        try:
            async with engine.request("POST", "/images/create", parameters, headers=headers) as answer:
                report(counted.progress(engine.host))
                last = 0.0
                async for message in messages(engine.host, answer.body):
                    check_message(engine.host, message)
                    with understood(engine.host, f"docker pull {ref}", EngineError):
                        counted.note(message)
                    if (now := counted.meter.clock()) - last > 0.2:
                        last = now
                        report(counted.progress(engine.host))
            break
        except EngineError as error:
            raise registry_error(engine.host, reference, error.message) or error from error
        except ConnectionDropped as error:
            if attempt == ATTEMPTS:
                raise
            report(counted.progress(engine.host, f"once more: {error.message}"))
    found = await engine.image(ref)
    if found is None:
        raise ImageError(f"{ref} is not there although the engine pulled it", host=engine.host, next_step="try again")
    if existing is not None and existing.id == found.id:
        return
    await _require_processor(engine, reference, found, keep=existing is not None)
    await put_name(engine, ref, ref)


async def _require_processor(engine: Engine, reference: Reference, found: ImageInfo, *, keep: bool) -> None:
    """Compare processors: an engine takes an image that is offered for one processor only, whatever its own is.

    Raises:
        ImageError: the image is for another one; what was pulled is removed unless its name was there before.
    """
    own = str((await engine.version()).get("Arch") or "")
    if not own or found.architecture in ("", own):
        return
    if not keep:
        await engine.remove_image(found.ref)
    raise ImageError(
        f"{reference.familiar} is for {found.architecture} only, and this host is {own}",
        host=engine.host,
        next_step=f"docker buildx build --platform linux/{own},linux/{found.architecture} --push -t "
        f"{reference.familiar} . offers it for both, or give the host an image of its own: image = … in [[hosts]]",
    )

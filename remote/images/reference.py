"""Image references as Docker writes them. Pure.

Grammar and defaults: https://github.com/distribution/reference (``normalize.go``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DOCKER_HUB: Final = "docker.io"
MARK_PREFIX: Final = "hetero-tui/put/"
"""Images this program put on a host carry a second name below this one: the record of what it may remove again."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One image reference in its parts."""

    registry: str
    """Host with port, ``docker.io`` where none is written."""
    path: str
    """Repository within the registry, ``library/python`` for Docker Hub's ``python``."""
    tag: str = ""
    digest: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether it names exactly one image by digest."""
        return bool(self.digest)

    @property
    def repository(self) -> str:
        """Name without tag and digest, as short as Docker shows it."""
        if self.registry != DOCKER_HUB:
            return f"{self.registry}/{self.path}"
        return self.path.removeprefix("library/")

    @property
    def is_plain(self) -> bool:
        """Whether it is a name alone, as of an image that was built by hand: no registry and nobody's repository."""
        return self.registry == DOCKER_HUB and self.path.startswith("library/")

    @property
    def familiar(self) -> str:
        """The reference as ``docker images`` shows it."""
        if self.digest:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """Split an image reference; a missing tag is ``latest``."""
    rest, _, digest = text.partition("@")
    first, slash, remainder = rest.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        registry, path = first, remainder
    else:
        registry, path = DOCKER_HUB, rest
    head, colon, tag = path.rpartition(":")
    path, tag = (head, tag) if colon else (path, "")
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def mark_of(ref: str) -> tuple[str, str]:
    """Return (repository, tag) of the second name that records that this program put ``ref`` on a host."""
    parsed = parse_reference(ref)
    tag = parsed.tag or parsed.digest.replace(":", "-", 1)
    return MARK_PREFIX + parsed.repository.replace(":", "__").lower(), tag


def marked_ref(name: str) -> str | None:
    """Return the reference that a second name stands for, or None for any other name."""
    if not name.startswith(MARK_PREFIX):
        return None
    repository, _, tag = name.removeprefix(MARK_PREFIX).rpartition(":")
    first, slash, rest = repository.partition("/")
    named = f"{first.replace('__', ':')}{slash}{rest}"
    return f"{named}@{tag.replace('-', ':', 1)}" if tag.startswith("sha256-") else f"{named}:{tag}"

"""Takes names and addresses out of a text, the same name for the same placeholder everywhere. Pure.

What says nothing about a person stays: loopback and unspecified addresses, netmasks, ``root``, public registries.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["host", "user", "domain", "cluster", "id"]

HARMLESS: Final = frozenset(
    {
        "",
        "root",
        "localhost",
        "local",
        "none",
        "auto",
        "docker.io",
        "ghcr.io",
        "quay.io",
        "nvcr.io",
        "mcr.microsoft.com",
    }
)
"""Never replaced, for they name nobody."""

_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])")
_MAC: Final = re.compile(r"(?<![\w:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])")
_FINGERPRINT: Final = re.compile(r"\b(?:SHA256:[A-Za-z0-9+/]{20,}=*|MD5:(?:[0-9a-f]{2}:){15}[0-9a-f]{2})")
_UUID: Final = re.compile(r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b")
_KEY: Final = re.compile(r"\b(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-\S+|sk-\S+@openssh\.com) AAAA[A-Za-z0-9+/=]+")
_AT: Final = re.compile(r"(?<![\w.+-])(?P<user>[\w.+-]+)@(?P<domain>[\w-]+(?:\.[\w-]+)*\.[A-Za-z][\w-]*)")
_HOME: Final = re.compile(r"(?<![\w.])(?:/home/|/Users/|[A-Za-z]:\\Users\\)(?P<user>[^/\\\s:'\",;]+)")


@dataclass(slots=True)
class Redaction:
    """Placeholders given so far."""

    names: dict[str, str] = field(default_factory=dict)
    """Case-folded name to placeholder."""
    _counts: dict[str, int] = field(default_factory=dict)
    _found: dict[tuple[str, str], str] = field(default_factory=dict)

    def know(self, kind: Kind, names: Iterable[str]) -> None:
        """Give every name a placeholder; a name that has one already keeps it."""
        for name in names:
            folded = name.strip().casefold()
            if folded not in HARMLESS and folded not in self.names and not _is_address(folded):
                self.names[folded] = self._next(kind)

    def alias(self, name: str, other: str) -> None:
        """Give ``other`` the placeholder of ``name``: two names of one thing."""
        known, folded = self.names.get(name.casefold()), other.strip().casefold()
        if known is not None and folded not in HARMLESS and not _is_address(folded):
            self.names.setdefault(folded, known)

    def apply(self, text: str) -> str:
        """Return the text without the names that are known, and without anything that has the form of an address."""
        text = _KEY.sub(lambda match: self._form("public-key", match[0]), text)
        text = _FINGERPRINT.sub(lambda match: self._form("fingerprint", match[0]), text)
        text = _UUID.sub(lambda match: self._form("id", match[0]), text)
        text = _MAC.sub(lambda match: self._form("mac", match[0]), text)
        self._learn(text)
        text = self._known(text)
        text = _IPV6.sub(self._address, text)
        return _IPV4.sub(self._address, text)

    def _known(self, text: str) -> str:
        if not self.names:
            return text
        longest_first = sorted(self.names, key=len, reverse=True)
        # Letters and digits belong to a name, everything else ends it: hetero-RUN-laptop holds the name laptop.
        pattern = "|".join(re.escape(name) for name in longest_first)
        every = re.compile(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", re.IGNORECASE)
        return every.sub(lambda match: self.names.get(match[0].casefold(), "<name>"), text)

    def _learn(self, text: str) -> None:
        """Remember the names that the text itself gives away: home folders, and user@somewhere."""
        self.know("user", (match["user"] for match in _HOME.finditer(text)))
        for match in _AT.finditer(text):
            self.know("user", [match["user"]])
            self.know("domain", [match["domain"]])

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        netmask = match[0].startswith("255.")
        if address.is_loopback or address.is_unspecified or netmask:
            return match[0]
        return self._form("address", str(address))

    def _form(self, kind: str, value: str) -> str:
        folded = value.casefold()
        if (kind, folded) not in self._found:
            self._found[kind, folded] = self._next(kind)
        return self._found[kind, folded]

    def _next(self, kind: str) -> str:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"<{kind}-{self._counts[kind]}>"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

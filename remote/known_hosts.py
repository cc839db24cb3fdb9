"""Who a host proves to be: known_hosts files, pinned fingerprints, first contact.

The rules are OpenSSH's strict ones, without its switches to turn them off: an unknown key needs a person, a changed
key is refused, and no setting of ``~/.ssh/config`` (an empty or ``/dev/null`` ``UserKnownHostsFile``) disables the
check. asyncssh takes ``known_hosts=None`` as "trust anyone", so it never sees that value here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import asyncssh

from remote.errors import ConnectError, HostKeyChanged, HostKeyUnknown

DEFAULT_SSH_PORT = 22
GLOBAL_FILES = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))

Judgement = Literal["trusted", "unknown", "changed", "revoked"]
Trusted = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


def user_file() -> Path:
    """Return the file that accepted keys are written to."""
    return Path("~/.ssh/known_hosts").expanduser()


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The files a host key is looked up in."""

    files: tuple[Path, ...] = ()
    """Files to read in place of OpenSSH's usual ones; the first is written to when a key is accepted."""

    @property
    def writable_file(self) -> Path:
        """The file that gets a newly accepted key."""
        return self.files[0] if self.files else user_file()

    def load(self, configured: Sequence[str] = ()) -> asyncssh.SSHKnownHosts:
        """Read all files. A line that cannot be parsed trusts nobody and is passed over, as OpenSSH does.

        Args:
            configured: ``UserKnownHostsFile`` and ``GlobalKnownHostsFile`` of ssh_config. They are read besides the
                user's own file, never in its place, so that no configuration can empty the list.
        """
        usual = (user_file(), user_file().with_name("known_hosts2"), *GLOBAL_FILES)
        paths = self.files or (*usual, *(Path(name).expanduser() for name in configured if name != "none"))
        known = asyncssh.import_known_hosts("")
        for path in dict.fromkeys(paths):
            try:
                text = path.read_text("utf-8", "replace")
            except OSError:
                continue  # most of the usual files do not exist; a file nobody can read trusts nobody
            for line in text.splitlines():
                try:
                    known.load(line)
                except ValueError:
                    continue
        return known


def host_pattern(address: str, port: int) -> str:
    """Return how known_hosts writes this host: plain for port 22, else ``[address]:port``."""
    return address if port == DEFAULT_SSH_PORT else f"[{address}]:{port}"


def known_hosts_line(address: str, port: int, key: asyncssh.SSHKey) -> str:
    """Return the known_hosts line for this key."""
    algorithm, encoded = key.export_public_key("openssh").decode("ascii").split()[:2]
    return f"{host_pattern(address, port)} {algorithm} {encoded}"


@dataclass(slots=True)
class HostKeyCheck:
    """Decides about the key of one host, and remembers the decision so that the error can say what happened."""

    host: str
    """Name in the inventory, for messages."""
    pinned: str = ""
    """``SHA256:…`` from the inventory; the known_hosts files are not consulted then."""
    known: asyncssh.SSHKnownHosts = field(default_factory=lambda: asyncssh.import_known_hosts(""))
    file: Path = field(default_factory=user_file)
    judgement: Judgement = "unknown"
    shown: asyncssh.SSHKey | None = None
    dialled: str = ""
    port: int = DEFAULT_SSH_PORT
    _exact: tuple[asyncssh.SSHKey, ...] = ()
    _by_name: tuple[asyncssh.SSHKey, ...] = ()

    def trusted(self, host: str, _address: str, port: int | None) -> Trusted:
        """Return host keys, CA keys and revoked keys for asyncssh to match. The port is None for 22.

        Keys are looked up by name only. An address may have belonged to another machine, which is why OpenSSH stopped
        matching it too (``CheckHostIP no`` since 8.5).
        """
        self.dialled, self.port = host, port or DEFAULT_SSH_PORT
        if self.pinned:
            return (), (), ()
        exact = self.known.match(host_pattern(host.lower(), self.port), "", None)
        by_name = exact if port is None else self.known.match(host.lower(), "", None)
        self._exact, self._by_name = tuple(exact[0]), tuple(by_name[0])
        return exact[0], exact[1] or by_name[1], [*exact[2], *by_name[2]]

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Return whether the key asyncssh did not find among the exact matches is fine all the same."""
        self.shown = key
        if self.pinned:
            self.judgement = "trusted" if key.get_fingerprint() == self.pinned else "changed"
        elif key in self._by_name:
            # OpenSSH: an entry without a port vouches for the same key on another port, but never against one.
            self.judgement = "trusted"
        else:
            self.judgement = "changed" if self._exact else "unknown"
        return self.judgement == "trusted"

    def error(self, reason: str) -> ConnectError:
        """Return the error for the key that was just refused; ``reason`` is asyncssh's wording."""
        if self.shown is not None and self.judgement == "unknown":
            return HostKeyUnknown(
                host=self.host,
                fingerprint=self.shown.get_fingerprint(),
                key_type=self.shown.get_algorithm(),
                known_hosts_line=known_hosts_line(self.dialled, self.port, self.shown),
            )
        if self.pinned:
            found = self.shown.get_fingerprint() if self.shown else "no plain key"
            return HostKeyChanged(
                f"the host shows the key {found}, but host_key pins {self.pinned}: this may be another machine",
                host=self.host,
                next_step="if the machine was set up anew, read the fingerprint on its own console "
                "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and correct host_key in cluster.toml",
            )
        found = f"{self.shown.get_algorithm()} {self.shown.get_fingerprint()}" if self.shown else reason
        return HostKeyChanged(
            f"the host key is not the known one ({found}): this may be another machine, so nothing was sent to it",
            host=self.host,
            next_step="if the machine was set up anew, compare the fingerprint on its own console and remove the old "
            f"line: ssh-keygen -R '{host_pattern(self.dialled, self.port)}' -f '{self.file}'",
        )


def accept_host_key(error: HostKeyUnknown, known_hosts: KnownHosts | None = None) -> None:
    """Add the key of a first contact to known_hosts, because a person confirmed its fingerprint.

    Args:
        error: The refusal of the first contact; it carries the line.
        known_hosts: Where to write; ``~/.ssh/known_hosts`` when left out.

    Raises:
        ConnectError: the file cannot be written.
    """
    path = (known_hosts or KnownHosts()).writable_file
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            content = file.read()
            separator = b"\n" if content and not content.endswith(b"\n") else b""
            file.write(separator + error.known_hosts_line.encode("ascii") + b"\n")
    except OSError as reason:
        raise ConnectError(
            f"cannot write the accepted key to {path}: {reason.strerror}",
            host=error.host,
            next_step=f"add this line yourself: {error.known_hosts_line}",
        ) from reason

"""Everything that can go wrong on the way to and on other machines.

RemoteError
├── UserError               the person can mend it; exit 2, no traceback
│   ├── InventoryError      cluster.toml is wrong (every mistake at once)
│   ├── PlanError           the inventory and the facts do not make a runnable plan
│   └── PositionLost        a recording does not say where a host's log goes on
├── ConnectError            no SSH connection to a host
│   ├── HostUnreachable     no answer, refused, or the name does not resolve
│   ├── HostKeyUnknown      first contact: the fingerprint must be confirmed by a person
│   ├── HostKeyChanged      the key differs from the known one: refused, there is no override
│   └── LoginRefused        no key or agent identity was accepted
├── ConnectionDropped       the connection was lost while something was under way
├── CommandFailed           a command on a host ended with an error
├── ForwardingRefused       the SSH server forwards no ports back
├── OverlayError            the encrypted network between the hosts could not be set up
├── EngineError             the Docker Engine refused or could not be reached
├── ImageError              an image cannot be brought to a host
├── HostBusy                another run of the cluster lives on the host
├── ResultsError            what a run has written cannot be brought home
└── LaunchError             some ranks did not come up
"""

from __future__ import annotations


class RemoteError(Exception):
    """A message that says which host, what was run, what came back, and what to do."""

    def __init__(self, message: str, *, host: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.next_step = next_step

    def __str__(self) -> str:
        where = f"{self.host}: " if self.host else ""
        what_next = f"\n  → {self.next_step}" if self.next_step else ""
        return f"{where}{self.message}{what_next}"


class UserError(RemoteError):
    """A person's mistake: shown without a traceback, exit code 2."""


class InventoryError(UserError):
    """``cluster.toml`` has mistakes; ``str()`` lists every one with its line, key and the nearest valid name."""


class PlanError(UserError):
    """No launch plan can be made from this inventory and these facts."""


class PositionLost(UserError):
    """A recording's position in a host's log cannot be read, so it is not known which lines are still to come."""

    def __init__(self, position: str, *, host: str) -> None:
        super().__init__(
            f"the recording is damaged: it says {position[:40]!r} for where this host's log goes on",
            host=host,
            next_step="move its events.jsonl.gz away; the run is then read from its beginning",
        )


class ConnectError(RemoteError):
    """No usable SSH connection."""


class HostUnreachable(ConnectError):
    """The host did not answer in time, refused the connection, or its name does not resolve."""


class HostKeyUnknown(ConnectError):
    """The host shows a key that is in no known_hosts file."""

    def __init__(self, *, host: str, fingerprint: str, key_type: str, known_hosts_line: str) -> None:
        super().__init__(
            f"unknown host key {key_type} {fingerprint}",
            host=host,
            next_step="compare the fingerprint with the one shown on the host "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then accept it",
        )
        self.fingerprint = fingerprint
        self.key_type = key_type
        self.known_hosts_line = known_hosts_line
        """The line that accepting would add to ``~/.ssh/known_hosts``."""


class HostKeyChanged(ConnectError):
    """The host shows another key than the known one."""


class LoginRefused(ConnectError):
    """The host accepted none of the offered keys."""


class ConnectionDropped(RemoteError):
    """The connection to the host was lost."""


class CommandFailed(RemoteError):
    """A command ended with a status other than 0."""


class ForwardingRefused(RemoteError):
    """The SSH server does not listen on the host for this program."""


class OverlayError(RemoteError):
    """The encrypted overlay between the hosts could not be set up or taken down."""


class EngineError(RemoteError):
    """The Docker Engine of a host answered with an error or not at all."""


class ImageError(RemoteError):
    """An image cannot be brought to a host: no source, wrong processor, no space, or its digests do not match."""


class HostBusy(RemoteError):
    """Another run of this cluster lives on the host; the message says whose, since when, and how to end it."""


class ResultsError(RemoteError):
    """What a run has written cannot be brought home, or is damaged."""


class LaunchError(RemoteError):
    """Not every rank came up; the message names who is missing and why."""

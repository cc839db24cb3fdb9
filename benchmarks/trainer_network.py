"""Hosts in network namespaces behind one switch, with slow links and cables that can be pulled. Needs root and ip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self


def unavailable() -> str:
    """Return why namespaces cannot be made here; empty when they can."""
    if shutil.which("ip") is None:
        return "there is no ip command (package iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(["ip", "netns", "add", _name("probe")], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"ip netns add: {probe.stderr.strip()}"
    _ip("netns", "delete", _name("probe"))
    return ""


def _name(part: str) -> str:
    return f"hetero{os.getpid()}{part}"


def _ip(*arguments: str) -> None:
    """Run ip.

    Raises:
        OSError: it failed; the message is its own.
    """
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")


class Network:
    """Namespaces ``0 .. hosts - 1`` with addresses 10.77.0.1 and up, all on one switch."""

    interface = "eth0"

    def __init__(self, hosts: int, megabits: float | Sequence[float] | None = None) -> None:
        """Build it; ``megabits`` limits every link, both ways; one number for all, or one for each host.

        Raises:
            OSError: the kernel lacks something; nothing is left behind.
        """
        self.hosts = hosts
        self._switch = _name("switch")
        self._made: list[str] = []
        try:
            self._build(megabits if isinstance(megabits, Sequence) else (megabits,) * hosts)
        except OSError:
            self.close()
            raise

    def _build(self, megabits: Sequence[float | None]) -> None:
        self._add(self._switch)
        self._in(self._switch, "ip", "link", "add", "bridge0", "type", "bridge")
        self._in(self._switch, "ip", "link", "set", "bridge0", "up")
        for host, limit in enumerate(megabits):
            namespace, port = self.namespace(host), f"port{host}"
            self._add(namespace)
            _ip(
                "link", "add", self.interface, "netns", namespace, "type", "veth",
                "peer", "name", port, "netns", self._switch,
            )  # fmt: skip
            self._in(self._switch, "ip", "link", "set", port, "master", "bridge0", "up")
            self._in(namespace, "ip", "address", "add", f"{self.address(host)}/24", "dev", self.interface)
            self._in(namespace, "ip", "link", "set", self.interface, "up")
            self._in(namespace, "ip", "link", "set", "lo", "up")
            if limit is not None:
                self._limit(namespace, self.interface, limit)
                self._limit(self._switch, port, limit)

    def namespace(self, host: int) -> str:
        """Return the namespace of a host."""
        return _name(f"host{host}")

    def address(self, host: int) -> str:
        """Return the IPv4 address of a host."""
        return f"10.77.0.{host + 1}"

    def command(self, host: int) -> tuple[str, ...]:
        """Return what to put before a command to run it on a host."""
        return ("ip", "netns", "exec", self.namespace(host))

    def unplug(self, host: int) -> None:
        """Pull a host's cable at the switch."""
        self._in(self._switch, "ip", "link", "set", f"port{host}", "down")

    def cut(self, one: int, other: int) -> None:
        """Let no packet pass between two hosts; both still reach all others."""
        for here, there in ((one, other), (other, one)):
            # What is sent to a hardware address that nobody has is lost without a word.
            self._in(
                self.namespace(here), "ip", "neighbour", "replace", self.address(there), "dev", self.interface,
                "lladdr", "02:00:00:00:00:01", "nud", "permanent",
            )  # fmt: skip

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._made.append(namespace)

    def _in(self, namespace: str, *command: str) -> None:
        ran = subprocess.run(["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise OSError(f"{' '.join(command)}: {ran.stderr.strip()}")

    def _limit(self, namespace: str, device: str, megabits: float) -> None:
        """Limit what a device sends, by a token bucket."""
        rate = f"{megabits:g}mbit"
        self._in(
            namespace, "tc", "qdisc", "add", "dev", device, "root",
            "tbf", "rate", rate, "burst", "64kb", "latency", "50ms",
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the namespaces, and with them their links."""
        while self._made:
            _ip("netns", "delete", self._made.pop())

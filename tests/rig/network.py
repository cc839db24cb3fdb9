"""The wires between the rig's hosts: a bridge in a network namespace of its own, and a free /24."""

from __future__ import annotations

import ipaddress
import json
import subprocess

from tests.rig.machine import call, hold_namespaces, wait_ready
from tests.rig.places import RigError

MASTER_SUFFIX = 254
_SUBNETS = tuple(ipaddress.IPv4Network(f"10.77.{third}.0/24") for third in range(256))


def _taken() -> list[ipaddress.IPv4Network]:
    """Return what this machine has routes to, the default route apart."""
    routes = json.loads(call("ip", "-4", "-json", "route", "show", "table", "all").stdout or "[]")
    found = []
    for route in routes:
        target = str(route.get("dst", "default"))
        if target != "default":
            found.append(ipaddress.IPv4Network(target, strict=False))
    return found


class Switch:
    """A bridge the hosts are plugged into, in its own namespace: no firewall of the machine filters its frames."""

    def __init__(self, rig_id: str) -> None:
        self._rig_id = rig_id
        self._holder: subprocess.Popen[bytes] | None = None
        self.subnet = _SUBNETS[0]
        self.leg = ""
        """The rig's only interface in the machine's own network namespace."""

    @property
    def master_address(self) -> str:
        """Address of the machine the tests run on, as the hosts see it."""
        return str(self.subnet[MASTER_SUFFIX])

    def address(self, number: int) -> str:
        """Return the address of host ``number``, counted from 1."""
        return str(self.subnet[number])

    def up(self) -> None:
        """Make the bridge and the master's leg on the first subnet nobody uses.

        Raises:
            RigError: no subnet is free, or the kernel refused.
        """
        script = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec sleep infinity"
        self._holder = hold_namespaces(self._rig_id, "--net", "--", "sh", "-c", script)
        wait_ready(self._holder, "the switch")
        taken = _taken()
        for subnet in _SUBNETS:
            if any(subnet.overlaps(other) for other in taken):
                continue
            leg = f"htrig{str(subnet[0]).split('.')[2]}"
            pair = ("ip", "link", "add", leg, "type", "veth", "peer", "name", "uplink", "netns", str(self._holder.pid))
            made = call(*pair, check=False)  # the name is the reservation: two rigs cannot both make it
            if made.returncode != 0 and "exists" in made.stderr:
                continue
            if made.returncode != 0:
                raise RigError(f"`{' '.join(pair)}` said: {made.stderr.strip()}")
            self.subnet, self.leg = subnet, leg
            break
        else:
            raise RigError("no free network in 10.77.0.0/16: this machine has routes to all of it")
        self._plug("uplink")
        call("ip", "address", "add", f"{self.master_address}/24", "dev", self.leg)
        call("ip", "link", "set", self.leg, "up")

    def connect(self, number: int, pid: int) -> None:
        """Lay a cable from port ``number`` to ``eth0`` of the namespace of process ``pid``, with the host's address."""
        port = self._port(number)
        # A cable of a host that lost its power may not have been collected yet.
        self._inside("ip", "link", "delete", port, check=False)
        enter = ("nsenter", f"--target={pid}", "--net", "--")
        # Nor the cable from a router: the kernel clears a namespace some time after its last process.
        call(*enter, "ip", "link", "delete", "eth0", check=False)
        peer = ("peer", "name", "eth0", "address", self._mac(number), "netns", str(pid))
        self._inside("ip", "link", "add", port, "type", "veth", *peer)
        self._plug(port)
        call(*enter, "ip", "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        call(*enter, "ip", "link", "set", "eth0", "up")

    def cable(self, number: int, *, plugged: bool) -> None:
        """Pull or plug the cable of host ``number`` at the switch."""
        self._inside("ip", "link", "set", self._port(number), "up" if plugged else "down")

    def connect_behind(self, number: int, pid: int, router: int, inner: ipaddress.IPv4Network) -> None:
        """Lay the cable of host ``number`` over a router that translates addresses, and let SSH through to the host.

        Args:
            number: The host's number.
            pid: A process in the host's network namespace.
            router: A process in an empty network namespace.
            inner: The network between the two; the host gets its second address.
        """
        port, own = self._port(number), str(inner[2])
        self._inside("ip", "link", "delete", port, check=False)
        peer = ("peer", "name", "outer", "address", self._mac(number), "netns", str(router))
        self._inside("ip", "link", "add", port, "type", "veth", *peer)
        self._plug(port)
        outside, inside = (("nsenter", f"--target={each}", "--net", "--") for each in (router, pid))
        call(*outside, "ip", "link", "add", "inner", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        for enter, interface, address in (
            (outside, "outer", f"{self.address(number)}/24"),
            (outside, "inner", f"{inner[1]}/{inner.prefixlen}"),
            (inside, "eth0", f"{own}/{inner.prefixlen}"),
        ):
            call(*enter, "ip", "address", "add", address, "dev", interface)
            call(*enter, "ip", "link", "set", interface, "up")
        call(*inside, "ip", "route", "add", "default", "via", str(inner[1]))
        call(*outside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        nat = (*outside, "iptables", "--wait", "-t", "nat")
        call(*nat, "-A", "POSTROUTING", "-o", "outer", "-j", "MASQUERADE")
        call(*nat, "-A", "PREROUTING", "-i", "outer", "-p", "tcp", "--dport", "22", "-j", "DNAT", "--to", own)

    def isolate(self, number: int, *, isolated: bool) -> None:
        """Let the port of host ``number`` talk to no other isolated port."""
        self._inside("bridge", "link", "set", "dev", self._port(number), "isolated", "on" if isolated else "off")

    @property
    def enter(self) -> tuple[str, ...]:
        """Beginning of a command line that runs in the bridge's network namespace.

        Raises:
            RigError: the switch is off.
        """
        if self._holder is None:
            raise RigError("the switch is off")
        return ("nsenter", f"--target={self._holder.pid}", "--net", "--")

    def down(self) -> None:
        """Remove everything."""
        if self.leg:
            call("ip", "link", "delete", self.leg, check=False)
            self.leg = ""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait(timeout=60)
            if self._holder.stdout is not None:
                self._holder.stdout.close()
            self._holder = None

    def _mac(self, number: int) -> str:
        """A machine keeps its hardware address when it restarts, and its neighbours rely on that."""
        return f"02:00:{self.subnet[number].packed.hex(':')}"

    def _port(self, number: int) -> str:
        return f"port{number}"

    def _plug(self, port: str) -> None:
        self._inside("ip", "link", "set", "dev", port, "master", "br0", "up")

    def _inside(self, *argv: str, check: bool = True) -> None:
        call(*self.enter, *argv, check=check)

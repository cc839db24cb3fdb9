"""The rig: real hosts on one machine, each with its own network, sshd and Docker engine.

    with Rig(hosts=3) as rig:
        rig.hosts[0].docker("ps")
        rig.ssh("h1", "hostname")

Everything belongs to the process that made it and ends with it, also when it is killed. Nothing outside the rig's own
namespaces and its /24 is reached: the hosts have no default route.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from tests.rig.image import TrainerImage
from tests.rig.layers import link_image
from tests.rig.leftovers import Claim
from tests.rig.machine import LOGIN_USER, Machine, call, hold_namespaces, wait_for, wait_ready
from tests.rig.network import Switch
from tests.rig.places import RigError, cache_folder

_SSHD_CONFIG = """\
Port 22
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""
_CONFIG = "/etc/ssh/sshd_config"
_NO_BRIDGE = ("--bridge=none", "--iptables=false", "--ip-masq=false")


class RigHost(Machine):
    """One host: a machine with an address, an sshd on port 22 and a Docker engine."""

    def __init__(
        self,
        rig_id: str,
        number: int,
        folder: Path,
        switch: Switch,
        engine_options: Sequence[str],
        image: TrainerImage | None = None,
    ) -> None:
        super().__init__(rig_id, f"h{number}", folder, layers=image.data_root if image else None)
        self.number = number
        self._switch = switch
        self._engine_options = tuple(engine_options)
        self.fingerprint = ""
        """Fingerprint of the host key, ``SHA256:…``."""

    @property
    def address(self) -> str:
        """The host's IPv4 address on ``eth0``."""
        return self._switch.address(self.number)

    def install_keys(self, authorized: Path) -> str:
        """Make the host's key, let the client's in, and return the line for known_hosts."""
        folder = self.folder / "etc/ssh"
        key = folder / "ssh_host_ed25519_key"
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        (folder / "authorized_keys").write_text(authorized.read_text())
        (folder / "authorized_keys").chmod(0o644)
        (folder / "sshd_config").write_text(_SSHD_CONFIG.format(address=self.address))
        self.fingerprint = call("ssh-keygen", "-l", "-f", f"{key}.pub").stdout.split()[1]
        return f"{self.address} {key.with_suffix('.pub').read_text().strip()}\n"

    def start_services(self) -> None:
        """Plug in the network and start sshd and dockerd; ``wait_services`` tells when they answer."""
        self._switch.connect(self.number, self.holder)
        self.start_ssh()
        self.start_engine()

    def engine_command(self, *options: str) -> tuple[str, ...]:
        return super().engine_command(*self._engine_options, *options)

    def start_ssh(self) -> None:
        """Start sshd."""
        self.start_daemon(["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config"], "sshd.log")

    def wait_services(self) -> None:
        """Return when sshd listens and the engine answers.

        Raises:
            RigError: one does not, with the end of its log.
        """
        wait_for(
            lambda: "Server listening" in self.log("sshd.log"),
            f"sshd of {self.name}",
            detail=lambda: self.log("sshd.log"),
        )
        self.wait_engine()

    def restart(self) -> None:
        """Cut the power and boot again: containers are dead, Docker's data is still there."""
        self.power_off()
        self.power_on()
        self.wait_on()
        self.start_services()
        self.wait_services()

    def kill_connections(self) -> None:
        """Kill every SSH connection of this host; new ones are accepted."""
        self.run("pkill", "-KILL", "-f", "^sshd: (root|trainer)", check=False)

    def iptables(self, *argv: str) -> None:
        """Change the host's packet filter, for example ``"-A", "INPUT", "-s", "10.77.0.1", "-j", "DROP"``."""
        self.run("iptables", "--wait", *argv)

    @contextmanager
    def behind_nat(self, inner: str) -> Iterator[tuple[str, ...]]:
        """Put the host into a network of its own (such as ``198.19.3.0/24``) behind a router that translates addresses.

        SSH is let through, as for a virtual machine or WSL 2 in NAT mode. The value is the command line that runs a
        command on the router.
        """
        network = ipaddress.IPv4Network(inner)
        router = hold_namespaces(self.rig_id, "--net", "--", "sh", "-c", "echo ready && exec sleep infinity")
        try:
            wait_ready(router, "the router")
            self._switch.connect_behind(self.number, self.holder, router.pid, network)
            self.run("sh", "-c", f"cat >{_CONFIG}", input=_SSHD_CONFIG.format(address=network[2]))
            self._restart_ssh()
            yield ("nsenter", f"--target={router.pid}", "--net", "--")
        finally:
            router.kill()
            router.wait(timeout=60)
            assert router.stdout is not None
            router.stdout.close()
            self._switch.connect(self.number, self.holder)
            self.run("sh", "-c", f"cat >{_CONFIG}", input=_SSHD_CONFIG.format(address=self.address))
            self._restart_ssh()

    def _restart_ssh(self) -> None:
        self.kill_connections()
        self.run("pkill", "-f", "^(sshd: )?/usr/sbin/sshd -D", check=False)
        listening = "ss -Hltn 'sport = :22' | grep -q ."
        self.run("sh", "-c", f"while {listening}; do sleep 0.02; done")
        self.start_ssh()
        self.run("sh", "-c", f"until {listening}; do sleep 0.02; done")

    def isolate(self, *, isolated: bool) -> None:
        """Keep the host from every other isolated one, as guest networks and access points do."""
        self._switch.isolate(self.number, isolated=isolated)

    def link_down(self) -> None:
        """Pull the network cable."""
        self._switch.cable(self.number, plugged=False)

    def link_up(self) -> None:
        """Plug the network cable in again."""
        self._switch.cable(self.number, plugged=True)

    def tbf(self, rate: str) -> None:
        """Limit what the host sends, for example ``100mbit``; an empty string lifts the limit."""
        if not rate:
            self.run("tc", "qdisc", "delete", "dev", "eth0", "root")
            return
        self.run(
            "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32kb", "latency", "50ms"
        )

    def heal(self) -> None:
        """Take back every fault and remove every container."""
        if not self.running:
            self.restart()
        self.link_up()
        self.iptables("--flush")
        self.run("tc", "qdisc", "delete", "dev", "eth0", "root", check=False)  # fails where no limit is set
        if not self.engine_answers():
            self.start_engine()
            self.wait_engine()
        if left := self.containers():
            self.docker("rm", "--force", "--volumes", *left)

    def set_cpu_quota(self, container: str, cpus: float) -> None:
        """Limit a container to ``cpus`` cores, while it runs."""
        self.docker("update", f"--cpus={cpus:g}", container)

    def containers(self, *filters: str) -> list[str]:
        """Return the names of all containers, also ended ones, that pass filters such as ``label=hetero-tui.run``."""
        chosen = [f"--filter={one}" for one in filters]
        return sorted(self.docker("ps", "--all", "--format={{.Names}}", *chosen).split())


class Rig:
    """``hosts`` hosts named h1, h2, … on one bridge. A context manager."""

    def __init__(self, hosts: int = 3, *, image: TrainerImage | None = None, bridge: bool = False) -> None:
        """Describe a rig; entering it builds it.

        Args:
            hosts: How many, up to 200.
            image: Image every host has from the start.
            bridge: Give the engines Docker's default bridge, with address translation.
        """
        if not 1 <= hosts <= 200:
            raise RigError(f"a rig has 1 to 200 hosts, not {hosts}")
        self._count = hosts
        self._image = image
        self._engine_options = () if bridge else _NO_BRIDGE
        self._claim: Claim | None = None
        self._in_use = ExitStack()
        self._previous: dict[signal.Signals, signal.Handlers | object] = {}
        self.hosts: tuple[RigHost, ...] = ()
        self.switch = Switch("")

    @property
    def id(self) -> str:
        """Name that everything of this rig carries."""
        return self._owned.id

    @property
    def folder(self) -> Path:
        """The rig's temporary folder."""
        return self._owned.folder

    @property
    def _owned(self) -> Claim:
        if self._claim is None:
            raise RigError("the rig is not up")
        return self._claim

    @property
    def image(self) -> str:
        """Reference of the image every host has."""
        if self._image is None:
            raise RigError("this rig was made without an image")
        return self._image.reference

    @property
    def identity_file(self) -> Path:
        """Private key that every host accepts, for root and for the unprivileged user."""
        return self.folder / "client/id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """known_hosts with every host's key."""
        return self.folder / "client/known_hosts"

    @property
    def ssh_config(self) -> Path:
        """Client configuration in which the hosts go by their names."""
        return self.folder / "client/config"

    def host(self, name: str) -> RigHost:
        """Return the host called ``name``.

        Raises:
            RigError: no such host.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise RigError(f"the rig has no host {name}")

    def __enter__(self) -> Self:
        self._claim = Claim(cache_folder())
        self._guard()
        try:
            if self._image is not None:
                self._in_use.enter_context(self._image.in_use())
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _build(self) -> None:
        self.switch = Switch(self.id)
        self.switch.up()
        self.hosts = tuple(
            RigHost(self.id, number, self.folder / f"h{number}", self.switch, self._engine_options, self._image)
            for number in range(1, self._count + 1)
        )
        client = self.folder / "client"
        client.mkdir(mode=0o700)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.id, "-f", str(self.identity_file))
        lines = []
        for host in self.hosts:
            host.prepare()
            lines.append(host.install_keys(self.identity_file.with_suffix(".pub")))
            if self._image is not None:
                link_image(self._image.data_root, self._image.reference, host.data_root)
            host.power_on()
        self.known_hosts.write_text("".join(lines))
        self.ssh_config.write_text(self._client_config())
        for host in self.hosts:
            host.wait_on()
            host.start_services()
        for host in self.hosts:
            host.wait_services()

    def _client_config(self) -> str:
        common = [
            f"IdentityFile {self.identity_file}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            "BatchMode yes",
            "ConnectTimeout 5",
        ]
        lines = []
        for host in self.hosts:
            lines += [f"Host {host.name}", f"HostName {host.address}", f"User {LOGIN_USER}", *common]
        return "\n".join(lines) + "\n"

    def ssh(
        self, name: str, command: str, *, user: str = LOGIN_USER, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host through OpenSSH's client.

        Raises:
            RigError: it failed, with what it said.
        """
        return call("ssh", "-F", str(self.ssh_config), "-l", user, name, command, check=check)

    def close(self) -> None:
        """Remove the rig: processes, network, cgroups and files. Harmless when it is already gone."""
        if self._claim is None:
            return
        for host in self.hosts:
            host.power_off()
        self.switch.down()
        self._claim.release()
        self._claim = None
        self._in_use.close()
        self.hosts = ()
        atexit.unregister(self.close)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _guard(self) -> None:
        """Clean up, too, when the process is told to end. Ctrl-C unwinds the ``with`` by itself."""
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._end) or signal.SIG_DFL

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.close()  # puts the previous handler back, which then gets the signal
        os.kill(os.getpid(), number)

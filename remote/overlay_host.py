"""Raises the overlay on its hosts and takes it down again.

Keys are made on the hosts: the private one never leaves its host, the public ones are exchanged over SSH, so whoever
answers in the overlay is a host whose key SSH has verified.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeVar

from remote.errors import OverlayError, RemoteError
from remote.overlay import PREFIX, Overlay
from remote.runner import Runner
from remote.text import one_line, printable

SHAKE_SECONDS: Final = 12
"""A handshake that was lost is tried again after 5 s: https://www.wireguard.com/papers/wireguard.pdf, section 6.1."""
STEP_SECONDS: Final = 30.0
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_LABEL: Final = "hetero-tui cluster="
_LOOK: Final = f"cat /sys/class/net/{PREFIX}*/ifalias 2>/dev/null || true"
_T = TypeVar("_T")


class NoHandshake(OverlayError):
    """Some hosts and the hub do not reach each other."""


@dataclass(frozen=True, slots=True)
class Available:
    """What a host has of what WireGuard needs."""

    tools: bool = False
    """The program ``wg``."""
    kernel: bool = False
    """The kernel's module is loaded or can be."""
    userspace: bool = False
    """The program ``wireguard-go``."""
    tun: bool = False
    """``/dev/net/tun``, which wireguard-go needs."""
    ip: bool = False
    """The program ``ip``."""
    port_taken: bool = False
    """A program that is none of ours listens on the UDP port."""

    @property
    def usable(self) -> bool:
        """Whether an overlay can be made with it."""
        return self.tools and self.ip and (self.kernel or (self.userspace and self.tun))


@dataclass(frozen=True, slots=True)
class Raised:
    """An overlay that is up."""

    overlay: Overlay
    kinds: Mapping[str, str]
    """By host: ``kernel`` or ``userspace``."""
    relayed: frozenset[tuple[str, str]]
    """Pairs whose packets the hub passes on, for they cannot reach each other."""


async def look(runner: Runner, port: int) -> Available:
    """Ask what a host has. Nothing is changed, and no root is needed.

    Args:
        runner: the host's connection.
        port: UDP port the overlay would use.

    Raises:
        RemoteError: it could not be asked.
    """
    done = await runner.run(f"exec /bin/sh -s -- look {port:d}", input=_script(), timeout=STEP_SECONDS)
    said = {tuple(line.split()) for line in done.check().stdout.splitlines()}
    tools, kernel, userspace, tun, ip = (
        (word, "yes") in said for word in ("tools", "kernel", "userspace", "tun", "ip")
    )
    return Available(tools, kernel, userspace, tun, ip, port_taken=("port", "taken") in said)


async def raise_overlay(
    overlay: Overlay,
    runners: Mapping[str, Runner],
    *,
    living: Mapping[str, Collection[str]] | None = None,
    seconds: int = SHAKE_SECONDS,
    report: Callable[[str, str], None] = lambda _host, _what: None,
) -> Raised:
    """Make the overlay, and return once every host has proven to every other that it is the one it should be.

    What a dead run of the cluster has left is removed first. When it fails, nothing stays.

    Args:
        overlay: what to make.
        runners: the connection of every host in it.
        living: by host, the runs of the cluster whose overlay must stay.
        seconds: how long to wait for the handshakes of a round.
        report: told what is done on which host.

    Raises:
        OverlayError: a host could not do its part, or two hosts reach each other neither directly nor over the hub.
    """
    names = [each.host for each in overlay.hosts]
    hosts = {name: _OverlayHost(overlay, name, runners[name]) for name in names}
    kept = living or {}
    try:
        await _all(hosts, lambda host: host.sweep(kept.get(host.name, ())))
        await _all(hosts, lambda host: host.up(report))
        keys = {name: host.key for name, host in hosts.items()}
        _refuse_same_keys(keys)
        await _all(hosts, lambda host: host.peers(keys))
        met = await _meet(hosts, seconds)
        apart = frozenset(pair for pair in overlay.pairs() if pair not in met)
        if apart:
            await _relay(overlay, hosts, apart, met, report)
    except BaseException:
        await _undo(overlay, runners)
        raise
    return Raised(overlay, {name: host.kind for name, host in hosts.items()}, apart)


def _refuse_same_keys(keys: Mapping[str, str]) -> None:
    """Refuse that a host names another one's key as its own, which would lead to it what is meant for the other.

    Raises:
        OverlayError: two hosts gave the same key.
    """
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if (other := owners.setdefault(key, name)) != name:
            raise OverlayError(
                f"it gave the same WireGuard key as {other}",
                host=name,
                next_step="each run makes new keys on each host: find out what runs as root on the two",
            )


@asynccontextmanager
async def trial(
    overlay: Overlay, runners: Mapping[str, Runner], living: Mapping[str, Collection[str]]
) -> AsyncIterator[Raised]:
    """Raise an overlay as ``raise_overlay`` does and take it down at the end, whatever happens meanwhile."""
    raised = await raise_overlay(overlay, runners, living=living)
    try:
        yield raised
    finally:
        await _undo(overlay, runners)


async def take_down(
    runners: Mapping[str, Runner],
    cluster: str,
    *,
    overlay: str = "",
    living: Mapping[str, Collection[str]] | None = None,
) -> Mapping[str, str]:
    """Take down one overlay, or all of a cluster's that belong to no living run. Repeating it does no harm.

    Args:
        runners: by host name.
        cluster: whose overlays.
        overlay: interface of the one; all when empty.
        living: by host, the runs whose overlay must stay.

    Returns:
        The hosts where something is left, with the reason.
    """
    left: dict[str, str] = {}

    async def one(name: str, runner: Runner) -> None:
        try:
            await _down(runner, cluster, overlay, (living or {}).get(name, ()))
        except (RemoteError, TimeoutError, OSError) as error:
            left[name] = one_line(error)

    await asyncio.gather(*(one(name, runner) for name, runner in runners.items()))
    return dict(sorted(left.items()))


async def _down(runner: Runner, cluster: str, interface: str, living: Collection[str]) -> None:
    # Without root, so that hosts with nothing to remove need none.
    done = await runner.run(f"ls /sys/class/net 2>/dev/null; {_LOOK}", timeout=STEP_SECONDS)
    lines = done.stdout.splitlines()
    if any(line.startswith(f"{_label(cluster)} ") for line in lines) or (interface and interface in lines):
        await _as_root(runner, "taking the overlay down", "down", _label(cluster), interface or "-", *living)


@dataclass(slots=True)
class _OverlayHost:
    """One host while the overlay is made."""

    overlay: Overlay
    name: str
    runner: Runner
    key: str = ""
    kind: str = ""

    async def sweep(self, living: Collection[str]) -> None:
        await _down(self.runner, self.overlay.cluster, "", living)

    async def up(self, report: Callable[[str, str], None]) -> None:
        overlay = self.overlay
        place = overlay.host(self.name)
        label = f"{_label(overlay.cluster)} run={overlay.run_id}"
        address = f"{place.address}/{overlay.network.partition('/')[2]}"
        words = (overlay.interface, address, str(overlay.mtu), str(overlay.port), label)
        said = await _as_root(self.runner, "setting up the overlay", "up", *words)
        found = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
        self.key, self.kind = found.get("key", ""), found.get("kind", "")
        if not _KEY.fullmatch(self.key) or self.kind not in ("kernel", "userspace"):
            raise OverlayError(f"setting up the overlay gave no key but: {printable(said)[:200]}", host=self.name)
        how = "the kernel's WireGuard" if self.kind == "kernel" else "wireguard-go"
        report(self.name, f"overlay {place.address} on {overlay.interface}, {how}")

    async def peers(self, keys: Mapping[str, str]) -> None:
        port = self.overlay.port
        words: list[str] = []
        for each in self.overlay.hosts:
            if each.host != self.name:
                endpoint = f"[{each.endpoint}]:{port}" if ":" in each.endpoint else f"{each.endpoint}:{port}"
                words += [keys[each.host], endpoint, f"{each.address}/32"]
        await _as_root(self.runner, "naming the peers", "peers", self.overlay.interface, *words)

    async def shake(self, seconds: int) -> frozenset[str]:
        """Say hello to all peers and return the keys of those that have answered."""
        said = await _as_root(
            self.runner, "greeting the peers", "shake", self.overlay.interface, str(seconds), patience=float(seconds)
        )
        words = (line.split() for line in said.splitlines())
        return frozenset(word[1] for word in words if len(word) == 3 and word[0] == "shaken" and word[2] != "0")

    async def via(self, keys: Mapping[str, str], others: Sequence[str]) -> None:
        """Reach some hosts over the hub."""
        overlay = self.overlay
        allowed = ",".join(f"{overlay.host(each).address}/32" for each in (overlay.hub, *others))
        words = (overlay.interface, keys[overlay.hub], allowed, *(keys[each] for each in others))
        await _as_root(self.runner, "going over the hub", "via", *words)

    async def pass_on(self) -> None:
        """Let packets from one peer pass on to another."""
        await _as_root(self.runner, "passing packets on", "pass", self.overlay.interface)


async def _meet(hosts: Mapping[str, _OverlayHost], seconds: int) -> frozenset[tuple[str, str]]:
    """Return the pairs, in the order of the overlay, of which both sides have answered each other."""
    answered = await _all(hosts, lambda host: host.shake(seconds))
    overlay = next(iter(hosts.values())).overlay
    keys = {name: host.key for name, host in hosts.items()}
    return frozenset(
        (one, other) for one, other in overlay.pairs() if keys[other] in answered[one] and keys[one] in answered[other]
    )


async def _relay(
    overlay: Overlay,
    hosts: Mapping[str, _OverlayHost],
    apart: Collection[tuple[str, str]],
    met: Collection[tuple[str, str]],
    report: Callable[[str, str], None],
) -> None:
    """Lead the pairs that did not meet over the hub.

    Raises:
        NoHandshake: a host did not meet the hub either.
    """
    lost = sorted(
        name
        for name in hosts
        if name != overlay.hub and (overlay.hub, name) not in met and (name, overlay.hub) not in met
    )
    if lost:
        named = ", ".join(lost)
        raise NoHandshake(
            f"no handshake between {overlay.hub} and {named} over UDP {overlay.port} of "
            f"{overlay.host(overlay.hub).endpoint}",
            host=overlay.hub,
            next_step=f"let UDP {overlay.port} in on {overlay.hub}: in its firewall, and in its router if it has one",
        )
    keys = {name: host.key for name, host in hosts.items()}
    others: dict[str, list[str]] = {}
    for one, other in apart:
        others.setdefault(one, []).append(other)
        others.setdefault(other, []).append(one)
    await hosts[overlay.hub].pass_on()
    for name, through in others.items():
        report(name, f"reaches {', '.join(sorted(through))} over {overlay.hub}")
    await _all({name: hosts[name] for name in others}, lambda host: host.via(keys, sorted(others[host.name])))


async def _all(hosts: Mapping[str, _OverlayHost], act: Callable[[_OverlayHost], Awaitable[_T]]) -> dict[str, _T]:
    """Do something on every host at once; the first failure is raised when all have ended."""
    outcomes = await asyncio.gather(*(act(host) for host in hosts.values()), return_exceptions=True)
    found: dict[str, _T] = {}
    for name, outcome in zip(hosts, outcomes, strict=True):
        if isinstance(outcome, (TimeoutError, OSError)):
            raise OverlayError(f"the overlay could not be set up: {one_line(outcome)}", host=name) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
        found[name] = outcome
    return found


async def _undo(overlay: Overlay, runners: Mapping[str, Runner]) -> None:
    """Take back what may have been made, whatever cancels us meanwhile."""
    made = {each.host: runners[each.host] for each in overlay.hosts}
    undoing = asyncio.ensure_future(take_down(made, overlay.cluster, overlay=overlay.interface))
    while not undoing.done():
        try:
            await asyncio.shield(undoing)
        except asyncio.CancelledError:
            if undoing.cancelled():
                raise


async def _as_root(runner: Runner, what: str, *words: str, patience: float = 0.0) -> str:
    """Run a command of the script as root, or through ``sudo`` without a password, and return what it printed.

    Raises:
        OverlayError: it failed, with what it said.
        ConnectionDropped: the connection was lost meanwhile.
        TimeoutError: it did not end in time.
    """
    script = f"/bin/sh -s -- {shlex.join(words)}"
    line = f'if [ "$(id -u)" = 0 ]; then exec {script}; else exec sudo -n -- {script}; fi'
    done = await runner.run(line, input=_script(), timeout=STEP_SECONDS + patience)
    if done.exit_status == 0:
        return done.stdout
    said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.exit_status}").splitlines()[-1]
    raise OverlayError(
        f"{what} failed: {printable(said)[:300]}",
        host=runner.host,
        next_step='hetero-tui check tells what WireGuard lacks there; network.encryption = "none" does without',
    )


def _label(cluster: str) -> str:
    return f"{_LABEL}{cluster}"


def _script() -> bytes:
    return files("remote").joinpath("scripts", "overlay.sh").read_bytes()

"""How fast the checklist learns what the hosts are, against Ansible, pyinfra and parallel-ssh in the same run.

    python -m benchmarks.checklist [--quick] [--json FILE] [--only ID]

The peers ask ten questions; this program logs in and reads every fact of a host. All of them run as programs of their
own, from start to end, in turn, on the same OpenSSH servers on loopback: master and hosts share this machine's cores,
so what a host spends counts as much as what the master does. The median of the runs counts.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.checklist_peers import Peer, PeerError, install, peers
from benchmarks.checklist_targets import Targets, TargetsError, delay_proxy, openssh_targets
from benchmarks.report import Figure, Options, at_least, at_most, failed, main, measured, skipped

SIZES: Final = (16, 64)
GOALS: Final = {"ansible": 7.0, "pyinfra": 1.8, "parallel-ssh": 1.8}
ROUNDS: Final = {16: 5, 64: 3}
MANY: Final = 256
ROUND_TRIP: Final = 0.05
DELAYED_HOSTS: Final = 4
DEAD_TIMEOUT: Final = 3.0
OURS_SECONDS: Final = 300
OTHER_FIGURES: Final = (
    "hosts_256_errors",
    "seconds_256",
    "delay_50ms_seconds_per_host",
    "dead_host_cost",
    "dead_host_delays_others",
)

Entry = Mapping[str, Any]
"""Fields of a ``remote.ssh_login.Target``."""


class OursError(Exception):
    """This program's part did not work; the message says why."""


def figures(options: Options) -> Iterator[Figure]:
    """Measure everything; what is not wanted is not run."""
    sizes = SIZES[:1] if options.quick else SIZES
    versus = [(_id(name, size), size) for size in sizes for name in GOALS]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hetero-checklist-")))
        try:
            targets = stack.enter_context(openssh_targets(folder, max(sizes)))
        except (TargetsError, OSError) as error:
            yield from (skipped(figure, str(error), "x") for figure, _ in versus)
            yield from (skipped(figure, str(error)) for figure in OTHER_FIGURES)
            return
        wanted = [size for size in sizes if any(options.wants(figure) for figure, each in versus if each == size)]
        if wanted:
            yield from _versus_peers(targets, folder, wanted, options)
        if options.wants("delay_50ms_seconds_per_host"):
            yield _delayed(targets)
        if options.wants("dead_host_cost", "dead_host_delays_others"):
            yield from _dead_host(targets)
    if options.wants("hosts_256_errors", "seconds_256"):
        yield from _many(32 if options.quick else MANY)


def _id(peer: str, size: int) -> str:
    return f"vs_{peer.replace('-', '_')}_{size}"


def entry(targets: Targets, address: str, **changes: Any) -> dict[str, Any]:
    """Return where to log in to for one of the targets."""
    host = {
        "label": f"t{address.rpartition('.')[2]}",
        "address": address,
        "port": targets.port,
        "user": targets.user,
        "identity_file": str(targets.identity_file),
        "pinned": targets.host_key,
        "jump": "none",
    }
    return host | changes


def run_ours(hosts: Sequence[Entry], *, connect_timeout: float = 30.0, errors: int = 0) -> tuple[float, dict[str, Any]]:
    """Run this program's part as a program of its own; return the seconds from start to end and what it found.

    Raises:
        OursError: it broke, or not all hosts but ``errors`` gave a complete set of facts.
    """
    asked = json.dumps({"targets": hosts, "connect_timeout": connect_timeout})
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.checklist_ours"],
        input=asked,
        capture_output=True,
        text=True,
        timeout=OURS_SECONDS,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise OursError(done.stderr[-400:])
    found: dict[str, Any] = json.loads(done.stdout)
    if found["complete"] != len(hosts) - errors:
        said = found["errors"][0] if found["errors"] else "facts are missing"
        raise OursError(f"{found['complete']} of {len(hosts)} hosts told their facts; {said}")
    return seconds, found


def _versus_peers(targets: Targets, folder: Path, sizes: Sequence[int], options: Options) -> Iterator[Figure]:
    try:
        programs = install(folder / "peers")
    except (PeerError, OSError, subprocess.TimeoutExpired) as error:
        yield from (skipped(_id(name, size), f"peers: {error}", "x") for size in sizes for name in GOALS)
        return
    for size in sizes:
        rivals = peers(programs, targets, size, folder / f"run-{size}")
        hosts = [entry(targets, address) for address in targets.addresses[:size]]
        yield from _race(size, hosts, rivals, 1 if options.quick else ROUNDS[size])


def _race(size: int, hosts: Sequence[Entry], rivals: Sequence[Peer], rounds: int) -> Iterator[Figure]:
    ours: list[float] = []
    theirs: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    broken: dict[str, str] = {}
    facts = 0
    for _ in range(rounds):
        for rival in rivals:
            try:
                seconds, found = run_ours(hosts)
            except (OursError, subprocess.TimeoutExpired) as error:
                yield from (failed(_id(each.name, size), str(error), "x") for each in rivals)
                return
            ours.append(seconds)
            facts = found["facts"]
            if rival.name in broken:
                continue
            try:
                theirs[rival.name].append(rival.run())
            except (PeerError, subprocess.TimeoutExpired) as error:
                broken[rival.name] = str(error)
    own = statistics.median(ours)
    for rival in rivals:
        figure = _id(rival.name, size)
        if rival.name in broken:
            yield skipped(figure, broken[rival.name], "x")
            continue
        other = statistics.median(theirs[rival.name])
        yield at_least(
            figure,
            other / own,
            GOALS[rival.name],
            anchor=f"{rival.name}, ten questions, in the same run: {other:.2f} s",
            note=f"ours {own:.2f} s with {facts} lines of facts a host; medians, process start included",
        )


def _delayed(targets: Targets) -> Figure:
    """Seconds a host costs at a round trip of 50 ms: from nothing to all facts, the median of a few at once."""
    figure = "delay_50ms_seconds_per_host"
    try:
        found = asyncio.run(_through_delay(targets))
    except (OursError, OSError, subprocess.TimeoutExpired) as error:
        return failed(figure, str(error), "s")
    seconds = statistics.median(found["each"])
    trips = f"{seconds / ROUND_TRIP:.1f} round trips of {ROUND_TRIP * 1e3:.0f} ms"
    return at_most(figure, seconds, 0.6, anchor=trips, note="login and all facts, through a proxy that holds data back")


async def _through_delay(targets: Targets) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        hosts = []
        for number, address in enumerate(targets.addresses[:DELAYED_HOSTS]):
            port = await stack.enter_async_context(delay_proxy(address, targets.port, ROUND_TRIP / 2))
            hosts.append(entry(targets, "127.0.0.1", label=f"d{number}", port=port))
        return (await asyncio.to_thread(run_ours, hosts))[1]


def _dead_host(targets: Targets) -> Iterator[Figure]:
    """One host that takes the connection and never says a word, among others that are well."""
    hosts = [entry(targets, address) for address in targets.addresses[: SIZES[0] - 1]]
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            dead = entry(targets, "127.0.0.1", label="dead", port=silent.getsockname()[1])
            _, alone = run_ours(hosts, connect_timeout=DEAD_TIMEOUT)
            _, beside = run_ours([dead, *hosts], connect_timeout=DEAD_TIMEOUT, errors=1)
    except (OursError, OSError, subprocess.TimeoutExpired) as error:
        yield from (failed(figure, str(error), "s") for figure in ("dead_host_cost", "dead_host_delays_others"))
        return
    cost = beside["each"][0] - DEAD_TIMEOUT
    yield at_most("dead_host_cost", cost, 0.5, anchor=f"beyond its own timeout of {DEAD_TIMEOUT:g} s")
    late = max(beside["each"][1:]) - max(alone["each"])
    yield at_most("dead_host_delays_others", late, 0.5, anchor=f"the same hosts without it: {max(alone['each']):.2f} s")


def _many(count: int) -> Iterator[Figure]:
    """As many embedded hosts as nobody has at home."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.checklist_embedded", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdin is not None
        assert server.stdout is not None
        hosts = json.loads(server.stdout.readline())
        _, found = run_ours(hosts, connect_timeout=120.0)
    except (OursError, ValueError, subprocess.TimeoutExpired) as error:
        yield from (failed(figure, str(error)) for figure in ("hosts_256_errors", "seconds_256"))
        return
    finally:
        server.communicate()
    note = f"{count} hosts inside one process, on the same cores"
    yield at_most("hosts_256_errors", len(found["errors"]), 0, "", anchor=f"of {count} hosts")
    yield measured("seconds_256", found["seconds"], "s", anchor="login and all facts", note=note)


if __name__ == "__main__":
    sys.exit(main("checklist", figures))

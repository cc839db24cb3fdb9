"""Runs ``remote/scripts/probe.py`` on every host at the same time, where the job will run, and reads the answers."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

from remote.checks.context import CheckContext, told
from remote.checks.model import Verdict
from remote.checks.network_report import (
    HostReport,
    LinkError,
    NetworkReport,
    PairLink,
    PairMatrix,
    PortBind,
    ProbeTimings,
)
from remote.errors import PlanError, RemoteError
from remote.facts import Facts
from remote.inventory import Inventory
from remote.runner import Completed

CANDIDATES = 3
"""Data ports offered for each host: the first that is free is taken."""
LEAST_WINDOW = 4.0
"""Seconds a probe that started late still dials."""
IN_CONTAINER = "/hetero/probe.py"
DATA = "data"
MASTER = "master"
MEMBERSHIP = "membership"
Ports = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host's probe runs."""

    host: str
    name: str
    """``container`` or ``host``."""
    address: str
    """Where the others dial it."""
    interface: str = ""
    python: str = "python3"
    image: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What all probes of one run have in common."""

    ports: Ports
    token: str
    """Proof that a listener belongs to this run."""
    until: float
    """When dialling ends, in seconds since the epoch on this machine's clock."""
    timings: ProbeTimings
    master: Place | None
    """None when nothing can run on the master."""
    master_port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe printed, with the times of its host's clock moved to this machine's."""

    place: Place
    report: HostReport
    dialled: tuple[Dialled, ...]
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Dialled:
    """What one dialler says of one peer."""

    target: str
    kind: str
    attempts: Mapping[int, Mapping[str, Any]]
    """Port → the last outcome there."""


def script() -> str:
    """The text of the probe: its two files as one, for there is nothing to import from where it runs."""
    scripts = files("remote").joinpath("scripts")
    line = scripts.joinpath("probe_line.py").read_text(encoding="utf-8")
    text = scripts.joinpath("probe.py").read_text(encoding="utf-8")
    return re.sub(r"^from remote\.scripts\.probe_line import .*$", lambda _: line, text, count=1, flags=re.MULTILINE)


async def probe_network(context: CheckContext, hosts: tuple[str, ...]) -> NetworkReport:
    """Let every host listen and dial all others; a host that cannot is in ``missing`` and delays nobody."""
    # The address and the interface of a host depend on what the master's facts say.
    await asyncio.gather(*(context.facts(host) for host in hosts), return_exceptions=True)
    found = await asyncio.gather(*(find_place(context, host) for host in hosts), return_exceptions=True)
    missing: dict[str, str] = {}
    places: list[Place] = []
    for host, place in zip(hosts, found, strict=True):
        match place:
            case Place():
                places.append(place)
            case Exception():
                missing[host] = told(place)
            case BaseException():
                raise place

    report = await _together(context, hosts, places, missing, context.timings)
    if not _apart(report):
        return report
    # A container that takes long to start the first time starts soon the second time; the longer dialling is for load.
    return await _together(context, hosts, places, missing, replace(context.timings, dial=2 * context.timings.dial))


async def _together(
    context: CheckContext,
    hosts: tuple[str, ...],
    places: Sequence[Place],
    unplaced: Mapping[str, str],
    timings: ProbeTimings,
) -> NetworkReport:
    missing = dict(unplaced)
    facts = {place.host: await context.facts(place.host) for place in places}
    job = Job(
        ports=choose_ports(context.inventory, facts),
        token=secrets.token_hex(16),
        until=time.time() + timings.dial,
        timings=timings,
        master=next((place for place in places if context.is_master(place.host)), None),
        master_port=context.inventory.cluster.port,
    )
    configs = {each.host: configuration(job, each, places, facts[each.host].clock_offset) for each in places}
    runs = (_run(context, each, configs[each.host], timings.limit) for each in places)
    completed = await asyncio.gather(*runs, return_exceptions=True)
    answers: list[Answer] = []
    for place, outcome in zip(places, completed, strict=True):
        match outcome:
            case Completed():
                answer = read_answer(place, outcome.stdout, job.token, facts[place.host].clock_offset)
                if answer is None:
                    said = (outcome.stderr.strip() or outcome.stdout.strip() or "nothing")[-400:]
                    missing[place.host] = f"the probe exited {outcome.exit_status} and said: {said}"
                else:
                    answers.append(answer)
            case Exception():
                missing[place.host] = told(outcome)
            case BaseException():
                raise outcome
    return build_report(hosts, answers, missing, context.inventory.cluster.port)


def _apart(report: NetworkReport) -> bool:
    """Whether some pair was not tried only because one probe had ended before the other was there."""
    return any(
        report.hosts[target].data_ports and report.matrix.link(source, target) is None
        for source in report.hosts
        for target in report.hosts
        if source != target
    )


async def find_place(context: CheckContext, name: str) -> Place:
    """Decide where to listen: in the job's image, with the job's Python, or with the host's own.

    Raises:
        RemoteError: there is nothing on the host to listen with, or its address is not known.
    """
    host = context.host(name)
    facts = await context.facts(name)
    address = await context.address(name)
    if not address:
        raise RemoteError(
            "the address other ranks reach it at is not known",
            host=name,
            next_step="set train_address of the host in cluster.toml",
        )
    interface = await _interface(context, name)
    if host.runtime == "process":
        return Place(name, "host", address, interface, python=await context.python(name))
    image = context.findings.get(("image", name))
    try:
        if image is not None and image.verdict is Verdict.FAIL:
            reason = image.reason  # not there, or for another processor
        elif await context.image(name) is not None:
            return Place(name, "container", address, interface, image=await context.image_ref(name))
        else:
            reason = "the image is not on the host"
    except RemoteError as error:
        reason = told(error)
    if not facts.python:
        raise RemoteError(f"nothing to listen with: {reason}, and there is no python3 on the host", host=name)
    return Place(name, "host", address, interface, python=facts.python)


async def _interface(context: CheckContext, name: str) -> str:
    try:
        return await context.interface(name)
    except PlanError:
        return ""  # the check of the interface tells it; the network can be probed all the same


def choose_ports(inventory: Inventory, facts: Mapping[str, Facts]) -> Ports:
    """Pick candidate data ports for each host, no port twice: several hosts may be one machine.

    They lie in ``network.port_range``, else in the range from which the host's system gives Gloo its ports.
    """
    random = secrets.SystemRandom()
    taken = {inventory.cluster.port, inventory.cluster.port + 1}
    ports: dict[str, tuple[int, ...]] = {}
    for host, fact in facts.items():
        first, last = port_range(inventory.network.port_range) or fact.ephemeral_ports
        free = [port for port in range(first, last + 1) if port not in taken]
        # A narrow range is shared out so that every host gets at least one port of its own.
        wanted = min(CANDIDATES, max(1, (last - first + 1) // max(1, len(facts))))
        ports[host] = tuple(random.sample(free, min(wanted, len(free))))
        taken.update(ports[host])
    return ports


def port_range(text: str) -> tuple[int, int] | None:
    """Read ``29900-29950``; None when the text is empty or not a range."""
    first, dash, last = text.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        return None
    return int(first), int(last)


def configuration(job: Job, place: Place, places: Sequence[Place], clock_offset: float) -> dict[str, Any]:
    """The argument of one host's probe; durations are in seconds, ``until`` is on that host's clock."""
    others = [each for each in places if each.host != place.host]
    is_master = job.master is not None and job.master.host == place.host
    peers = [
        {"name": each.host, "kind": DATA, "address": each.address, "ports": list(job.ports[each.host])}
        for each in others
    ]
    expect = [[each.host, DATA] for each in others]
    if is_master:
        expect += [[each.host, kind] for each in others for kind in _master_kinds(job)]
    elif job.master is not None:
        master = {"name": job.master.host, "address": job.master.address}
        peers += [{**master, "kind": kind, "ports": [port]} for kind, port in _master_kinds(job).items()]
    looked_up = others[:1] if is_master or job.master is None else [job.master]
    return {
        "name": place.host,
        "token": job.token,
        "ports": list(job.ports[place.host]),
        "master_port": job.master_port if is_master else 0,
        "membership_port": _master_kinds(job).get(MEMBERSHIP, 0) if is_master else 0,
        "interface": place.interface,
        "reverse": looked_up[0].address if looked_up else "",
        "peers": peers,
        "expect": expect,
        "until": job.until + clock_offset,
        "least": min(LEAST_WINDOW, job.timings.dial),
        "patience": job.timings.lookup,
        "loaded": [DATA],
        "enough": job.timings.enough(len(places)),
        **_durations(job.timings),
    }


def _master_kinds(job: Job) -> dict[str, int]:
    """The ports the master listens on besides its data port: the rendezvous, and where ranks join and leave."""
    membership = {MEMBERSHIP: job.master_port + 1} if job.master_port < 65535 else {}
    return {MASTER: job.master_port, **membership}


def _durations(timings: ProbeTimings) -> dict[str, float | int]:
    return {
        "dial": timings.dial,
        "linger": timings.linger,
        "connect": timings.connect,
        "stall": timings.stall,
        "transfer": timings.transfer,
        "load": timings.load,
        "payload": timings.payload,
    }


async def _run(context: CheckContext, place: Place, config: Mapping[str, Any], limit: float) -> Completed:
    argument = json.dumps(config)
    if place.name == "container":
        engine = await context.engine(place.host)
        files = {IN_CONTAINER: script().encode()}
        return await engine.run_once(place.image, ("python3", IN_CONTAINER, argument), files=files, timeout=limit)
    command = f"exec {shlex.quote(place.python)} - {shlex.quote(argument)}"
    return await context.runner(place.host).run(command, input=script().encode(), timeout=limit)


_PORT: Final = re.compile(r"[0-9]{1,5}")


def read_answer(place: Place, output: str, token: str, clock_offset: float) -> Answer | None:
    """Find the probe's line among whatever else the host printed, and believe only what has the right shape.

    Returns:
        None when the line is missing, broken, or of another run.
    """
    line = next((each for each in reversed(output.splitlines()) if each.startswith('{"hetero_probe"')), "")
    try:
        payload = json.loads(line) if line else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict) or payload.get("token") != token:
        return None
    started, ended = _number(payload.get("started")), _number(payload.get("ended"))
    if started is None or ended is None:
        return None
    links = _items(payload.get("links"))
    dialled = tuple(each for entry in links if (each := _dialled(entry, clock_offset)) is not None)
    return Answer(place, host_report(place, payload), dialled, started - clock_offset, ended - clock_offset)


def _dialled(entry: object, clock_offset: float) -> Dialled | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("attempts"), dict):
        return None
    attempts = {
        int(port): outcome if (at := _number(outcome.get("at"))) is None else {**outcome, "at": at - clock_offset}
        for port, outcome in entry["attempts"].items()
        if _PORT.fullmatch(port) and isinstance(outcome, dict)
    }
    return Dialled(str(entry.get("to")), str(entry.get("kind")), attempts)


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def build_report(
    hosts: tuple[str, ...], answers: Sequence[Answer], missing: Mapping[str, str], master_port: int
) -> NetworkReport:
    """Put the hosts' answers together: each dialler's result is read with what the dialled host says it bound."""
    by_host = {answer.place.host: answer for answer in answers}
    links: dict[tuple[str, str], PairLink] = {}
    master_links: dict[str, PairLink] = {}
    membership_links: dict[str, PairLink] = {}
    for source in answers:
        for dialled in source.dialled:
            target = by_host.get(dialled.target)
            if target is None or not _overlap(source, target):
                continue
            bound = _bound(target.report, dialled.kind)
            link = pair_link(source.place, target.place, dialled, bound)
            if link is None or _too_early(dialled.attempts[link.port], target):
                continue
            if dialled.kind == DATA:
                links[link.source, link.target] = link
            else:
                (master_links if dialled.kind == MASTER else membership_links)[link.source] = link
    return NetworkReport(
        hosts={answer.place.host: answer.report for answer in answers},
        missing=dict(missing),
        matrix=PairMatrix(hosts, links),
        master_links=master_links,
        master_port=master_port,
        membership_links=membership_links,
    )


def _overlap(source: Answer, target: Answer) -> bool:
    """Whether the dialler was still trying when the listener came up."""
    return target.started < source.ended


def _too_early(outcome: Mapping[str, Any], target: Answer) -> bool:
    """Whether the last attempt failed before the listener was there: on a busy host a probe starts late."""
    at = _number(outcome.get("at"))
    return bool(outcome.get("error")) and at is not None and at < target.started


def _bound(report: HostReport, kind: str) -> tuple[int, ...]:
    """The ports of that kind the host really listened on."""
    if kind == DATA:
        return report.data_ports
    bind = report.master_bind if kind == MASTER else report.membership_bind
    return (bind.port,) if bind is not None and not bind.error else ()


def pair_link(source: Place, target: Place, dialled: Dialled, bound: tuple[int, ...]) -> PairLink | None:
    """What one dialler says of one peer; None when the peer could not listen, so nothing was proven."""
    port = next((port for port in bound if port in dialled.attempts), None)
    if port is None:
        return None
    outcome = dialled.attempts[port]
    error = outcome.get("error")
    return PairLink(
        source=source.host,
        target=target.host,
        address=target.address,
        port=port,
        round_trip=_number(outcome.get("round_trip")),
        sent_bytes_per_second=_number(outcome.get("sent")),
        received_bytes_per_second=_number(outcome.get("received")),
        moved_bytes=None if (moved := _number(outcome.get("moved"))) is None else int(moved),
        seen_as=str(outcome.get("seen") or "")[:100],
        error=None if not error else LinkError(error) if error in tuple(LinkError) else LinkError.CLOSED,
        detail=str(outcome.get("detail") or "")[:400],
        seconds=_number(outcome.get("seconds")) or 0.0,
    )


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e15 else None  # also refuses NaN, infinity and integers beyond a float


def host_report(place: Place, payload: Mapping[str, Any]) -> HostReport:
    """Read what a probe said of its own place."""
    binds = tuple(bind for each in _items(payload.get("binds")) if (bind := _bind(each)) is not None)
    environment = payload.get("environment")
    return HostReport(
        host=place.host,
        place=place.name,
        python=str(payload.get("python") or "")[:40],
        data_ports=tuple(bind.port for bind in binds if not bind.error),
        binds=binds,
        master_bind=_bind(payload.get("master_bind")),
        membership_bind=_bind(payload.get("membership_bind")),
        interface_addresses=_texts(payload.get("interface_addresses")),
        hostname=str(payload.get("hostname") or "")[:100],
        hostname_addresses=_texts(payload.get("hostname_addresses")),
        reverse_seconds=_number(payload.get("reverse_seconds")),
        shared_memory=int(_number(payload.get("shared_memory")) or 0),
        open_files=int(_number(payload.get("open_files")) or 0),
        environment={str(name): str(value) for name, value in environment.items()}
        if isinstance(environment, dict)
        else {},
    )


def _bind(value: object) -> PortBind | None:
    if not isinstance(value, dict) or not isinstance(value.get("port"), int):
        return None
    return PortBind(value["port"], str(value.get("error") or "")[:400], bool(value.get("in_use")))


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(str(each)[:100] for each in value) if isinstance(value, list) else None

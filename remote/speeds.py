"""Where the numbers of a prediction come from: simulated speeds, a measurement before the launch, or the last run.

The newest measurement of the same model on the same devices counts. What a host is held down to on purpose needs no
measurement: it is in ``cluster.toml``, and labelled as simulated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

from remote.checks.network_report import PairMatrix
from remote.errors import PlanError
from remote.inventory import Inventory
from remote.plan_model import HostPlan, LaunchPlan
from remote.prediction import HostSpeed, Links, Mode
from remote.run_dir import RunDir, RunDirError, file_name, write_atomically
from trainer.errors import UNFIT
from trainer.events import Calibrated, decode
from trainer.model_sizes import gradient_bytes
from trainer.options import Options
from trainer.time_table import TimeTable

SPEEDS_FILE: Final = "speeds.json"
"""Measurements made before a launch, beside the runs of the cluster."""
_SCHEMA: Final = 1
_RUNS_BACK: Final = 5
_LINES_IN: Final = 5000
"""Ranks tell their calibration at the start of a run; further in nobody looks."""


class NotMeasured(PlanError):
    """Nothing can be predicted because the speed of some hosts is not known yet."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        super().__init__(
            f"the speed of {', '.join(hosts)} has not been measured yet",
            next_step="measure it: `hetero-tui check --measure`, or m in the prediction of the app",
        )
        self.hosts = hosts


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one host's ranks."""

    workload: str
    devices: tuple[str, ...]
    tables: tuple[tuple[tuple[int, float], ...], ...]
    """(micro-batch in samples, seconds), for each device."""
    at: float
    """Seconds since the epoch."""
    source: str

    def speed(self, host: str) -> HostSpeed:
        """Return it as a speed.

        Raises:
            trainer.time_table.PlanError: the tables hold no measurements.
        """
        return HostSpeed(host, tuple(TimeTable.measured(table) for table in self.tables), self.source, at=self.at)


def speeds_file(experiments: Path, cluster: str) -> Path:
    """Return where measurements of a cluster are kept."""
    return experiments / file_name(cluster) / SPEEDS_FILE


def read_speeds(path: Path) -> dict[str, Measured]:
    """Return the stored measurements by host; what is missing, damaged or of another version counts as none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    hosts = document.get("hosts") if isinstance(document, dict) and document.get("schema") == _SCHEMA else None
    found = {}
    for host, entry in hosts.items() if isinstance(hosts, dict) else ():
        measured = _read_entry(entry)
        if measured is not None:
            found[host] = measured
    return found


def _read_entry(entry: Any) -> Measured | None:
    try:
        tables = tuple(tuple((int(size), float(time)) for size, time in table) for table in entry["tables"])
        devices = tuple(str(each) for each in entry["devices"])
        found = Measured(str(entry["workload"]), devices, tables, float(entry["at"]), "measured before the launch")
        found.speed("")
    except UNFIT:
        return None
    return found


def write_speeds(path: Path, measured: Mapping[str, Measured]) -> None:
    """Keep measurements, over those of the same hosts."""
    hosts = {
        host: {"workload": each.workload, "devices": each.devices, "tables": each.tables, "at": each.at}
        for host, each in {**read_speeds(path), **measured}.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{json.dumps({'schema': _SCHEMA, 'hosts': hosts}, indent=1)}\n".encode())


def workload_of(host: HostPlan) -> str:
    """Return the built-in workload of a plan, or an empty string for a script."""
    argv = host.argv
    return next((value for name, value in pairwise(argv) if name == "--workload"), "")


def devices_of(host: HostPlan) -> tuple[str, ...]:
    """Return the devices of a host's ranks, in their order."""
    return tuple(rank.device for rank in host.ranks)


def speeds_of_runs(experiments: Path, plan: LaunchPlan) -> dict[str, Measured]:
    """Return what the ranks of earlier runs of this cluster measured of themselves, the newest of each host."""
    found: dict[str, Measured] = {}
    wanted = {host.host: (workload_of(host), devices_of(host)) for host in plan.hosts}
    for run_id in reversed(RunDir.run_ids(experiments, plan.cluster)[-_RUNS_BACK:]):
        missing = wanted.keys() - found.keys()
        if not missing:
            break
        try:
            run_dir = RunDir.open(experiments, plan.cluster, run_id)
            stored = {host.host: host for host in run_dir.read_plan().hosts}
        except RunDirError:
            continue  # damaged or from a version that kept less: older runs may still tell
        same = {
            name: stored[name]
            for name in missing
            if name in stored and (workload_of(stored[name]), devices_of(stored[name])) == wanted[name]
        }
        for host, measured in calibrations(run_id, same, run_dir).items():
            found.setdefault(host, measured)
    return found


def calibrations(run_id: str, hosts: Mapping[str, HostPlan], run_dir: RunDir) -> dict[str, Measured]:
    """Return the calibrations of those hosts of a run all of whose ranks told theirs."""
    told: dict[int, Calibrated] = {}
    for line in islice(run_dir.lines(), _LINES_IN):
        if '"calibrated"' in line.text and isinstance(event := _event(line.text), Calibrated) and event.table:
            told.setdefault(event.rank, event)
    found = {}
    for name, host in hosts.items():
        events = [told[rank.rank] for rank in host.ranks if rank.rank in told]
        if host.ranks and len(events) == len(host.ranks) and not host.simulated:
            tables = tuple(event.table for event in events)
            at = max(event.time for event in events)
            found[name] = Measured(workload_of(host), devices_of(host), tables, at, f"run {run_id}")
    return found


def _event(line: str) -> object:
    try:
        return decode(line)
    except ValueError:
        return None


def known_speeds(
    inventory: Inventory, plan: LaunchPlan, stored: Iterable[Mapping[str, Measured]]
) -> tuple[tuple[HostSpeed, ...], tuple[str, ...]]:
    """Return the speeds of the plan's hosts, and the hosts whose speed nobody has measured.

    Args:
        inventory: says which hosts are held down on purpose.
        plan: the ranks of each host.
        stored: measurements by host; the newest that fits counts.
    """
    sources = tuple(stored)
    speeds, missing = [], []
    for host in plan.hosts:
        held = inventory.host(host.host).simulated_samples_per_second
        if held is not None:
            tables = tuple(TimeTable.from_speed(held) for _ in host.ranks)
            speeds.append(HostSpeed(host.host, tables, "simulated in cluster.toml", simulated=True))
            continue
        wanted = (workload_of(host), devices_of(host))
        fitting = [each[host.host] for each in sources if host.host in each]
        fitting = [each for each in fitting if (each.workload, each.devices) == wanted and wanted[0]]
        if fitting:
            speeds.append(max(fitting, key=lambda each: each.at).speed(host.host))
        else:
            missing.append(host.host)
    return tuple(speeds), tuple(missing)


def links_of(matrix: PairMatrix | None) -> Links:
    """Return the connections as the network probe found them.

    Both ends of a pair measured each direction once; the quicker reading counts, for each is what the connection
    carried at the least.
    """
    if matrix is None:
        return Links({}, source="the network has not been probed")
    rates: dict[tuple[str, str], float] = {}
    round_trips: dict[tuple[str, str], float] = {}
    for (source, target), link in matrix.links.items():
        for pair, rate in (
            ((source, target), link.sent_bytes_per_second),
            ((target, source), link.received_bytes_per_second),
        ):
            if rate and math.isfinite(rate):
                rates[pair] = max(rates.get(pair, 0.0), rate)
        if link.round_trip:
            for pair in ((source, target), (target, source)):
                round_trips[pair] = min(round_trips.get(pair, math.inf), link.round_trip)
    return Links(rates, round_trips, "network probe of this checklist, one pair at a time")


def modes_of(inventory: Inventory) -> tuple[Mode, ...]:
    """Return the ways gradients can travel whose size is known, the gentlest first.

    Raises:
        PlanError: a script's model has no size that is known beforehand.
    """
    training = inventory.training
    size = gradient_bytes(training.workload or "", training.chosen_dataset or "")
    if size is None:
        raise PlanError(
            "a script of your own is not predicted: neither its model's size nor its shares are known beforehand"
        )
    half = "fp16" if training.communication == "fp16" else "bf16"
    steps = Options().local_steps
    return (
        Mode("exact", size.exact, 1, "exact"),
        Mode(half, size.exact / 2, 2, "rounded"),
        Mode("powersgd", size.powersgd, 2, "approximate"),
        Mode("local_sgd", size.exact / steps, 1 + 1 / steps, "approximate"),
    )

"""Real processes on this machine that speak like ranks, for tests of the launch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from remote.plan_contract import LABEL_CLUSTER
from remote.plan_model import HostPlan, LaunchPlan, RankPlan
from remote.progress import LaunchProgress

RUN = "20260101-120000-abcd"

AGENT = """
import json, os, pathlib, sys, time

def emit(rank, kind, **values):
    event = {"ht": 1, "kind": kind, "rank": rank, "seq": 0, "time": 0.0, **values}
    print(json.dumps(event, separators=(",", ":")), flush=True)

ranks = [int(each) for each in os.environ["HETERO_RANKS"].split(",")]
hello = {"host": os.environ["HETERO_HOST"], "world_size": int(os.environ["WORLD_SIZE"])}
hello |= {"device": "cpu", "backend": "gloo", "torch_version": "2.13.0+cpu"}
control = pathlib.Path(os.environ["HETERO_CONTROL"])

def wait_for_go():
    while not list(control.glob("*-go.json")):
        time.sleep(0.01)
"""
GOOD = """
for rank in ranks:
    emit(rank, "hello", **hello)
wait_for_go()
print("gone", flush=True)
time.sleep(1000)
"""


def host_plan(name: str, ranks: tuple[int, ...], world_size: int, script: str = GOOD) -> HostPlan:
    env = {"HETERO_RANKS": ",".join(map(str, ranks)), "WORLD_SIZE": str(world_size)}
    return HostPlan(
        host=name,
        runtime="process",
        ranks=tuple(RankPlan(rank, local, "cpu") for local, rank in enumerate(ranks)),
        container_name="",
        image="",
        argv=(sys.executable, "-c", AGENT + script),
        env=tuple(sorted(env.items())),
        labels=((LABEL_CLUSTER, "home"),),
    )


def launch_plan(scripts: Mapping[str, str], ranks_each: int = 1) -> LaunchPlan:
    """Return a plan with one host for each script, in order."""
    world_size = len(scripts) * ranks_each
    hosts = []
    for number, (name, script) in enumerate(scripts.items()):
        ranks = tuple(range(number * ranks_each, (number + 1) * ranks_each))
        hosts.append(host_plan(name, ranks, world_size, script))
    return LaunchPlan(
        run_id=RUN,
        cluster="home",
        master=next(iter(scripts)),
        master_address="127.0.0.1",
        master_port=29500,
        backend="gloo",
        world_size=world_size,
        hosts=tuple(hosts),
        global_batch=64,
        policy="equal",
    )


class Reports(list[LaunchProgress]):
    """Collects what a launch reports."""

    def __call__(self, progress: LaunchProgress) -> None:
        self.append(progress)

    def phases(self, host: str) -> list[str]:
        return [each.phase for each in self if each.host == host]


def run_folders(cache: Path) -> list[Path]:
    """Return what runs have left on this machine."""
    return sorted((cache / "hetero-tui" / "runs").glob("*/*"))


def living_agents() -> list[int]:
    """Return the processes that still carry the environment of the run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HETERO_RUN_ID={RUN}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found

"""A small recorded run, made of real events in the real recording, for tests of what reads recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hetero_tui.stored_runs import StoredRun
from remote.run_dir import Ended, RunDir
from remote.runtime import HostRunState, LogLine, State
from tests.unit.launching import launch_plan
from trainer.events import Done, Event, Hardware, Hello, Notice, Shares, Step, encode

BEGIN = 1_760_000_000.0
STEPS = 40
SPEEDS = (40.0, 20.0)
HOSTILE = "<script>alert(1)</script> [red]|x| \x1b[31m"


def stored_run(
    experiments: Path, run_id: str = "20260101-120000-abcd", *, policy: str = "dynamic", slower: float = 1.0
) -> StoredRun:
    """Record two ranks that train for forty steps of one second and return the run."""
    plan = replace(launch_plan({"pc": "", "laptop": ""}), run_id=run_id, policy=policy)
    with RunDir.create(experiments, plan.cluster, run_id) as run_dir:
        run_dir.write_plan(plan)
        for host in plan.hosts:
            devices = [[rank.rank, rank.device] for rank in host.ranks]
            run_dir.append_record({"at": BEGIN, "did": "expect", "host": host.host, "devices": devices})
        for number, (at, rank, event) in enumerate(_events(policy, slower)):
            run_dir.append(plan.hosts[rank].host, [LogLine(encode(event), str(number))], at)
        run_dir.append("pc", [LogLine(HOSTILE, "x")], BEGIN + 50)
        states = tuple(HostRunState(run_id, host.host, State.EXITED, exit_code=0) for host in plan.hosts)
        run_dir.write_ended(Ended(states))
        return StoredRun(RunDir(run_dir.path), plan)


def _events(policy: str, slower: float) -> list[tuple[float, int, Event]]:
    found: list[tuple[float, int, Event]] = []
    seq = [0, 0]

    def add(at: float, rank: int, event: Event) -> None:
        found.append((BEGIN + at, rank, replace(event, seq=seq[rank], time=BEGIN + at)))
        seq[rank] += 1

    for rank, host in enumerate(("pc", "laptop")):
        add(rank / 10, rank, Hello(rank=rank, host=host, device="cpu", device_name=HOSTILE, process_id=rank + 1))
    add(
        1.0,
        0,
        Shares(rank=0, step=0, shares=(40, 20), policy=policy, reason=HOSTILE, predicted_samples_per_second=66.0),
    )
    for step in range(STEPS):
        for rank, share in enumerate((40, 20)):
            compute = share / SPEEDS[rank] * 0.8
            add(
                2.0 + step + rank / 10,
                rank,
                Step(
                    rank=rank, step=step, steps_total=STEPS, share=share, global_batch=60, loss=2.0 / (step + 1),
                    compute=compute, wait=0.1, communication=0.1, duration=slower,
                ),
            )  # fmt: skip
        if step % 10 == 0:
            add(2.5 + step, 1, Hardware(rank=1, gpu_percent=90.0, gpu_temperature=70.0 + step, gpu_memory_used=1 << 30))
    add(45.0, 0, Notice(rank=0, level="warning", text=HOSTILE))
    for rank in (0, 1):
        add(46.0, rank, Done(rank=rank, steps=STEPS, samples=STEPS * 60, seconds=40.0))
    return found

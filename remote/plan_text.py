"""A launch plan for reading: a table, the equivalent command lines, and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from typing import Final

from pydantic import TypeAdapter

from remote.plan_model import HostPlan, LaunchPlan

_CONTINUED: Final = " \\\n      "
_AND: Final = ["&&"]


@cache
def _shape() -> TypeAdapter[LaunchPlan]:
    # Building the adapter costs as much as a screen's first paint, which does not need it.
    return TypeAdapter(LaunchPlan)


def plan_to_json(plan: LaunchPlan) -> str:
    """Return the plan as JSON text. The order of keys never changes, so plans can be compared line by line."""
    return _shape().dump_json(plan, indent=2, exclude_none=True).decode()


def plan_from_json(text: str) -> LaunchPlan:
    """Return the plan that ``plan_to_json`` wrote.

    Raises:
        ValueError: not a plan.
    """
    return _shape().validate_json(text)


def render_plan(plan: LaunchPlan) -> str:
    """Return the plan as text for a terminal: the decisions, a table of ranks, and what runs on every host."""
    title = (
        f"run {plan.run_id} of {plan.cluster}: {plan.world_size} {_plural('rank', plan.world_size)} on "
        f"{len(plan.hosts)} {_plural('host', len(plan.hosts))}, {plan.backend}, "
        f"rendezvous {plan.master_address}:{plan.master_port}, global batch {plan.global_batch}, policy {plan.policy}"
    )
    lines = [
        title,
        "",
        *(f"  - {note}" for note in plan.notes),
        "",
        *_table(plan),
    ]
    for host in plan.hosts:
        lines += ["", f"{host.host}:", f"    {_broken(equivalent_words(host))}"]
    return "\n".join(lines) + "\n"


def _table(plan: LaunchPlan) -> list[str]:
    header = ("rank", "host", "local rank", "device", "interface", "GPU", "runs in")
    rows = [
        (
            str(rank.rank),
            host.host,
            str(rank.local_rank),
            rank.device,
            host.variable("GLOO_SOCKET_IFNAME") or "-",
            rank.gpu_uuid or "-",
            host.image or "a process",
        )
        for host in plan.hosts
        for rank in host.ranks
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def equivalent_command(plan: HostPlan) -> str:
    """Return the shell command that does on the host by hand what the launcher does for it."""
    return _joined(equivalent_words(plan))


def equivalent_docker_command(plan: HostPlan) -> str:
    """Return the ``docker run`` command line that starts the same container by hand.

    Raises:
        ValueError: the host runs processes, not containers.
    """
    if plan.runtime != "docker":
        raise ValueError(f"{plan.host} runs processes, not a container")
    return equivalent_command(plan)


def equivalent_words(plan: HostPlan) -> list[list[str]]:
    """Return the words of the equivalent command, an option and its value together."""
    if plan.runtime == "process":
        there = [["cd", plan.working_dir], _AND] if plan.working_dir else []
        return [*there, ["env"], *([f"{name}={value}"] for name, value in plan.env), list(plan.argv)]
    words = [
        ["docker", "run", "--detach", "--init"],
        ["--name", plan.container_name],
        ["--network", plan.network_mode],
        ["--shm-size", str(plan.shm_size)],
    ]
    if plan.gpu_uuids:
        # The value is one field of CSV: without the inner quotes a second GPU would be read as another key.
        words.append(["--gpus", f'"device={",".join(plan.gpu_uuids)}"'])
    if plan.working_dir:
        words.append(["--workdir", plan.working_dir])
    if plan.user:
        words.append(["--user", plan.user])
    for source, target, mode in plan.mounts:
        fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if mode == "ro" else [])]
        words.append(["--mount", ",".join(_csv_field(each) for each in fields)])
    words += [["--label", f"{name}={value}"] for name, value in plan.labels]
    words += [["--env", f"{name}={value}"] for name, value in plan.env]
    # The image's own entrypoint could change the command, so the engine is told to replace it.
    words += [["--entrypoint", plan.argv[0]], [plan.image, *plan.argv[1:]]]
    return words


def _csv_field(text: str) -> str:
    if not any(each in text for each in ',"\n'):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _joined(words: Sequence[Sequence[str]]) -> str:
    return " ".join(_quoted(each) for each in words)


def _broken(words: Sequence[Sequence[str]]) -> str:
    return _CONTINUED.join(_quoted(each) for each in words)


def _quoted(words: Sequence[str]) -> str:
    return "&&" if words is _AND else shlex.join(words)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"

"""The ``cluster.toml`` that ``hetero-tui init`` writes: text that says what each line is for. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hetero_tui.image_report import size_text
from hetero_tui.sanitize import clean
from remote.facts import Facts


@dataclass(frozen=True, slots=True)
class Candidate:
    """A machine that may take part."""

    name: str
    address: str
    """``local``, or a name that ssh understands."""
    reached: str
    """How it is reached, for people."""
    facts: Facts | None = None
    problem: str = ""
    """Why it cannot be used; empty when it answered."""
    python: str = ""
    """Interpreter there that is known to have torch; empty when that is not known."""

    @property
    def runtime(self) -> str:
        """``docker`` where the account may use an engine, else ``process``."""
        return "docker" if self.facts is not None and self.facts.engine_socket else "process"

    @property
    def described(self) -> str:
        """What the machine is, in one line."""
        if self.facts is None:
            return self.problem
        facts = self.facts
        gpus = ", ".join(gpu.name for gpu in facts.gpus) or "no GPU"
        what = f"{facts.distribution or facts.system}, {facts.cpu_count} CPUs, {size_text(facts.memory_total)}, {gpus}"
        return clean(f"{what}, {'Docker' if self.runtime == 'docker' else 'no Docker for this user'}", 200)


def cluster_text(name: str, taken: Sequence[Candidate], silent: Sequence[Candidate] = ()) -> str:
    """Return the file. The first host is the master; those that did not answer are comments, with the reason."""
    has_gpu = any(each.facts is not None and each.facts.gpus for each in taken)
    all_docker = all(each.runtime == "docker" for each in taken)
    lines = [
        "# Written by `hetero-tui init`. Every key is explained in docs/configuration.md.",
        "# Next: `hetero-tui check` with this file, then `hetero-tui` with it.",
        "",
        "[cluster]",
        f"name = {json.dumps(name)}",
        f"master = {json.dumps(taken[0].name)}            # rank 0; the others must reach it",
        "",
    ]
    if all_docker or any(each.runtime == "docker" for each in taken):
        image = 'ref = "hetero-trainer:cpu"'
        if has_gpu:
            image = 'variants = { cuda = "hetero-trainer:cuda", cpu = "hetero-trainer:cpu" }'
        lines += ["[image]", f"{image}   # built from trainer/Dockerfile; sent to the hosts that lack it", ""]
    lines += [
        "[training]",
        'workload = "simple_cnn"          # or script = "train.py"',
        "global_batch = 256               # samples of one step, over all ranks",
        "epochs = 3",
        'policy = "dynamic"               # shares by measured speed; "equal" to compare',
        "",
    ]
    for each in taken:
        lines += [
            f"[[hosts]]                        # {each.described}",
            f"name = {json.dumps(each.name)}",
            f"address = {json.dumps(each.address)}".ljust(32) + f" # {clean(each.reached, 200)}",
        ]
        if each.runtime == "process":
            lines += [
                'runtime = "process"              # this account can use no Docker Engine there',
                f"python = {json.dumps(each.python)}"
                if each.python
                else '# python = "/path/to/venv/bin/python"   # one that has hetero-tui[trainer]',
            ]
        lines.append("")
    for each in silent:
        lines += [
            f"# {each.name} did not answer: {clean(each.problem, 200)}",
            "# [[hosts]]",
            f"# name = {json.dumps(each.name)}",
            f"# address = {json.dumps(clean(each.address))}",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"

"""Where things lie on a host: the interpreter, the data, the control messages, the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory_model import Host, Inventory
from remote.plan_contract import CONTROL_FOLDER, DATA_FOLDER, OUTPUT_FOLDER, WORKDIR_FOLDER, tree_folder
from remote.plan_model import MountMode


@dataclass(frozen=True, slots=True)
class Folders:
    """Paths as the agent of one host sees them, and what must be mounted for that."""

    python: str
    script: str
    data: str
    control: str
    output: str
    run: str = ""
    code: str = ""
    mounts: tuple[tuple[str, str, MountMode], ...] = ()

    @classmethod
    def of(cls, inventory: Inventory, host: Host, facts: Facts, run_id: str, code: str) -> Folders:
        """Return the paths of one host; ``code`` is the digest of the user's code.

        Raises:
            PlanError: a path begins with ``~`` and the host's home folder is unknown.
        """
        training = inventory.training
        data = expanded(host, facts, training.data_dir)
        checkpoints = expanded(host, facts, training.checkpoint_dir)
        tree = tree_folder(_home(host, facts), code or "unread") if training.workdir else ""
        if host.runtime == "docker":
            mounts: list[tuple[str, str, MountMode]] = []
            if data:
                mounts.append((data, DATA_FOLDER, "ro"))
            if checkpoints:
                mounts.append((checkpoints, OUTPUT_FOLDER, "rw"))
            if tree:
                mounts.append((tree, WORKDIR_FOLDER, "ro"))
            return cls(
                python="python3",
                script=f"{WORKDIR_FOLDER}/{training.script}" if tree else training.script,
                data=DATA_FOLDER if data else "",
                code=WORKDIR_FOLDER if tree else "",
                control=CONTROL_FOLDER,
                output=OUTPUT_FOLDER,
                mounts=tuple(mounts),
            )
        run = run_folder(_home(host, facts), run_id, host.name)
        return cls(
            python=expanded(host, facts, host.python),
            script=f"{tree}/{training.script}" if tree else expanded(host, facts, training.script),
            code=tree,
            data=data,
            control=f"{run}/control",
            output=checkpoints or f"{run}/output",
            run=run,
        )


def _home(host: Host, facts: Facts) -> str:
    home = facts.home.rstrip("/")
    if home.startswith("/") and home.isprintable():
        return home
    raise PlanError(
        f"its home folder is unknown ({facts.home[:40]!r})",
        host=host.name,
        next_step="check that the SSH user has a home folder there",
    )


def expanded(host: Host, facts: Facts, path: str) -> str:
    """Return a path of the inventory as the host sees it.

    Raises:
        PlanError: it begins with ``~`` and the host's home folder is unknown.
    """
    return f"{_home(host, facts)}/{path[2:]}" if path.startswith("~/") else path


def run_folder(home: str, run_id: str, host: str) -> str:
    """Return the folder on a host that belongs to one run (runtime ``process``): control messages, log, output.

    ``remote.process_runtime`` makes it; a host with ``XDG_CACHE_HOME`` set has it there.
    """
    return f"{home}/.cache/hetero-tui/runs/{run_id}/{host}"

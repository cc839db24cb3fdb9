"""Going on from an earlier run: which checkpoint, and how the plan tells it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from remote.checkpoints import FOLDER, newest_good
from remote.errors import UserError
from remote.inventory_model import Inventory
from remote.plan_model import LaunchPlan
from remote.run_dir import RunDir
from remote.runtime import StoredCheckpoint


@dataclass(frozen=True, slots=True)
class Resume:
    """Where the next run begins."""

    run_id: str
    """The run it goes on from; empty when the hosts keep the checkpoints themselves."""
    checkpoint: StoredCheckpoint | None
    note: str

    def noted(self, plan: LaunchPlan) -> LaunchPlan:
        """Return the plan with a note of what it goes on from."""
        return dataclasses.replace(plan, notes=(*plan.notes, self.note))


def resuming(inventory: Inventory) -> Inventory:
    """Return the inventory with ``training.resume`` switched on."""
    return inventory.model_copy(update={"training": inventory.training.model_copy(update={"resume": True})})


def without_hosts(inventory: Inventory, names: Collection[str]) -> Inventory:
    """Return the inventory without some hosts; where the master is among them, the first that stays takes its place.

    Raises:
        UserError: there is no such host, or none would stay.
    """
    known = [host.name for host in inventory.hosts]
    for name in names:
        if name not in known:
            raise UserError(f"there is no host named {name!r}", next_step=f"the hosts are {', '.join(known)}")
    hosts = tuple(host for host in inventory.hosts if host.name not in names)
    if not hosts:
        raise UserError("no host would stay", next_step="leave fewer out")
    changes: dict[str, object] = {"hosts": hosts}
    if inventory.cluster.master in names:
        changes["cluster"] = inventory.cluster.model_copy(update={"master": "", "master_address": ""})
    elif not inventory.cluster.master and known[0] in names:
        changes["cluster"] = inventory.cluster.model_copy(update={"master_address": ""})
    return inventory.model_copy(update=changes)


def choose_resume(inventory: Inventory, experiments: Path, run_id: str) -> Resume:
    """Return the newest good checkpoint of a run, or of the newest run that has one when none is named.

    Raises:
        UserError: there is none; the message says what was found instead.
    """
    training, cluster = inventory.training, inventory.cluster.name
    if training.script:
        raise UserError(
            "a script of your own goes on by its own means", next_step="pass it what it needs in training.args"
        )
    if training.checkpoint_dir:
        newest = (RunDir.run_ids(experiments, cluster) or ("",))[-1]
        if run_id and run_id != newest:
            raise UserError(
                f"the checkpoints of this cluster stay on the hosts in {training.checkpoint_dir}, where those of a "
                f"later run{f' ({newest})' if newest else ''} may have taken the place of those of run {run_id}",
                next_step="--resume without a run goes on from the newest there; to go on from an older one, move the "
                f"newer step-*.pt in {training.checkpoint_dir} away first",
            )
        return Resume("", None, f"goes on from the newest good checkpoint in {training.checkpoint_dir} on the hosts")
    run_ids = [RunDir.open(experiments, cluster, run_id).run_id] if run_id else RunDir.run_ids(experiments, cluster)
    refused: list[str] = []
    for each in reversed(run_ids):
        try:
            found, reasons = newest_good(RunDir.folder(experiments, cluster, each) / FOLDER)
        except OSError as error:
            found, reasons = None, (f"{each}: {error.strerror}",)
        refused += reasons
        if found is not None:
            note = f"goes on from step {found.step} of run {each} ({found.path.name}, sha256 {found.sha256[:12]})"
            return Resume(each, found, "; ".join([note, *(f"not from {reason}" for reason in refused)]))
    where = f"run {run_id}" if run_id else f"any run of {cluster!r} in {experiments}"
    told = f": {'; '.join(refused[:5])}" if refused else ""
    raise UserError(
        f"there is no good checkpoint of {where}{told}",
        next_step="checkpoints come home when a run ends or is stopped; set training.checkpoint_every for more of them",
    )

"""The runs that are kept on this machine: finding one by what a person types, and listing them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remote.errors import UserError
from remote.inventory import Cluster, Host, Inventory, load_inventory
from remote.plan import LaunchPlan
from remote.run_dir import INVENTORY_FILE, PLAN_FILE, RunDir, RunDirError


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's folder and the plan it was launched with."""

    run_dir: RunDir
    plan: LaunchPlan

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.run_dir.run_id

    @property
    def simulated(self) -> bool:
        """Whether any rank was held down on purpose."""
        return any(host.simulated for host in self.plan.hosts)

    def inventory(self) -> Inventory:
        """Return the ``cluster.toml`` of the run, or what the plan tells of it where none was kept."""
        path = self.run_dir.path / INVENTORY_FILE
        if path.is_file() and path.stat().st_size:
            try:
                return load_inventory(path)
            except UserError:
                pass  # written by another version: the plan knows enough for looking at the run
        hosts = tuple(Host(name=host.host, runtime=host.runtime) for host in self.plan.hosts)
        return Inventory(cluster=Cluster(name=self.plan.cluster), hosts=hosts)


def every_run(experiments: Path) -> Iterator[RunDir]:
    """Yield every run below ``experiments``, oldest first."""
    if not experiments.is_dir():
        return
    found = [each for folder in experiments.iterdir() if folder.is_dir() for each in folder.iterdir()]
    yield from (RunDir(path) for path in sorted(found, key=lambda path: path.name) if (path / PLAN_FILE).is_file())


def find_run(named: str, experiments: Path) -> StoredRun:
    """Return the run that a person named: by its folder, its id, the beginning of its id, or ``latest``.

    Raises:
        RunDirError: no run or several are meant, or its folder is damaged.
    """
    folder = Path(named)
    if (folder / PLAN_FILE).is_file():
        return _opened(RunDir(folder))
    known = list(every_run(experiments))
    meant = known[-1:] if named == "latest" else [run for run in known if run.run_id.startswith(named)]
    if len(meant) == 1:
        return _opened(meant[0])
    listed = ", ".join(run.run_id for run in (meant or known)[-5:]) or "none"
    raise RunDirError(
        f"{len(meant) or 'no'} runs in {experiments} begin with {named!r}" if meant else f"no run {named!r} is kept",
        next_step=f"name one of those in {experiments}: {listed}; `hetero-tui runs` lists them",
    )


def _opened(run_dir: RunDir) -> StoredRun:
    return StoredRun(run_dir, run_dir.read_plan())

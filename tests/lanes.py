"""Who runs which test file, and when: real hosts beside real trainings beside tests that only compute, longest first.

A rig waits for networks and engines for half of its time, a training keeps two cores busy for most of it, and most
tests compute on one core. A worker for each keeps a machine of two cores busy, and three trainings meet only at the
end: a worker whose own files are all begun helps with those of the others.
"""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_REAL_HOSTS, _TRAININGS, _COMPUTING = range(3)
WORKERS: Final = 3

_TRAIN: Final = ("tests/browser/", "tests/demo/", "tests/docker/", "tests/docs/", "tests/packaging/", "tests/ssh/")
_COMPUTE: Final = ("tests/trainer/test_balance", "tests/trainer/test_api.py", "tests/trainer/test_telemetry.py")
SECONDS: Final = {
    "tests/demo/test_demo.py": 70,
    "tests/docker/test_docker_runtime.py": 30,
    "tests/docs/test_commands.py": 40,
    "tests/fuzz/test_byte_inputs.py": 20,
    "tests/fuzz/test_host_answers.py": 20,
    "tests/fuzz/test_own_files.py": 20,
    "tests/packaging/test_wheel.py": 30,
    "tests/pilot/test_flow.py": 40,
    "tests/pilot/test_painted.py": 60,
    "tests/pilot/test_screens.py": 120,
    "tests/rig/chaos/test_chaos.py": 70,
    "tests/rig/faults/test_each_fault.py": 180,
    "tests/rig/faults/test_nat.py": 50,
    "tests/rig/faults/test_port_range.py": 35,
    "tests/rig/test_checks.py": 45,
    "tests/rig/test_deaths.py": 70,
    "tests/rig/test_faults.py": 65,
    "tests/rig/test_images.py": 50,
    "tests/rig/test_images_faults.py": 50,
    "tests/rig/test_images_registry.py": 20,
    "tests/rig/test_images_slow_link.py": 30,
    "tests/rig/test_main_job.py": 50,
    "tests/rig/test_overlay.py": 40,
    "tests/rig/test_process_runtime.py": 25,
    "tests/rig/test_results.py": 25,
    "tests/rig/test_workdir.py": 20,
    "tests/ssh/test_command_line.py": 80,
    "tests/ssh/test_results.py": 110,
    "tests/trainer/test_api_cluster.py": 40,
    "tests/trainer/test_checkpoint.py": 40,
    "tests/trainer/test_communication.py": 45,
    "tests/trainer/test_control.py": 25,
    "tests/trainer/test_elastic.py": 110,
    "tests/trainer/test_observe.py": 30,
    "tests/trainer/test_run.py": 80,
    "tests/trainer/test_script.py": 25,
    "tests/trainer/test_workloads.py": 90,
}
"""How long the longest files take, roughly: what is begun last must not take long. The others count as one second."""


def lane(path: str) -> int:
    """Return which worker should run a test file."""
    if path.startswith("tests/rig/"):
        return _REAL_HOSTS
    if path.startswith(_TRAIN) or (path.startswith("tests/trainer/") and not path.startswith(_COMPUTE)):
        return _TRAININGS
    return _COMPUTING


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # xdist's classes are not typed for those outside it
    """Hands out whole files: to each worker its own kind first, the longest first."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        own = _worker_number(node) % WORKERS
        chosen = max(self.workqueue, key=lambda path: (lane(path) == own, SECONDS.get(path, 1)))
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)


def _worker_number(node: WorkerController) -> int:
    return int(node.gateway.id.removeprefix("gw"))

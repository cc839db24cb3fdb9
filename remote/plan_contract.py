"""Names the launch plan and the trainer agree on. Standard library only."""

from __future__ import annotations

from typing import Final

CONTROL_FOLDER: Final = "/hetero/control"
"""Folder in the container where the launcher drops control messages (``go``, later pause, policy, …)."""
OUTPUT_FOLDER: Final = "/hetero/output"
"""Folder in the container for checkpoints."""
DATA_FOLDER: Final = "/hetero/data"
"""Where the host's data set is seen in the container, read-only."""
WORKDIR_FOLDER: Final = "/hetero/workdir"
"""Where the user's code is seen in the container, read-only."""
CODE_CACHE: Final = ".cache/hetero-tui/workdir"
"""Where a host keeps the user's code, below the home folder of the account."""

LABEL_RUN: Final = "hetero-tui.run"
LABEL_CLUSTER: Final = "hetero-tui.cluster"
LABEL_HOST: Final = "hetero-tui.host"
LABEL_RANKS: Final = "hetero-tui.ranks"
LABEL_BY: Final = "hetero-tui.by"
"""Who launched it: ``account@machine``, for the person whom it refuses."""
LABEL_CLOCK: Final = "hetero-tui.clock"
"""When it was created by a clock that nobody sets: the host's boot and the seconds since then."""

CONTRACT_VARIABLES: Final = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "GLOO_SOCKET_IFNAME",
        "GROUP_RANK",
        "HETERO_BACKEND",
        "HETERO_CONTROL",
        "HETERO_DEVICES",
        "HETERO_HOST",
        "HETERO_MASTER",
        "HETERO_OUTPUT",
        "HETERO_RANKS",
        "HETERO_RUN_ID",
        "HETERO_SIMULATED_SAMPLES_PER_SECOND",
        "HIP_VISIBLE_DEVICES",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NCCL_SOCKET_IFNAME",
        "NODE_RANK",
        "NVIDIA_VISIBLE_DEVICES",
        "PYTHONUNBUFFERED",
        "RANK",
        "WORLD_SIZE",
    }
)
"""Variables the plan alone decides: a file that could set them could contradict the plan."""


def is_contract_variable(name: str) -> bool:
    """Whether the plan alone may set this variable."""
    return name in CONTRACT_VARIABLES or name.startswith("HETERO_")


def tree_folder(home: str, digest: str) -> str:
    """Return where a host keeps the code with this digest."""
    return f"{home}/{CODE_CACHE}/trees/{digest}"

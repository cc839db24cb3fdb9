"""The checklist, in the order it is shown: cheap first, and whatever needs another one behind it."""

from __future__ import annotations

from remote.checks import addresses, engine, gpu, image, job, network, reach, resources, software
from remote.checks.model import Check

CATALOGUE: tuple[Check, ...] = (
    *reach.CHECKS,
    *engine.CHECKS,
    *resources.CHECKS,
    *gpu.CHECKS,
    *image.CHECKS,
    gpu.CUDA,
    *software.CHECKS,
    addresses.EPHEMERAL,
    network.PROBE,
    *addresses.CHECKS,
    *network.CHECKS,
    *job.CHECKS,
)

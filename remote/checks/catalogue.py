"""The checklist, in the order it is shown: cheap first, and whatever needs another one behind it."""

from __future__ import annotations

from remote.checks import addresses, engine, gpu, image, job, network, overlay, reach, resources, script, software
from remote.checks.model import Check

GROUPS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("Hosts", reach.CHECKS),
    ("Docker", engine.CHECKS),
    ("Resources", resources.CHECKS),
    ("GPU", gpu.CHECKS),
    ("Image and software", (*image.CHECKS, gpu.CUDA, *software.CHECKS)),
    (
        "Network",
        (addresses.EPHEMERAL, overlay.WIREGUARD, network.PROBE, overlay.OVERLAY, *addresses.CHECKS, *network.CHECKS),
    ),
    ("Job", (*job.CHECKS, script.SCRIPT)),
)
"""What belongs together on the screen."""
CATALOGUE: tuple[Check, ...] = tuple(check for _, checks in GROUPS for check in checks)

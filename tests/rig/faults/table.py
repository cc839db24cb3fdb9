"""Every fault namespaces can bring about."""

from __future__ import annotations

from tests.rig.faults import engine_faults, job_faults, network_faults, reach_faults
from tests.rig.faults.model import Fault

FAULTS: tuple[Fault, ...] = (*reach_faults.FAULTS, *engine_faults.FAULTS, *network_faults.FAULTS, *job_faults.FAULTS)

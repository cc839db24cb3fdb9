"""Every fault namespaces can bring about."""

from __future__ import annotations

from tests.rig.faults import network_faults
from tests.rig.faults.model import Fault

FAULTS: tuple[Fault, ...] = (*network_faults.FAULTS,)

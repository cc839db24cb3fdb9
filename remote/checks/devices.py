"""Which device class and which image a host's ranks get, as far as a check needs to know."""

from __future__ import annotations

from remote.facts import Facts
from remote.inventory import Host, Inventory


def wants_gpu(host: Host, facts: Facts) -> bool:
    """Whether the ranks of the host are meant to run on its GPUs."""
    if host.devices == "auto":
        return bool(facts.gpus)
    return not isinstance(host.devices, str)


def image_for(inventory: Inventory, host: Host, facts: Facts) -> str:
    """The image the ranks of the host run.

    Raises:
        InventoryError: none is named.
    """
    return inventory.image_for(host, "cuda" if wants_gpu(host, facts) else "cpu")

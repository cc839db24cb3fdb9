"""``cluster.toml`` as a validated, frozen model. ``python -m remote.inventory --schema`` prints its JSON schema."""

from __future__ import annotations

import sys

from remote.inventory_load import load_inventory, parse_inventory
from remote.inventory_model import (
    BackendChoice,
    Cluster,
    Dataset,
    DeviceClass,
    Host,
    Image,
    ImageMethod,
    Inventory,
    Limits,
    Network,
    Policy,
    Runtime,
    Training,
    Workload,
)
from remote.inventory_schema import json_schema

__all__ = [
    "BackendChoice",
    "Cluster",
    "Dataset",
    "DeviceClass",
    "Host",
    "Image",
    "ImageMethod",
    "Inventory",
    "Limits",
    "Network",
    "Policy",
    "Runtime",
    "Training",
    "Workload",
    "json_schema",
    "load_inventory",
    "parse_inventory",
]

if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        sys.exit("usage: python -m remote.inventory --schema")
    sys.stdout.write(json_schema() + "\n")

"""The rig as a person's ``cluster.toml``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.rig.hosts import Rig
from tests.rig.machine import LOGIN_USER

TomlValue = str | int | float | bool

PATIENT: Final = "[limits]\nlaunch_seconds = 240.0\n"
"""To be put behind an inventory: all hosts share one machine, which when busy takes minutes to import torch for all."""


def _table(header: str, values: dict[str, TomlValue]) -> str:
    # JSON's strings, numbers and booleans are TOML's too.
    return f"{header}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def cluster_toml(
    rig: Rig,
    training: Mapping[str, TomlValue] | None = None,
    *,
    user: str = LOGIN_USER,
    each_host: Mapping[str, TomlValue] | None = None,
) -> str:
    """Return an inventory of all hosts of the rig that trains a built-in workload in the rig's image.

    Args:
        rig: A running rig that has an image.
        training: Keys of the table ``training``, over small defaults.
        user: Account to log in with.
        each_host: Keys of every host's table, besides name, address and login.
    """
    small: dict[str, TomlValue] = {
        "workload": "simple_cnn",
        "global_batch": 96,
        "epochs": 1,
        "samples": 1920,
        "checkpoint_every": 0,
    }
    tables = [
        _table("[cluster]", {"name": "rig"}),
        _table("[image]", {"ref": rig.image}),
        _table("[training]", small | dict(training or {})),
        # Each host sees all the cores of the one machine they share.
        _table("[training.env]", {"OMP_NUM_THREADS": "1"}),
    ]
    for host in rig.hosts:
        entry: dict[str, TomlValue] = {
            "name": host.name,
            "address": host.address,
            "user": user,
            "identity_file": str(rig.identity_file),
            "host_key": host.fingerprint,
        }
        tables.append(_table("[[hosts]]", entry | dict(each_host or {})))
    return "\n".join(tables)


def write_cluster(folder: Path, text: str) -> Path:
    """Write ``cluster.toml`` and return its path."""
    path = folder / "cluster.toml"
    path.write_text(text)
    return path

"""Real agents and ranks on this machine, talking over loopback, for the tests of the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.trainer_cluster import REPOSITORY, Cluster

__all__ = ["REPOSITORY", "Cluster", "cluster"]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Give a cluster that is gone afterwards."""
    with Cluster(folder) as running:
        yield running

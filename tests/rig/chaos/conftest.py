"""``python -m pytest tests/rig/chaos --chaos-rounds 20 --chaos-seed 7``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when this folder is named on the command line; otherwise the defaults of the tests hold."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-rounds", type=int, default=None, help="rounds of faults for each runtime")
    group.addoption("--chaos-seed", type=int, default=None, help="begin with these faults")

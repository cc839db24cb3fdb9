from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.lanes import Lanes

_TIMELESS = {"fuzz", "unit"}
"""Folders whose tests wait for nothing outside themselves."""

# Torch's threads wait for one another by spinning. Where several trainings share the cores, that takes five times the
# processor time of what they compute. Read once, when torch is imported, here and by whatever the tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI, try once more what runs real processes, engines and screens on a machine that others use too.

    What passed only then is listed as rerun in the summary. Elsewhere every first failure counts.
    """
    if os.environ.get("CI") != "true":
        return
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).parts[0] not in _TIMELESS:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Say which of several processes runs which test file."""
    from tests.lanes import Lanes

    return Lanes(config, log)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own: no test reads or writes a person's SSH keys, agent, settings or known hosts."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for variable in ("SSH_AUTH_SOCK", "DOCKER_HOST", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return folder

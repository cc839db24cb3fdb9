"""The rig's fixtures. Where a rig cannot be, its tests are skipped with the reason; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import Rig
from tests.rig.image import TrainerImage, prepare_image
from tests.rig.places import cache_folder

_COMMANDS = ("dockerd", "ip", "iptables", "mmdebstrap", "nsenter", "setpriv", "ssh", "sshd", "tc", "unshare")


def missing() -> str:
    """Return why there can be no rig here, or an empty string."""
    if sys.platform != "linux":
        return f"the rig is made of Linux namespaces; this is {sys.platform}"
    if os.getuid() != 0:
        return "the rig makes namespaces, which takes root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [command for command in _COMMANDS if shutil.which(command, path=path) is None]
    if absent:
        return f"missing commands: {', '.join(absent)} (CI=true sh tests/rig/install.sh installs them on Debian)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"namespaces are refused: {tried.stderr.decode(errors='replace').strip()}"


@pytest.fixture(scope="session")
def rig_possible() -> None:
    """Skip, or fail in CI, where there can be no rig."""
    if not (reason := missing()):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"no rig in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def rig_cache(rig_possible: None) -> Path:
    """The folder kept between test runs."""
    return cache_folder()


@pytest.fixture(scope="session")
def trainer_image(rig_cache: Path) -> TrainerImage:
    """The image of the trainer in this checkout."""
    return prepare_image(rig_cache)


@pytest.fixture(scope="session")
def shared_rig(trainer_image: TrainerImage) -> Iterator[Rig]:
    """Three hosts that have the trainer's image, for the whole test run."""
    with Rig(hosts=3, image=trainer_image) as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """Three hosts that have the trainer's image and neither containers nor faults."""
    yield shared_rig
    for host in shared_rig.hosts:
        host.heal()

"""A few rounds of random faults in every test run; many with ``python -m tests.rig.chaos --rounds 200``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rig.chaos.driver import chaos
from tests.rig.chaos.world import Runtime, World
from tests.rig.hosts import Rig
from tests.rig.image import TrainerImage

pytestmark = pytest.mark.rig

ROUNDS: dict[Runtime, int] = {"process": 3, "docker": 2}


@pytest.mark.parametrize("runtime", ["process", "docker"])
def test_random_faults_break_no_promise(
    runtime: Runtime, trainer_image: TrainerImage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chosen = request.config.getoption("--chaos-seed", default=None)
    seed = random.SystemRandom().randrange(10**6) if chosen is None else int(chosen)
    rounds = int(request.config.getoption("--chaos-rounds", default=None) or ROUNDS[runtime])
    print(f"seed {seed}: python -m tests.rig.chaos --runtime {runtime} --seed {seed} --rounds {rounds}")
    with Rig(hosts=3, image=trainer_image) as rig, chaos(World(rig, runtime), tmp_path, seed, print) as playing:
        summary = playing.play(rounds)
    assert summary.violations == [], f"seeds {summary.failed_seeds}"

"""How long ranks are waited for that could not be reached when their run was ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote.run_dir import Ended, RunDir
from remote.run_end import STRAGGLER_SECONDS, straggler_grace
from remote.runtime import HostRunState, State
from tests.unit.launching import launch_plan

PLAN = launch_plan({"pc": "", "laptop": ""})


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        pytest.param(None, 10.0, id="nobody has ended it yet"),
        pytest.param({"pc": State.EXITED}, STRAGGLER_SECONDS, id="the master's part has ended"),
        pytest.param({"laptop": State.EXITED}, 10.0, id="the master may still write a checkpoint"),
        pytest.param({"pc": State.RUNNING, "laptop": State.EXITED}, 10.0, id="the master's part goes on"),
    ],
)
def test_only_ranks_that_can_still_finish_something_are_waited_for(
    tmp_path: Path, ended: dict[str, State] | None, expected: float
) -> None:
    with RunDir.create(tmp_path, PLAN.cluster, PLAN.run_id) as run_dir:
        run_dir.write_plan(PLAN)
        if ended is not None:
            run_dir.write_ended(Ended(tuple(HostRunState(host, PLAN.run_id, state) for host, state in ended.items())))
        assert straggler_grace(run_dir, 10.0) == expected
        assert straggler_grace(run_dir, 1.0) == 1.0

"""The examples of the how-to pages are run, not read."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetero_tui.app import HeteroApp
from remote.checks.model import CheckResult, Verdict
from remote.checks.run import run_checks
from remote.errors import RemoteError
from remote.facts import Facts
from remote.inventory import Cluster, Host, Inventory
from tests.pilot.painted import shows
from tests.pilot.test_flow import make, running
from trainer.data import mix
from trainer.time_table import TimeTable

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def example(page: str) -> dict[str, Any]:
    """Run the page's Python and return its names."""
    found = re.search(r"```python\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"__name__": f"example_{page}"}
    exec(compile(found[1], page, "exec"), names)
    return names


@pytest.mark.parametrize(
    ("kernel", "verdict"), [("6.1.0-18-amd64", Verdict.OK), ("3.10.0-1160.el7", Verdict.WARN), ("", Verdict.UNKNOWN)]
)
async def test_the_check_of_the_page(kernel: str, verdict: Verdict) -> None:
    from dataclasses import replace

    from remote.checks.context import CheckContext

    check = replace(example("new-check.md")["KERNEL_AGE"], needs=())

    async def gather(name: str) -> Facts:
        return Facts(host=name, kernel=kernel)

    async def nothing(name: str) -> Any:
        raise RemoteError("not asked for", host=name)

    def no_runner(name: str) -> Any:
        raise RemoteError("not asked for", host=name)

    inventory = Inventory(cluster=Cluster(name="c"), hosts=(Host(name="old"),))
    context = CheckContext(inventory, runner=no_runner, gather=gather, engine=nothing, runs=nothing)
    results = [each async for each in run_checks(context, catalogue=[check]) if isinstance(each, CheckResult)]
    assert [each.finding.verdict for each in results] == [verdict]
    if verdict is Verdict.WARN:
        assert results[0].finding.fix is not None


@given(
    speeds=st.lists(st.floats(1.0, 1e4), min_size=1, max_size=12),
    global_batch=st.integers(min_value=1, max_value=4096),
)
def test_the_policy_of_the_page(speeds: list[float], global_batch: int) -> None:
    shares = example("new-policy.md")["fastest_half_shares"]([TimeTable.from_speed(s) for s in speeds], global_batch)
    assert sum(shares) == global_batch
    assert min(shares) >= 0
    used = [speed for speed, share in zip(speeds, shares, strict=True) if share]
    unused = [speed for speed, share in zip(speeds, shares, strict=True) if not share]
    if global_batch >= len(speeds) and unused:
        assert min(used) >= max(unused)


def test_the_workload_of_the_page_learns_and_does_not_depend_on_the_split() -> None:
    torch.manual_seed(0)
    workload = example("new-workload.md")["Regression"](4096, 0)

    def gradient(*parts: tuple[int, int]) -> torch.Tensor:
        workload.model.zero_grad()
        for start, end in parts:
            indices = torch.arange(start, end)
            workload.loss(workload.source.batch(indices, mix(indices)))[0].backward()
        return torch.cat([parameter.grad.flatten() for parameter in workload.model.parameters()]).clone()

    whole, unequal = gradient((0, 96)), gradient((0, 64), (64, 96))
    assert torch.linalg.vector_norm(whole - unequal) <= 1e-6 * torch.linalg.vector_norm(whole)
    optimizer = torch.optim.SGD(workload.model.parameters(), lr=0.1)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        indices = torch.arange(step * 64, (step + 1) * 64) % 4096
        loss = workload.loss(workload.source.batch(indices, mix(indices)))[0] / 64
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5


async def test_the_screen_of_the_page() -> None:
    names = example("new-screen.md")
    session = make()
    async with running(session, (80, 24)) as (app, pilot):
        assert isinstance(app, HeteroApp)
        await asyncio.wait_for(app.push_screen(names["PhasesScreen"](session)), 30)
        status = SimpleNamespace(phase="unreachable", detail="")
        session.hosts["laptop"] = status  # type: ignore[assignment]
        await shows(pilot, "Phases", "laptop unreachable")

"""Inventory and facts in, plan out, compared with stored files.

``HETERO_REGENERATE_GOLDEN=1 pytest tests/unit/test_plan_golden.py`` writes them anew; read the difference before
committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from remote.facts import Facts
from remote.inventory import load_inventory
from remote.plan import LaunchPlan, make_plan, plan_from_json, plan_to_json, render_plan
from trainer.options import parse

GOLDEN = Path(__file__).parent.parent / "golden" / "plan"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
RUN_ID = "20261123-034500-ab12"
FACTS = TypeAdapter(dict[str, Facts])


def _plan(case: str) -> LaunchPlan:
    inventory = load_inventory(GOLDEN / case / "cluster.toml")
    facts = FACTS.validate_json((GOLDEN / case / "facts.json").read_bytes())
    return make_plan(inventory, facts, RUN_ID)


def _compare(stored: Path, text: str) -> None:
    if os.environ.get("HETERO_REGENERATE_GOLDEN") == "1":
        stored.write_text(text, encoding="utf-8")
        pytest.skip(f"wrote {stored.name}")
    assert text == stored.read_text(encoding="utf-8")


def test_the_cases_cover_every_kind_of_cluster() -> None:
    assert set(CASES) >= {
        "two-one-no-gpu",
        "all-cpu",
        "all-gpu-nccl",
        "process-and-docker",
        "local-master",
        "one-host",
        "encrypted",
    }


@pytest.mark.parametrize("case", CASES)
def test_plan_is_the_stored_one(case: str) -> None:
    _compare(GOLDEN / case / "plan.json", plan_to_json(_plan(case)) + "\n")


@pytest.mark.parametrize("case", CASES)
def test_text_is_the_stored_one(case: str) -> None:
    _compare(GOLDEN / case / "plan.txt", render_plan(_plan(case)))


@pytest.mark.parametrize("case", CASES)
def test_plan_survives_json(case: str) -> None:
    plan = _plan(case)
    assert plan_from_json(plan_to_json(plan)) == plan
    # What a plan does not have is left out, as it is from plans that were stored before there was such a thing.
    there = [name for name in LaunchPlan.__dataclass_fields__ if getattr(plan, name) is not None]
    assert list(json.loads(plan_to_json(plan))) == there


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_complete_and_rank_0_is_on_the_master(case: str) -> None:
    plan = _plan(case)
    ranks = [rank.rank for host in plan.hosts for rank in host.ranks]
    assert ranks == list(range(plan.world_size))
    assert plan.hosts[0].host == plan.master
    for host in plan.hosts:
        assert [rank.local_rank for rank in host.ranks] == list(range(len(host.ranks)))


@pytest.mark.parametrize("case", CASES)
def test_environment_agrees_with_the_plan(case: str) -> None:
    plan = _plan(case)
    for node_rank, host in enumerate(plan.hosts):
        environment = dict(host.env)
        assert list(host.env) == sorted(host.env)
        assert len(environment) == len(host.env)
        assert environment["WORLD_SIZE"] == str(plan.world_size)
        assert environment["RANK"] == str(host.ranks[0].rank)
        assert environment["LOCAL_WORLD_SIZE"] == str(len(host.ranks))
        assert environment["NODE_RANK"] == str(node_rank)
        assert environment["HETERO_RANKS"] == ",".join(str(rank.rank) for rank in host.ranks)
        assert environment["HETERO_DEVICES"] == ",".join(rank.device for rank in host.ranks)
        assert environment["HETERO_MASTER"] == ("1" if host.host == plan.master else "0")
        assert environment["MASTER_ADDR"] == plan.master_address
        assert environment["HETERO_BACKEND"] == plan.backend


@pytest.mark.parametrize("case", CASES)
def test_the_trainer_accepts_every_command_line(case: str) -> None:
    plan = _plan(case)
    for host in plan.hosts:
        assert host.argv[1:4] == ("-P", "-m", "trainer")
        options = parse(host.argv[4:])
        assert options.global_batch == plan.global_batch
        assert options.policy == plan.policy

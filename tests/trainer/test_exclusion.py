"""Excluded hosts: no share under any policy, the same decisions on every rank, and somebody always computes."""

from __future__ import annotations

import json

import pytest

from trainer.balance import FIRST_PROBE, POLICIES, Balancer, make_policy
from trainer.exclusion import Exclusion, NotChanged
from trainer.plan import PlanError, TimeTable

SPEEDS = (256.0, 180.0, 45.0, 40.0)
ALL = (0, 1, 2, 3)
ANNA = {1: "excluded by anna"}


def balanced(policy: str, minimum: int = 0) -> Balancer:
    return make_policy(policy, [TimeTable.from_speed(speed) for speed in SPEEDS], 192, minimum=minimum)


def steps(balancer: Balancer, count: int) -> list[str]:
    """Feed noise-free steps and return the reasons of all changes."""
    told = []
    for step in range(count):
        seconds = [share / speed for share, speed in zip(balancer.shares, SPEEDS, strict=True)]
        decision = balancer.observe(step, balancer.shares, seconds)
        told += [decision.reason] if decision else []
    return told


@pytest.mark.parametrize("minimum", [0, 4])
@pytest.mark.parametrize("policy", POLICIES)
def test_under_every_policy_the_others_share_as_if_the_excluded_were_not_there(policy: str, minimum: int) -> None:
    balancer = balanced(policy, minimum)
    before = balancer.shares
    decision = balancer.exclude(ANNA, 7, "h2 excluded by anna")
    assert (decision.step, decision.reason) == (7, "h2 excluded by anna")
    others = [TimeTable.from_speed(speed) for rank, speed in enumerate(SPEEDS) if rank != 1]
    left = make_policy(policy, others, 192, minimum=minimum)
    assert (decision.shares[0], *decision.shares[2:]) == left.shares
    assert decision.shares[1] == 0
    assert balancer.idle_reasons[1] == "excluded by anna"
    assert balancer.predicted_samples_per_second() == pytest.approx(left.predicted_samples_per_second())
    short = balancer.shares_for(40)
    assert (sum(short), short[1]) == (40, 0)
    again = balancer.exclude({}, 8, "h2 admitted again by anna")
    assert again.shares == before
    assert balancer.idle_reasons == {}


def test_an_excluded_rank_is_never_tried_and_disturbs_no_settled_plan() -> None:
    balancer = balanced("dynamic")
    balancer.exclude(ANNA, 0, "h2 excluded")
    assert steps(balancer, 3 * FIRST_PROBE) == []
    assert balancer.shares[1] == 0
    balancer.change_policy("equal", 300)
    assert balancer.shares == (64, 0, 64, 64)


def test_a_rank_that_joins_decides_like_the_others_and_comes_back_excluded() -> None:
    balancer = balanced("dynamic")
    balancer.exclude({1: "excluded", 3: "excluded"}, 0, "h2 excluded")
    balancer.change_members((0, 1, 2), step=3)
    other = balanced("equal")
    other.load_state_dict(json.loads(json.dumps(balancer.state_dict())))
    table = {3: TimeTable.from_speed(40.0)}
    assert other.change_members((0, 1, 2, 3), table, 5) == balancer.change_members((0, 1, 2, 3), table, 5)
    assert (other.excluded, other.shares[1], other.shares[3]) == ((1, 3), 0, 0)


def test_somebody_has_to_compute() -> None:
    balancer = balanced("static")
    with pytest.raises(PlanError, match="not excluded"):
        balancer.exclude(dict.fromkeys(range(4), "excluded"), 0, "all excluded")
    balancer.exclude({0: "excluded"}, 0, "h1 excluded")
    with pytest.raises(PlanError, match="not excluded"):
        balancer.change_members((0,), step=1)


def of_three_hosts() -> Exclusion:
    return Exclusion(hosts={0: "h1", 1: "h2", 2: "h2", 3: "h3"})


def test_a_host_goes_with_all_its_ranks_and_comes_back() -> None:
    exclusion = of_three_hosts()
    assert exclusion.exclude("h2", "anna", ALL) == "h2 excluded by anna"
    assert exclusion.reasons(ALL) == {1: "excluded by anna", 2: "excluded by anna"}
    with pytest.raises(NotChanged, match=r"^h2 is excluded already$"):
        exclusion.exclude("h2", "bert", ALL)
    assert Exclusion.from_json(json.loads(json.dumps(exclusion.to_json()))) == exclusion
    assert exclusion.admit("h2", "") == "h2 admitted again"
    assert exclusion.reasons(ALL) == {}
    with pytest.raises(NotChanged, match=r"^h2 is not excluded$"):
        exclusion.admit("h2", "")


def test_the_last_host_and_an_unknown_one_are_refused() -> None:
    exclusion = of_three_hosts()
    exclusion.exclude("h1", "", ALL)
    with pytest.raises(NotChanged, match=r"^cannot exclude h2: no other host is left") as caught:
        exclusion.exclude("h2", "", (0, 1, 2))
    assert (caught.value.level, caught.value.code, caught.value.about) == ("error", "exclude-refused", "h2")
    with pytest.raises(NotChanged, match=r"^cannot exclude 'h9': the ranks are on h1, h2, h3$"):
        exclusion.exclude("h9", "", ALL)
    with pytest.raises(NotChanged, match=r"^cannot admit 'h9'") as caught:
        exclusion.admit("h9", "")
    assert (caught.value.code, caught.value.about) == ("admit-refused", "h9")


def test_while_all_others_are_lost_the_excluded_compute() -> None:
    exclusion = of_three_hosts()
    exclusion.exclude("h2", "", ALL)
    exclusion.exclude("h3", "", ALL)
    assert exclusion.warning((0, 1, 3)) == ""
    assert exclusion.reasons((0, 1, 3)) == dict.fromkeys((1, 2, 3), "excluded")
    assert exclusion.warning((1, 2, 3)) == "no other host is left: h2, h3 compute although excluded"
    assert exclusion.reasons((1, 2, 3)) == {}
    assert exclusion.admit("h2", "anna") == "h2 admitted again by anna"
    assert exclusion.reasons((1, 2, 3)) == {3: "excluded"}

"""The coordinator's decisions, without sockets."""

from __future__ import annotations

from typing import Any

from trainer.roster import MAX_FRUITLESS_GENERATIONS, Outgoing, Roster


def formed(outgoing: Outgoing) -> dict[str, Any] | None:
    messages = [message for _, message in outgoing if message["type"] == "form"]
    assert all(message == messages[0] for message in messages)
    return messages[0] if messages else None


def kinds(outgoing: Outgoing) -> list[tuple[int, str]]:
    return [(rank, message["type"]) for rank, message in outgoing]


def card(rank: int) -> dict[str, Any]:
    """The higher the rank, the quicker it is."""
    return {"table": [[1, 1.0 / (rank + 1)]]}


def running(world_size: int = 3, *, elastic: bool = True, step: int = 0) -> Roster:
    roster = Roster(world_size, elastic)
    for rank in range(world_size):
        roster.connected(rank)
        last = roster.ready(rank, step, card(rank))
    form = formed(last)
    assert form is not None
    assert form["members"] == list(range(world_size))
    return roster


def test_the_first_group_waits_for_everybody() -> None:
    roster = Roster(2, elastic=True)
    roster.connected(0)
    assert roster.ready(0, 0, {}) == []
    assert roster.missing() == (1,)
    assert roster.why_missing(1) == "never connected"
    roster.connected(1)
    form = formed(roster.ready(1, 0, {"table": [[8, 1.0]]}))
    assert form is not None
    assert (form["generation"], form["joined"], form["cards"]["1"]) == (0, [0, 1], {"table": [[8, 1.0]]})


def test_a_lost_rank_breaks_the_group_and_the_others_go_on() -> None:
    roster = running()
    assert kinds(roster.lost(1, "closed")) == [(0, "break"), (2, "break")]
    assert roster.ready(0, 7, {}) == []
    form = formed(roster.ready(2, 7, {}))
    assert form is not None
    assert (form["generation"], form["members"], form["left"]) == (1, [0, 2], [1])
    assert form["reason"] == "rank 1 was lost: closed"


def test_the_first_cause_is_named_also_when_a_collective_failed_first() -> None:
    roster = running()
    assert kinds(roster.broken(0, 0, "Connection reset")) == [(0, "break"), (1, "break"), (2, "break")]
    assert roster.broken(2, 0, "Connection reset") == []
    assert roster.ready(0, 7, {}) == []
    assert roster.ready(2, 7, {}) == []
    form = formed(roster.lost(1, "closed"))
    assert form is not None
    assert form["members"] == [0, 2]
    assert form["reason"] == "rank 1 was lost: closed"


def test_the_member_that_is_ahead_is_the_source() -> None:
    roster = running()
    roster.lost(0, "closed")
    roster.ready(1, 7, {})
    form = formed(roster.ready(2, 8, {}))
    assert form is not None
    assert form["source"] == 2
    assert form["steps"] == {"1": 7, "2": 8}


def test_a_newcomer_waits_until_the_members_let_it_in() -> None:
    roster = running()
    roster.lost(1, "closed")
    roster.ready(0, 7, {})
    roster.ready(2, 7, {})
    roster.connected(1)
    asked = roster.ready(1, 0, {})
    assert kinds(asked) == [(0, "command"), (1, "command"), (2, "command")]
    assert asked[0][1]["command"] == "regroup"
    assert asked[0][1]["generation"] == 1
    assert roster.ready(0, 9, {}) == []
    form = formed(roster.ready(2, 9, {}))
    assert form is not None
    assert (form["members"], form["joined"], form["source"]) == ([0, 1, 2], [1], 0)


def test_a_newcomer_that_dies_while_it_is_let_in_costs_only_a_regroup() -> None:
    roster = running(2)
    roster.lost(1, "closed")
    roster.ready(0, 3, {})
    roster.connected(1)
    roster.ready(1, 0, {})
    assert roster.lost(1, "closed again") == []
    form = formed(roster.ready(0, 4, {}))
    assert form is not None
    assert (form["members"], form["joined"]) == ([0], [])


def test_without_elastic_the_run_ends_and_names_the_cause() -> None:
    roster = running(elastic=False)
    told = roster.lost(1, "its process ended")
    assert kinds(told) == [(0, "abort"), (2, "abort")]
    assert told[0][1]["reason"] == "rank 1 was lost: its process ended"
    assert roster.lost(2, "closed") == []
    assert roster.aborted == "rank 1 was lost: its process ended"


def test_commands_have_one_order_and_come_once() -> None:
    roster = running(2)
    first = roster.command("1-pause.json", {"command": "pause"})
    assert [(rank, message["index"]) for rank, message in first] == [(0, 1), (1, 1)]
    assert roster.command("1-pause.json", {"command": "pause"}) == []
    assert roster.command("2-resume.json", {"command": "resume"})[0][1]["index"] == 2
    assert [message["command"] for _, message in roster.connected(1)] == ["pause", "resume"]


def test_groups_that_fail_again_and_again_end_the_run() -> None:
    roster = running(2)
    for generation in range(MAX_FRUITLESS_GENERATIONS):
        roster.broken(0, generation, "no route to host")
        roster.ready(0, 0, {})
        told = roster.ready(1, 0, {})
    assert kinds(told) == [(0, "abort"), (1, "abort")]
    assert "no route to host" in roster.aborted


def test_progress_resets_the_patience() -> None:
    roster = running(2)
    for generation in range(3 * MAX_FRUITLESS_GENERATIONS):
        roster.broken(0, generation, "flaky cable")
        roster.ready(0, generation + 1, {})
        roster.ready(1, generation + 1, {})
    assert roster.aborted == ""


def test_the_run_is_over_when_all_that_live_have_finished() -> None:
    roster = running()
    roster.lost(2, "closed")
    roster.ready(0, 5, {})
    roster.ready(1, 5, {})
    over = []
    for rank in (0, 1):
        roster.finished(rank)
        over.append(roster.over)
    assert over == [False, True]
    assert roster.lost(0, "closed") == []


def test_a_newcomer_is_told_when_the_run_ended_without_it() -> None:
    roster = running(2)
    roster.lost(1, "closed")
    roster.ready(0, 5, {})
    roster.connected(1)
    roster.ready(1, 0, {})
    assert (1, "over") in kinds(roster.finished(0))


def test_a_rank_that_leaves_in_good_order_is_not_waited_for() -> None:
    roster = running()
    assert kinds(roster.command("leave-1", {"command": "leave", "rank": 1, "generation": 0})) == [
        (rank, "command") for rank in range(3)
    ]
    assert roster.ready(0, 4, {}) == [], "who leaves may not have said so yet"
    assert roster.left(1, "rank 1 left: h1 was told to end") == []
    form = formed(roster.ready(2, 4, {}))
    assert form is not None
    assert (form["members"], form["left"], form["reason"]) == ([0, 2], [1], "rank 1 left: h1 was told to end")
    assert not roster.breaking


def test_a_group_that_breaks_while_somebody_leaves_names_who_left_first() -> None:
    roster = running()
    roster.left(1, "rank 1 left: h1 was told to end")
    assert kinds(roster.broken(0, 0, "Connection closed by peer")) == [(0, "break"), (2, "break")]
    roster.ready(0, 4, {})
    form = formed(roster.ready(2, 3, {}))
    assert form is not None
    assert (form["members"], form["source"]) == ([0, 2], 0)
    assert form["reason"] == "rank 1 left: h1 was told to end"


def test_a_rank_that_leaves_before_the_first_group_is_not_waited_for() -> None:
    roster = Roster(2, elastic=True)
    roster.connected(0)
    roster.connected(1)
    assert roster.ready(0, 0, {}) == []
    form = formed(roster.left(1, "rank 1 left: h1 was told to end"))
    assert form is not None
    assert form["members"] == [0]


def asked(outgoing: Outgoing) -> list[tuple[int, list[int], int]]:
    return [(rank, message["ranks"], message["answers"]) for rank, message in outgoing if message["type"] == "probe"]


def cut_between_1_and_2() -> Roster:
    """Rank 2 is the quickest of three, and rank 1 stands aside."""
    roster = running()
    out = roster.cut([1], [2])
    assert kinds(out) == [(1, "probe"), (0, "break"), (1, "break"), (2, "break")]
    assert asked(out) == [(1, [2], 3)]
    assert formed(roster.ready(1, 7, card(1))) is None
    assert formed(roster.ready(0, 7, card(0))) is None
    form = formed(roster.ready(2, 7, card(2)))
    assert form is not None
    assert (form["members"], form["left"]) == ([0, 2], [1])
    assert form["reason"] == "rank 1 and rank 2 do not reach each other; the run goes on without rank 1 until they do"
    return roster


def test_the_slower_of_two_that_do_not_reach_each_other_stands_aside_until_they_do() -> None:
    roster = cut_between_1_and_2()
    assert roster.stands_aside(1)
    assert roster.cut([2], [1]) == [], "the same cut, seen from the other side"
    out = roster.reached(1, [2])
    assert asked(out) == [(1, [], 3)]
    assert {message["command"] for _, message in out if message["type"] == "command"} == {"regroup"}
    roster.ready(0, 9, card(0))
    form = formed(roster.ready(2, 9, card(2)))
    assert form is not None
    assert (form["members"], form["joined"], form["source"]) == ([0, 1, 2], [1], 0)
    assert asked(roster.cut([1], [2])) == [(1, [2], 6)], "a link that comes and goes must hold for longer"


def test_nobody_stands_aside_for_a_rank_that_is_gone() -> None:
    roster = cut_between_1_and_2()
    roster.lost(2, "closed")
    assert not roster.stands_aside(1)
    form = formed(roster.ready(0, 9, {}))
    assert form is not None
    assert form["members"] == [0, 1]


def test_a_rank_that_stands_aside_is_told_the_end_of_the_run() -> None:
    roster = cut_between_1_and_2()
    roster.finished(0)
    assert kinds(roster.finished(2)) == [(1, "over")]


def test_a_cut_changes_nothing_without_elastic_or_within_one_host() -> None:
    assert running(elastic=False).cut([1], [2]) == []
    assert running().cut([1, 2], [2]) == []
    assert running().cut([1], [7]) == []


def test_of_equal_steps_those_of_a_member_count_not_those_of_one_that_comes_back() -> None:
    roster = running()
    roster.lost(0, "cut off")
    roster.ready(1, 8, {})
    assert formed(roster.ready(2, 8, {})) is not None
    roster.connected(0)
    roster.ready(0, 8, {})
    roster.ready(1, 8, {})
    form = formed(roster.ready(2, 8, {}))
    assert form is not None
    assert (form["joined"], form["source"]) == ([0], 1)

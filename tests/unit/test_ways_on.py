"""How a run goes on after its end: limits, restarts, hosts that are left out, and what a person is offered."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_tui.following import lost_text, why_ended
from hetero_tui.progress_watch import Progress, hung_text, watch_progress
from hetero_tui.restart import gone, wait_before
from hetero_tui.run_to_end import Troubles
from hetero_tui.screens.questions import ways_on
from hetero_tui.store import Store
from remote.errors import UserError
from remote.inventory import Inventory, Limits, parse_inventory
from remote.progress import HostStatus
from remote.resume import choose_resume, without_hosts
from remote.runtime import HostRunState, State
from trainer.events import Step

CLUSTER = """\
[cluster]
name = "home"
master_address = "192.168.1.10"
[image]
ref = "trainer:1"
[training]
workload = "simple_cnn"
checkpoint_dir = "/data/checkpoints"
"""


def inventory(*names: str, master: str = "") -> Inventory:
    hosts = "".join(f'[[hosts]]\nname = "{name}"\naddress = "192.168.1.{at}"\n' for at, name in enumerate(names, 10))
    text = CLUSTER.replace("[image]", f'master = "{master}"\n[image]') if master else CLUSTER
    return parse_inventory(text + hosts, "cluster.toml")


def test_a_left_out_master_makes_room_for_the_next_host() -> None:
    left = without_hosts(inventory("a", "b", "c"), ["a"])
    assert [host.name for host in left.hosts] == ["b", "c"]
    assert (left.master.name, left.cluster.master_address) == ("b", "")
    named = without_hosts(inventory("a", "b", "c", master="c"), ["c"])
    assert (named.master.name, named.cluster.master_address) == ("a", "")


def test_a_left_out_worker_changes_nothing_else() -> None:
    left = without_hosts(inventory("a", "b"), ["b"])
    assert (left.master.name, left.cluster.master_address) == ("a", "192.168.1.10")


@pytest.mark.parametrize(("names", "said"), [(["x"], "no host named 'x'"), (["a", "b"], "no host would stay")])
def test_leaving_out_too_much_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        without_hosts(inventory("a", "b"), names)


def test_a_run_that_kept_its_checkpoints_on_the_hosts_is_resumed_when_it_is_the_newest(tmp_path: Path) -> None:
    for run in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        (tmp_path / "home" / run).mkdir(parents=True)
    assert "/data/checkpoints on the hosts" in choose_resume(inventory("a"), tmp_path, "20260102-000000-bbbb").note
    with pytest.raises(UserError, match=r"those of a later run \(20260102-000000-bbbb\)"):
        choose_resume(inventory("a"), tmp_path, "20260101-000000-aaaa")


def test_waits_between_restarts_double_up_to_five_minutes() -> None:
    limits = Limits(restarts=20, restart_wait_seconds=5)
    assert [wait_before(limits, attempt) for attempt in (0, 1, 2, 10, 19)] == [5, 10, 20, 300, 300]
    statuses = [HostStatus("b", "lost"), HostStatus("a", "connected"), HostStatus("c", "failed", "no route")]
    assert gone(statuses) == ("b", "c")


def test_what_is_offered_after_a_run() -> None:
    assert ways_on(failed=False, gone=[], kept={}) == []
    assert [way for way, _ in ways_on(failed=True, gone=[], kept={})] == ["resume", ""]
    assert [way for way, _ in ways_on(failed=True, gone=["b"], kept={})] == ["without", "resume", ""]
    kept = ways_on(failed=False, gone=[], kept={"b": "disk full"})
    assert [way for way, _ in kept] == ["fetch", "discard", ""]
    assert "b" in kept[0][1]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (HostRunState("a", "r", State.EXITED, exit_code=0), ""),
        (HostRunState("a", "r", State.RUNNING), ""),
        (HostRunState("a", "r", State.MISSING), "somebody removed it"),
        (HostRunState("a", "r", State.EXITED, exit_code=137, out_of_memory=True), "memory ran out"),
        (HostRunState("a", "r", State.EXITED, exit_code=137), "SIGKILL"),
        (HostRunState("a", "r", State.EXITED, exit_code=3), "exited 3"),
        (HostRunState("a", "r", State.EXITED, detail="the machine was restarted"), "the machine was restarted"),
    ],
)
def test_a_bad_end_has_a_cause(state: HostRunState, said: str) -> None:
    assert said in why_ended(state)
    assert bool(why_ended(state)) == bool(said)


@pytest.mark.parametrize(
    ("is_reached", "runtime", "said"),
    [
        (False, "docker", "host unreachable"),
        (True, "docker", "its engine is gone"),
        (True, "process", "its log broke off"),
    ],
)
def test_what_was_lost_is_told_apart(is_reached: bool, runtime: str, said: str) -> None:
    text = lost_text("no answer", is_reached=is_reached, runtime=runtime)
    assert text == f"no contact: {said}; training may go on there; trying again every few seconds (no answer)"


def test_a_run_without_progress_is_told_once_for_each_hang() -> None:
    now = [100.0]
    store = Store(clock=lambda: now[0], wall_clock=lambda: now[0])
    store.expect("a", {0: "cpu"})
    progress = Progress(patience=30.0)

    def step(number: int) -> None:
        told = Step(
            rank=0, seq=number, time=now[0], step=number, steps_total=99, epoch=0, share=4, global_batch=4, compute=0.1,
            duration=0.2, loss=1.0,
        )  # fmt: skip
        store.feed("a", told)

    def look(after: float) -> float:
        now[0] += after
        return progress.look(store.cluster_view(), now[0])

    assert look(1000) == 0.0, "a run that has not begun does not hang"
    step(0)
    assert [look(1), look(20), look(15), look(60)] == [0.0, 0.0, 35.0, 0.0]
    step(1)
    assert [look(1), look(31)] == [0.0, 31.0]
    assert "silent: rank 0 on a" in hung_text(31.0, store.rank_views())
    store.note_control({"command": "pause"})
    assert [look(1), look(100)] == [0.0, 0.0], "a pause is no hang"


async def test_time_in_which_nobody_could_tell_of_a_step_is_no_hang() -> None:
    now, heard, looks = (
        [0.0],
        [True],
        iter([(1.0, True)] * 3 + [(1.0, False)] * 400 + [(900.0, True)] + [(1.0, True)] * 40),
    )
    store = Store(clock=lambda: now[0], wall_clock=lambda: now[0])
    store.feed("a", Step(rank=0, seq=0, time=0.0, step=1, steps_total=9, share=4, global_batch=4, duration=0.2))
    told: list[float] = []

    async def sleep(_seconds: float) -> None:
        told.extend(now[0] for record in store.events.tail(1) if "no step for" in record.text and not told)
        after, heard[0] = next(looks)
        now[0] += after

    with pytest.raises(RuntimeError, match="StopIteration"):
        await watch_progress(store, 30.0, is_heard=lambda: heard[0], clock=lambda: now[0], sleep=sleep)
    away = 400.0 + 900.0
    assert [each - away for each in told] == [pytest.approx(30.0, abs=8.0)], "not while away, nor for being suspended"


def test_a_person_without_a_screen_is_told_that_a_host_is_back() -> None:
    store = Store()
    troubles = Troubles(store)
    store.note("results: 3 files", host="b")
    store.note("no contact", "error", host="a")
    store.note("in contact again", host="a")
    store.note("results: 3 files", host="a")
    assert troubles.news() == ["a: error: no contact", "a: in contact again"]
    assert troubles.news() == []

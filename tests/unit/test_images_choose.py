from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.images.choose import common_layers, make_image_plan, render_image_plan
from remote.images.model import THIS_MACHINE, HostImagePlan, ImageState, KnownImage
from remote.inventory_model import ImageMethod

REF = "hetero-trainer:cpu"
IMAGE = KnownImage("sha256:aa", ("a", "b", "c"), "amd64", 900)
OTHER = KnownImage("sha256:bb", ("a", "x"), "amd64", 800)


def _state(host: str, image: KnownImage | None = None, *, architecture: str = "amd64") -> ImageState:
    return ImageState(host, REF, architecture, image=image, free_bytes=10_000)


def _plans(*states: ImageState, method: ImageMethod = "auto", **more: object) -> list[HostImagePlan]:
    return list(make_image_plan(states, method=method, master=states[0].host, **more).hosts)  # type: ignore[arg-type]


def test_auto_sends_from_the_master_to_whoever_lacks_it_or_differs() -> None:
    plans = _plans(_state("a", IMAGE), _state("b"), _state("c", OTHER), _state("d", IMAGE))
    assert [each.method for each in plans] == ["present", "send", "send", "present"]
    assert [each.source for each in plans] == ["", "a", "a", ""]
    assert "other layers than on a" in plans[2].why


def test_the_master_is_the_measure_then_this_machine_then_most() -> None:
    here = replace(_state(THIS_MACHINE, OTHER), free_bytes=0)
    assert _plans(_state("a"), _state("b", IMAGE), others=[here])[0].source == THIS_MACHINE
    assert _plans(_state("a"), _state("b", OTHER), _state("c", IMAGE), _state("d", IMAGE))[0].source == "c"


def test_what_is_missing_is_counted_above_the_layers_that_are_there() -> None:
    master = replace(_state("a", IMAGE), layer_sizes=(500, 300, 0, 100))
    has_two = replace(_state("b"), chains=(("a", "z"), ("a", "b", "y")))
    plan = _plans(master, has_two)[1]
    assert (plan.bytes_to_move, plan.bytes_needed) == (100, 200)
    assert "2 of 3 layers are there" in plan.why


def test_too_little_space_is_known_before_the_first_byte() -> None:
    plan = _plans(_state("a", IMAGE), replace(_state("b"), free_bytes=1799))[1]
    assert plan.method == "impossible"
    assert "free" in plan.why
    assert "prune" in plan.next_step
    assert _plans(_state("a", IMAGE), replace(_state("b"), free_bytes=1800))[1].method == "send"


def test_another_processor_is_refused_with_the_way_out() -> None:
    plan = _plans(_state("a", IMAGE), _state("pi", architecture="arm64"), method="send")[1]
    assert plan.method == "impossible"
    assert "a (amd64)" in plan.why
    assert "--platform linux/arm64" in plan.next_step


@pytest.mark.parametrize(
    ("method", "expected"),
    [("present", "impossible"), ("registry", "registry"), ("build", "impossible"), ("send", "send"), ("auto", "send")],
)
def test_the_inventory_decides(method: ImageMethod, expected: str) -> None:
    assert _plans(_state("a", IMAGE), _state("b"), method=method)[1].method == expected


def test_nobody_has_it() -> None:
    assert [each.method for each in _plans(_state("a"), _state("b"))] == ["registry", "registry"]
    assert [each.method for each in _plans(_state("a"), method="send")] == ["impossible"]


def test_a_build_context_wins_over_what_was_built_from_something_else() -> None:
    builds = {REF: "label-2"}
    stale, fresh = replace(IMAGE, build_label="label-1"), replace(OTHER, build_label="label-2")
    plans = _plans(_state("a", stale), _state("b"), builds=builds)
    assert [(each.method, each.source) for each in plans] == [("build", "a"), ("build", "a")]
    plans = _plans(_state("a", stale), _state("b", fresh), builds=builds)
    assert [(each.method, each.source) for each in plans] == [("send", "b"), ("present", "")]
    plans = _plans(_state("a", fresh), _state("pi", architecture="arm64"), method="build", builds=builds)
    assert [(each.method, each.source) for each in plans] == [("present", ""), ("build", "pi")]


def test_builds_on_every_host_are_warned_about_and_not_repeated() -> None:
    builds = {REF: "label-2"}
    on_each = {"builds": builds, "build_on_each": True}
    plans = _plans(_state("a"), _state("b"), _state("pi", architecture="arm64"), method="build", **on_each)
    assert [(each.method, each.source) for each in plans] == [("build", "a"), ("build", "b"), ("build", "pi")]
    assert "b builds its own" in plans[0].warning
    assert 'build_on = "one"' in plans[1].warning
    assert plans[2].warning == "", "nobody else builds for its processor"
    shown = render_image_plan(make_image_plan([_state("a"), _state("b")], method="build", master="a", **on_each))  # type: ignore[arg-type]
    assert shown.count("warning: two builds rarely") == 2

    built = [replace(IMAGE, build_label="label-2"), replace(OTHER, build_label="label-2")]
    plans = _plans(_state("a", built[0]), _state("b", built[1]), method="build", **on_each)
    assert [each.method for each in plans] == ["present", "present"]
    assert "same-image" in plans[1].warning


def test_a_digest_can_only_come_from_a_registry() -> None:
    pinned = f"app@sha256:{'0' * 64}"
    states = [replace(_state("a", IMAGE), ref=pinned), replace(_state("b"), ref=pinned)]
    assert [each.method for each in _plans(*states)] == ["present", "registry"]
    assert _plans(*states, method="send")[1].method == "impossible"


def test_hosts_without_containers_or_answers_do_not_hold_up_the_rest() -> None:
    process = ImageState("m", "", "", uses_containers=False)
    dead = replace(_state("x"), problem="no engine")
    plans = _plans(_state("a", IMAGE), process, dead, _state("b"))
    assert [each.method for each in plans] == ["present", "none", "impossible", "send"]
    shown = render_image_plan(make_image_plan([_state("a", IMAGE), dead], method="auto", master="a"))
    assert "no engine" in shown
    assert "→" in shown


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=4))
def test_common_layers_is_the_longest_common_beginning(layers: list[str], chains: list[list[str]]) -> None:
    count = common_layers(layers, chains)
    assert count == 0 or any(chain[:count] == layers[:count] for chain in chains)
    assert all(chain[: count + 1] != layers[: count + 1] or len(layers) == count for chain in chains)

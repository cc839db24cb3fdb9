"""Who may be excluded, in words, and mistakes that are told before any host is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_tui.exclusion import cost_text, excluded_hosts, refusal, refusal_told
from hetero_tui.exclusion_command import change
from hetero_tui.store import Store
from hetero_tui.views import ClusterView, RankState, RankView, RunState, StepParts
from remote.errors import UserError
from trainer.events import Notice

CLUSTER = ClusterView(RunState.TRAINING, "training", samples_per_second=400.0, global_batch=100)


def view(rank: int, host: str, speed: float, state: RankState = RankState.TRAINING) -> RankView:
    share = round(100 * speed / 400)
    return RankView(rank, host, state, share=share, speed=speed, parts=StepParts(compute=1.0), step_seconds=0.25)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tower", "no host 'tower' in x\n.*name one of alpha, beta"),
        ("alpa", "no host 'alpa' in x\n.*did you mean alpha?"),
    ],
)
async def test_an_unknown_host_is_a_mistake_and_nothing_is_asked(tmp_path: Path, given: str, said: str) -> None:
    path = tmp_path / "cluster.toml"
    hosts = [
        f'[[hosts]]\nname = "{name}"\naddress = "{name}.invalid"\nruntime = "process"\n' for name in ("alpha", "beta")
    ]
    path.write_text('[cluster]\nname = "x"\n[training]\nworkload = "simple_cnn"\n' + "".join(hosts))
    with pytest.raises(UserError, match=said):
        await change("exclude", path, given, run="", timeout=1.0, experiments=tmp_path, as_json=True)


def test_the_cost_is_what_the_others_would_do_less() -> None:
    views = (view(0, "a", 300.0), view(1, "b", 100.0))
    assert cost_text(views, CLUSTER, "b") == (
        "Predicted: it costs 100 samples/s; the others do 300 samples/s without it, -25.0 %."
    )
    assert "cannot be predicted" in cost_text((view(0, "a", 0.0), view(1, "b", 0.0)), CLUSTER, "b")


def test_who_cannot_be_excluded() -> None:
    excluded, lost = view(1, "b", 0.0, RankState.EXCLUDED), view(2, "c", 100.0, RankState.FAILED)
    views = (view(0, "a", 300.0), excluded, lost)
    assert excluded_hosts(views) == {"b"}
    assert refusal(views, "a") == "a cannot be excluded: no other host is left to compute"
    assert refusal(views, "b") == "b is excluded already"
    assert refusal(views, "c") == "no rank of c takes part in the run"
    assert refusal((views[0], view(1, "b", 100.0)), "a") == ""


def test_a_refusal_is_recognised_by_its_code_whatever_the_words() -> None:
    store = Store()

    def tell(seq: int, text: str, code: str = "", about: str = "", rank: int = 0) -> None:
        store.feed("alpha", Notice(rank=rank, seq=seq, time=1.0, level="error", text=text, code=code, about=about))

    tell(0, "beta is excluded already", "exclude-refused", "beta")
    begin = store.events.next
    tell(1, "cannot exclude beta: as trainers before the code said it")
    tell(2, "nicht möglich", "exclude-refused", "alpha")
    tell(0, "said by an agent", "exclude-refused", "beta", rank=-1)
    assert refusal_told(store, begin, "exclude", "beta") == ""
    tell(3, "[b]beta[/b] kann nicht\x1b[2J ausgenommen werden", "exclude-refused", "beta")
    assert refusal_told(store, begin, "exclude", "beta") == "[b]beta[/b] kann nicht ausgenommen werden"
    assert refusal_told(store, begin, "admit", "beta") == ""

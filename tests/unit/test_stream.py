"""Following a log across lost connections: what is asked again, when, and when it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.errors import ConnectionDropped, EngineError, HostKeyChanged, HostUnreachable, LoginRefused
from remote.plan_model import HostPlan
from remote.progress import LaunchProgress
from remote.runtime import FetchReport, HostRunState, LogLine, State, StoredCheckpoint
from remote.stream import LONGEST_WAIT, Backoff, LinkChange, follow

RUN = "run"


@dataclass
class ScriptedRuntime:
    """A host that writes numbered lines and fails where the script says so.

    The failures of a real connection are in the SSH and engine tests; here the moments are chosen.
    """

    script: list[object]
    """For each turn: an exception, or how many lines to give and what follows them."""
    total: int
    host: str = "alpha"
    asked: list[str] = field(default_factory=list)
    closed: int = 0

    async def inspect(self, run_id: str) -> HostRunState:
        assert run_id == RUN
        turn = self.script[0]
        if isinstance(turn, State):
            self.script.pop(0)
            return HostRunState(self.host, RUN, turn)
        if isinstance(turn, Exception):
            self.script.pop(0)
            raise turn
        return HostRunState(self.host, RUN, State.RUNNING if len(self.script) > 1 else State.EXITED)

    async def logs(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncGenerator[list[LogLine], None]:
        self.asked.append(after)
        turn = self.script.pop(0)
        assert isinstance(turn, tuple)
        count, then = turn
        start = int(after or "0")
        try:
            for number in range(start + 1, min(start + count, self.total) + 1):
                yield [LogLine(f"line {number}", str(number))]
            if then is not None:
                raise then
        finally:
            self.closed += 1

    async def create(self, plan: HostPlan, run_id: str) -> None:
        raise NotImplementedError

    async def start(self, run_id: str) -> None:
        raise NotImplementedError

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        raise NotImplementedError

    async def place(self, run_id: str, checkpoint: StoredCheckpoint, report: Callable[[LaunchProgress], None]) -> None:
        raise NotImplementedError

    async def end(self, run_id: str, *, grace: float = 10.0) -> None:
        raise NotImplementedError

    async def fetch(
        self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
    ) -> FetchReport:
        raise NotImplementedError

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        raise NotImplementedError

    async def runs(self, cluster: str) -> tuple[HostRunState, ...]:
        raise NotImplementedError


@dataclass
class Watched:
    lines: list[str] = field(default_factory=list)
    changes: list[tuple[LinkChange, str]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


async def watch(runtime: ScriptedRuntime, connects: Sequence[Exception | None] = (), after: str = "") -> Watched:
    watched = Watched()
    failures = list(connects)

    async def connect() -> ScriptedRuntime:
        if failures and (failure := failures.pop(0)) is not None:
            raise failure
        return runtime

    async def sleep(seconds: float) -> None:
        watched.waits.append(seconds)

    async for batch in follow(
        RUN,
        connect,
        after=after,
        report=lambda change, detail: watched.changes.append((change, detail)),
        backoff=Backoff(spread=lambda: 1.0),
        sleep=sleep,
    ):
        watched.lines += [line.text for line in batch]
    return watched


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last + 1)]


DROPPED = ConnectionDropped("the line went dead", host="alpha")


async def test_a_log_without_trouble() -> None:
    watched = await watch(ScriptedRuntime([(9, None)], total=9))
    assert watched == Watched(lines=numbered(1, 9))


async def test_it_begins_behind_a_position() -> None:
    assert (await watch(ScriptedRuntime([(9, None)], total=9), after="4")).lines == numbered(5, 9)


async def test_it_goes_on_where_it_was_cut_and_tells_so() -> None:
    runtime = ScriptedRuntime([(3, DROPPED), (2, DROPPED), (9, None)], total=9)
    watched = await watch(runtime)
    assert watched.lines == numbered(1, 9)
    assert runtime.asked == ["", "3", "5"]
    assert runtime.closed == 3
    assert watched.changes == [
        ("lost", "the line went dead"),
        ("again", ""),
        ("lost", "the line went dead"),
        ("again", ""),
    ]
    assert watched.waits == [1.0, 1.0], "lines that come make the next wait short again"


async def test_waits_double_up_to_the_longest_and_one_loss_is_told_once() -> None:
    connects = [None, *[HostUnreachable("no answer", host="alpha")] * 7, None]
    watched = await watch(ScriptedRuntime([(3, DROPPED), (9, None)], total=9), connects)
    assert watched.lines == numbered(1, 9)
    assert watched.waits == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    assert [change for change, _ in watched.changes] == ["lost", "again"]


@pytest.mark.parametrize("error", [EngineError("restarting"), TimeoutError(), ConnectionResetError()])
async def test_whatever_may_pass_is_tried_again(error: Exception) -> None:
    watched = await watch(ScriptedRuntime([error, (9, None)], total=9))
    assert watched.lines == numbered(1, 9)
    assert watched.changes[0][0] == "lost"
    assert watched.changes[0][1] not in {"alpha: ", ""}


@pytest.mark.parametrize("refusal", [HostKeyChanged("another key", host="alpha"), LoginRefused("no key", host="alpha")])
async def test_a_refusal_ends_it(refusal: Exception) -> None:
    with pytest.raises(type(refusal)):
        await watch(ScriptedRuntime([(3, DROPPED), (9, None)], total=9), [None, refusal])


async def test_a_log_that_ends_while_the_run_lives_is_asked_again() -> None:
    """As when the engine restarts under running containers."""
    runtime = ScriptedRuntime([(4, None), (9, None)], total=9)
    watched = await watch(runtime)
    assert watched.lines == numbered(1, 9)
    assert runtime.asked == ["", "4"]
    assert watched.changes == []


async def test_a_run_that_is_gone_ends_it() -> None:
    watched = await watch(ScriptedRuntime([(4, DROPPED), State.MISSING], total=9))
    assert watched.lines == numbered(1, 4)
    assert [change for change, _ in watched.changes] == ["lost", "again"]


async def test_the_reader_may_stop_at_any_time() -> None:
    runtime = ScriptedRuntime([(9, None), (9, None)], total=9)

    async def connect() -> ScriptedRuntime:
        return runtime

    lines = follow(RUN, connect, report=lambda change, detail: None)
    assert [line.text for line in await anext(lines)] == ["line 1"]
    await lines.aclose()
    assert runtime.closed == 1, "what feeds the stream has been ended too"


@given(attempt=st.integers(0, 2000), spread=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_longer_than_the_longest_nor_shorter_than_half(attempt: int, spread: float) -> None:
    wait = Backoff(spread=lambda: spread).wait(attempt)
    assert min(LONGEST_WAIT, 2.0 ** min(attempt, 5)) / 2 <= wait <= LONGEST_WAIT

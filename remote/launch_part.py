"""One host's part of a launch: created, started, listened to, and, when it does not come up, why."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from remote.decode_errors import Decoded, decode, decode_exit
from remote.errors import RemoteError
from remote.plan_model import HostPlan
from remote.progress import LaunchPhase, LaunchProgress
from remote.runtime import HostRunState, HostRuntime, State, closing
from remote.text import one_line, printable
from trainer.events import EventError, Failed, Hello, Output
from trainer.events import decode as decode_event

INSPECT_TIMEOUT: Final = 5.0
INSPECT_AGAIN: Final = 0.05
TAIL_LINES: Final = 12

Report = Callable[[LaunchProgress], None]


@dataclass(frozen=True, slots=True)
class MissingHost:
    """A host whose ranks did not come up."""

    host: str
    ranks: tuple[int, ...]
    """The ranks of the host that are missing."""
    reason: str
    next_step: str = ""
    last_lines: tuple[str, ...] = ()
    is_consequence: bool = False
    """True when the reason points at another host."""


@dataclass(slots=True)
class Part:
    """One host's part of the launch."""

    plan: HostPlan
    runtime: HostRuntime
    run_id: str
    report: Report
    hellos: dict[int, Hello] = field(default_factory=dict)
    failure: Failed | None = None
    problem: MissingHost | None = None
    was_created: bool = False
    """Something may be there to be taken back."""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    @property
    def host(self) -> str:
        return self.plan.host

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(each.rank for each in self.plan.ranks)

    @property
    def is_ready(self) -> bool:
        return self.problem is None and all(rank in self.hellos for rank in self.ranks)

    def tell(self, phase: LaunchPhase, detail: str = "") -> None:
        self.report(LaunchProgress(self.host, phase, detail))

    def fail(self, reason: str, decoded: Decoded | None = None, next_step: str = "") -> None:
        """Note the first thing that went wrong; what follows is its consequence."""
        if self.problem is not None:
            return
        silent = tuple(rank for rank in self.ranks if rank not in self.hellos)
        self.problem = MissingHost(
            host=self.host,
            ranks=silent or self.ranks,
            reason=reason,
            next_step=next_step or (decoded.next_step if decoded else ""),
            last_lines=tuple(self.tail),
            is_consequence=decoded is not None and decoded.is_consequence,
        )
        self.tell("failed", reason)

    def fail_with(self, error: RemoteError | TimeoutError | OSError) -> None:
        if isinstance(error, RemoteError):
            self.fail(error.message, next_step=error.next_step)
        else:
            self.fail(one_line(error))

    async def create(self) -> None:
        self.tell("creating")
        self.was_created = True
        await self.runtime.create(self.plan, self.run_id)
        self.tell("created")

    async def start_and_watch(self, changed: Callable[[], None]) -> None:
        """Start, then read the log until cancelled, until it ends or until the host has a problem."""
        self.tell("starting")
        await self.runtime.start(self.run_id)
        self.tell("importing")
        async with closing(self.runtime.logs(self.run_id)) as batches:
            async for lines in batches:
                for line in lines:
                    self._take(line.text)
                if self.failure is not None:
                    break
                changed()
        await self.explain_end()

    def _take(self, text: str) -> None:
        try:
            event = decode_event(text)
        except EventError:
            event = None
        match event:
            case Hello():
                was_ready = self.is_ready
                self.hellos[event.rank] = event
                if self.is_ready and not was_ready:
                    self.tell("ready", event.device_name or event.device)
            case Failed():
                self.failure = self.failure or event
            case Output():
                self.tail.append(printable(event.text))
            case None:
                self.tail.append(printable(text))

    async def explain_end(self) -> None:
        """Note why the log ended, or why a rank gave up, before the go."""
        said = "\n".join([self.failure.error, self.failure.traceback] if self.failure else self.tail)
        decoded = decode(said)
        state = await self._state(is_ending=self.failure is None)
        ended = decode_exit(state.exit_code, out_of_memory=state.out_of_memory) if state.exit_code is not None else None
        if state.out_of_memory and ended is not None:
            self.fail(ended.cause, ended)
        elif decoded is not None:
            self.fail(_with_exit(decoded.cause, state), decoded)
        elif self.failure is not None:
            self.fail(_with_exit(printable(self.failure.error), state))
        elif ended is not None:
            self.fail(ended.cause, ended)
        elif state.state is State.EXITED and state.exit_code == 0:
            self.fail("exited 0 before the go", next_step="is the command the trainer? See hetero-tui plan")
        else:
            self.fail(state.detail or _with_exit("ended before the go", state))

    async def explain_silence(self, seconds: float) -> None:
        """Note why a host that neither failed nor became ready is late."""
        decoded = decode("\n".join(self.tail))
        silent = ", ".join(str(rank) for rank in self.ranks if rank not in self.hellos)
        state = await self._state()
        what = f"no hello of rank {silent} within {seconds:g} s, though it is {state.state.value}"
        self.fail(f"{what}: {decoded.cause}" if decoded else what, decoded, "" if decoded else "see its last lines")

    async def _state(self, *, is_ending: bool = False) -> HostRunState:
        """Ask for the state; a log can end a moment before the engine has noted how the container ended."""
        try:
            async with asyncio.timeout(INSPECT_TIMEOUT):
                while (state := await self.runtime.inspect(self.run_id)).state is State.RUNNING and is_ending:  # noqa: ASYNC110
                    await asyncio.sleep(INSPECT_AGAIN)
                return state
        except (RemoteError, TimeoutError, OSError) as error:
            return HostRunState(self.host, self.run_id, State.MISSING, detail=f"it cannot be asked: {one_line(error)}")


def _with_exit(text: str, state: HostRunState) -> str:
    return text if state.exit_code is None else f"{text} (exited {state.exit_code})"

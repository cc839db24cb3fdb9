"""The state of a run: events in, bounded windows and frozen views out. Pure: no Textual, no I/O, clocks injected."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hetero_tui.cached import Cached
from hetero_tui.cluster_figures import StepTallies, efficiency, run_state
from hetero_tui.course import Course
from hetero_tui.event_text import describe
from hetero_tui.failures import Failures, failure_record
from hetero_tui.output_room import OutputRoom
from hetero_tui.rank_record import RankRecord, sane_samples, sane_seconds, sane_speed
from hetero_tui.run_log import LOG_LINES, RunLog
from hetero_tui.sanitize import clean
from hetero_tui.sequences import Sequences
from hetero_tui.step_rows import StepRow
from hetero_tui.views import (
    ClusterView,
    Efficiency,
    EventRecord,
    FailureRecord,
    LogRecord,
    RankState,
    RankView,
    SharesRecord,
)
from hetero_tui.windows import Point, Ring
from trainer.events import (
    Calibrated,
    Checkpoint,
    Done,
    Epoch,
    Event,
    Failed,
    Hardware,
    Hello,
    Joined,
    Membership,
    Notice,
    Output,
    Shares,
    Step,
)

MAX_RANKS: Final = 4096
"""A rank number beyond this is a mistake or an attack; it is counted, not kept."""
STEP_POINTS_TOTAL: Final = 32_768
"""Points of the ranks' step times in all."""
EVENT_RECORDS: Final = 2_000
SHARES_RECORDS: Final = 200
_PAUSE_TAKES_EFFECT: Final = 5.0
"""Seconds after which a new step means that the run is no longer paused."""


_RANK_IN_TEXT: Final = re.compile(r"rank (\d{1,5}) ")


class Store:
    """Everything known of one run. ``version`` changes whenever something that is drawn may have changed."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        log_lines: int = LOG_LINES,
        every_line: bool = False,
    ) -> None:
        """``clock`` returns seconds that never go back; ``wall_clock`` seconds since the epoch.

        ``every_line`` takes in all output, however fast it comes.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self.version = 0
        self._run_log = RunLog(log_lines)
        self.log = self._run_log.all
        self.events: Ring[EventRecord] = Ring(EVENT_RECORDS)
        self._room = OutputRoom(unlimited=every_line)
        self.lost_lines = 0
        """Events whose number was skipped."""
        self.duplicate_lines = 0
        """Events that had come before, such as after a reconnect."""
        self.broken_events = 0
        """Lines that claim to be events and are not valid."""
        self.ignored_events = 0
        """Events with an impossible rank."""
        self._rank_views: Cached[tuple[RankView, ...]] = Cached((), -math.inf, -1)
        self._cluster_view: Cached[ClusterView] | None = None
        self._ranks: dict[int, RankRecord] = {}
        self._living = 0
        self._step_points = STEP_POINTS_TOTAL
        self._sequences = Sequences()
        self._shares: deque[SharesRecord] = deque(maxlen=SHARES_RECORDS)
        self._failures = Failures()
        self._tallies = StepTallies()
        self._course = Course()
        self._paused_since: float | None = None
        self._started: float | None = None
        self._ended: float | None = None
        self._last_received: float | None = None

    # What comes in

    def expect(self, host: str, devices: Mapping[int, str]) -> None:
        """Announce the ranks of a host, as planned (rank to torch device), before they speak."""
        for rank, device in devices.items():
            record = self._rank(rank, host)
            if record is not None and not record.device:
                record.device = clean(device, 60)
        self.version += 1

    def note_launch(self, host: str, phase: str) -> None:
        """A host moved on in the launch, or was stopped; ranks that do not say otherwise themselves show it."""
        states = {
            "importing": RankState.IMPORTING,
            "go": RankState.CALIBRATING,
            "failed": RankState.FAILED,
            "stopped": RankState.STOPPED,
        }
        state = states.get(phase)
        for record in self._ranks.values():
            if record.host != host or state is None:
                continue
            if state.ended:
                record.state = record.state if record.state.ended else state
                continue
            silent = record.state in (RankState.STARTING, RankState.IMPORTING)
            if silent or (state is RankState.CALIBRATING and record.state is RankState.WAITING_FOR_GO):
                record.state = state
        self.version += 1

    def note_control(self, message: Mapping[str, object]) -> None:
        """A control message was sent to the run."""
        command = message.get("command")
        if command == "pause":
            self._paused_since = self._clock()
        elif command in ("resume", "stop"):
            self._paused_since = None
        self.version += 1

    def note(self, text: str, level: str = "info", host: str = "") -> None:
        """This program has something to tell (a lost connection, a finished operation)."""
        self._happened(EventRecord(self._wall_clock(), host, -1, "notice", level, clean(text)))
        self.version += 1

    def mark(self, rank: int | None = None) -> None:
        """Draw a line into the log (of one rank, or of all) so that the eye finds the place again."""
        record = LogRecord(self._wall_clock(), "", -1, "", "mark")
        (self.log if rank is None else self.rank_log(rank)).append(record)
        self.version += 1

    def feed_line(self, host: str, text: str, stream: str = "stdout") -> None:
        """Take in a line of plain output of a host."""
        self._log(LogRecord(self._wall_clock(), host, -1, clean(text), "stderr" if stream == "stderr" else "stdout"))
        self._last_received = self._clock()
        self.version += 1

    def has_room(self) -> bool:
        """Tell whether one more line of output will be shown; what comes faster than that is only counted."""
        now = self._clock()
        if not self._room.take(now):
            return False
        if self._room.waiting:
            text = f"{self._room.told()} lines came faster than can be shown; they are in the run's folder"
            self.log.append(LogRecord(self._wall_clock(), "", -1, text, "notice"))
        return True

    def skip_output(self, host: str, count: int, last: int | None) -> None:
        """Count lines of output that are not shown; ``last`` is the newest one's number when a host's agent sent it."""
        self._room.skip(count)
        if last is not None:
            self.lost_lines += self._sequences.skip(host, -1, count, last)
        self._last_received = self._clock()
        self.version += 1

    def feed_broken(self, host: str, text: str, reason: str) -> None:
        """Take in a line that claims to be an event and is not valid. The first ones are shown, all are counted."""
        self.broken_events += 1
        if self.broken_events <= 20:
            self._happened(
                EventRecord(self._wall_clock(), host, -1, "notice", "warning", clean(f"unreadable event: {reason}"))
            )
        self.feed_line(host, text)

    def feed(self, host: str, event: Event) -> None:
        """Take in one event of a rank on ``host``. Repetitions are ignored, gaps are counted."""
        now = self._clock()
        event = self._with_time(event)
        self._last_received = now
        self.version += 1
        if not -1 <= event.rank < MAX_RANKS:
            self.ignored_events += 1
            return
        lost = self._sequences.gap_before(host, event)
        if lost is None:
            self.duplicate_lines += 1
            return
        self._count_lost(event, lost)
        if self._started is None or (isinstance(event, Hello) and event.time < self._started):
            self._started = event.time
        self._ended = event.time if self._ended is None else max(self._ended, event.time)
        record = self._rank(event.rank, host)
        if record is not None:
            record.feed(event, now)
        self._feed_cluster(host, event, now)
        if not isinstance(event, Step | Hardware | Output):
            self._living = sum(not each.state.ended for each in self._ranks.values())

    def feed_steps(self, host: str, rows: Sequence[StepRow]) -> int:
        """Take in steps for as long as each is just what its rank had to tell next, and return how many that were."""
        now = self._clock()
        count = 0
        for row in rows:
            record = self._ranks.get(row.rank)
            if record is None or self._ended is None or not self._sequences.goes_on(host, row.rank, row.seq, row.time):
                break
            self._ended = max(self._ended, row.time)
            record.host = host or record.host
            record.feed_step(row, now)
            self._feed_step(row, now)
            count += 1
        if count:
            self._last_received = now
            self.version += count
        return count

    def _with_time(self, event: Event) -> Event:
        # Far-off times would overflow the arithmetic of windows; no clock is that wrong.
        if math.isfinite(event.time) and abs(event.time) < 1e11:
            return event
        return replace(event, time=self._wall_clock())

    def _count_lost(self, event: Event, lost: int) -> None:
        self.lost_lines += lost
        record = self._ranks.get(event.rank)
        if record is not None:
            record.lost_lines += lost

    def _rank(self, rank: int, host: str) -> RankRecord | None:
        if not 0 <= rank < MAX_RANKS:
            return None
        record = self._ranks.get(rank)
        if record is None:
            record = self._ranks[rank] = RankRecord(rank, host)
            self._fit()
            record.steps.shrink(self._step_points)
        record.host = host or record.host
        return record

    def _fit(self) -> None:
        count = len(self._ranks)
        self._run_log.fit(count)
        self._step_points = max(16, STEP_POINTS_TOTAL // count)
        if count & (count - 1) == 0:  # at every power of two, so the cost stays linear
            for record in self._ranks.values():
                record.steps.shrink(self._step_points)

    def _feed_cluster(self, host: str, event: Event, now: float) -> None:
        match event:
            case Step():
                self._feed_step(event, now)
            case Output():
                stream = "stderr" if event.stream == "stderr" else "stdout"
                rank = event.source_rank if event.rank < 0 else event.rank
                self._log(LogRecord(event.time, host, rank, clean(event.text), stream))
            case Shares():
                self._feed_shares(host, event)
            case Failed():
                self._feed_failure(host, event)
            case Checkpoint() if event.action == "restored":
                self._course.step = event.step
                self._tallies.go_back(event.step)
                self._tell(host, event)
            case Membership():
                self._feed_membership(event)
                self._tell(host, event)
            case Notice():
                self._feed_pause(event, now)
                self._tell(host, event)
            case Epoch() | Checkpoint() | Hello() | Joined() | Calibrated() | Done():
                self._tell(host, event)
            case _:
                pass

    def _feed_step(self, event: Step | StepRow, now: float) -> None:
        self._tallies.add(event.step, sane_seconds(event.compute), self._living)
        if not self._course.feed(event):
            return
        if self._paused_since is not None and now - self._paused_since > _PAUSE_TAKES_EFFECT:
            self._paused_since = None

    def _feed_shares(self, host: str, event: Shares) -> None:
        excluded = frozenset(event.excluded[:MAX_RANKS])
        for rank, share in enumerate(event.shares[:MAX_RANKS]):
            record = self._ranks.get(rank)
            if record is not None:
                record.planned_share = sane_samples(share)
                record.excluded = rank in excluded
                record.planned_speed = sane_speed(event.speeds[rank]) if rank < len(event.speeds) else 0.0
        reason = clean(event.reason, 400)
        self._shares.append(
            SharesRecord(
                event.time,
                event.step,
                event.shares[:MAX_RANKS],
                clean(event.policy, 60),
                reason,
                event.predicted_samples_per_second,
                event.speeds[:MAX_RANKS],
                event.excluded[:MAX_RANKS],
            )
        )
        shown = "/".join(str(share) for share in event.shares[:16]) + ("/…" if len(event.shares) > 16 else "")
        text = f"shares {shown}" + (f": {reason}" if reason else "")
        self._happened(EventRecord(event.time, host, event.rank, "shares", "info", text, event.step))

    def _feed_pause(self, event: Notice, now: float) -> None:
        said = event.code or event.text  # recordings from before there was a code have these words
        if said == "paused":
            self._paused_since = now
        elif said == "resumed":
            self._paused_since = None

    def _feed_failure(self, host: str, event: Failed) -> None:
        rank = event.rank
        named = _RANK_IN_TEXT.match(event.error)
        if rank < 0 and named is not None and int(named[1]) in self._ranks:
            # The agent of a host speaks for a rank that died without a word.
            rank = int(named[1])
            self._ranks[rank].fail(event.error)
        failure = failure_record(host, rank, event)
        self._failures.add(failure)
        code = "" if event.exit_code is None else f" (exit code {event.exit_code})"
        self._happened(EventRecord(event.time, host, rank, "failed", "error", failure.error + code, event.step))
        for line in failure.traceback.splitlines():
            self._log(LogRecord(event.time, host, rank, line, "error"))

    def _feed_membership(self, event: Membership) -> None:
        for rank in event.left:
            record = self._ranks.get(rank)
            if record is not None and not record.state.ended:
                record.state = RankState.FAILED
                record.error = record.error or clean(f"left the group: {event.reason or 'no reason given'}")

    def _tell(self, host: str, event: Event) -> None:
        level, text, step = describe(event)
        code, about = (clean(event.code, 60), clean(event.about, 200)) if isinstance(event, Notice) else ("", "")
        self._happened(EventRecord(event.time, host, event.rank, event.kind, level, clean(text), step, code, about))

    def _happened(self, record: EventRecord) -> None:
        self.events.append(record)
        if record.kind in ("notice", "failed", "shares", "membership", "checkpoint"):
            stream = record.level if record.level in ("warning", "error") else "notice"
            text = record.text if record.text.startswith(record.kind) else f"{record.kind}: {record.text}"
            self._log(LogRecord(record.time, record.host, record.rank, text, stream))

    def _log(self, record: LogRecord) -> None:
        self._run_log.add(record, has_rank=record.rank in self._ranks)

    # What goes out

    def rank_log(self, rank: int) -> Ring[LogRecord]:
        """Return the ring of one rank's lines."""
        return self._run_log.of_rank(rank)

    @property
    def now(self) -> float:
        """The store's clock, in seconds."""
        return self._clock()

    @property
    def ranks(self) -> tuple[int, ...]:
        """Every known rank, rising."""
        return tuple(sorted(self._ranks))

    def rank_view(self, rank: int) -> RankView:
        """Return one rank.

        Raises:
            KeyError: no such rank.
        """
        return self._ranks[rank].view(self._clock(), paused=self._paused_since is not None)

    def rank_views(self) -> tuple[RankView, ...]:
        """Return every rank in rank order; with many ranks the answer may be half a second old."""
        now = self._clock()
        if not self._rank_views.fresh(now, self.version, len(self._ranks)):
            paused = self._paused_since is not None
            views = tuple(self._ranks[rank].view(now, paused=paused) for rank in sorted(self._ranks))
            self._rank_views = Cached(views, now, self.version)
        return self._rank_views.value

    @property
    def shares_history(self) -> tuple[SharesRecord, ...]:
        """Batch plans, oldest first."""
        return tuple(self._shares)

    @property
    def failures(self) -> tuple[FailureRecord, ...]:
        """Failed ranks, the likely cause first: own errors before lost peers, then by time."""
        return self._failures.ordered

    @property
    def loss_history(self) -> tuple[Point, ...]:
        """Loss over optimizer steps, decimated."""
        return self._course.losses.points()

    @property
    def throughput_history(self) -> tuple[Point, ...]:
        """Samples per second of the cluster over optimizer steps, decimated."""
        return self._course.throughput.points()

    @property
    def learning_rate_history(self) -> tuple[Point, ...]:
        """Learning rate over optimizer steps, decimated."""
        return self._course.learning_rates.points()

    @property
    def imbalance_history(self) -> tuple[Point, ...]:
        """How much longer the slowest rank computed than the mean of all, over optimizer steps: 0 is perfect."""
        return self._tallies.imbalance.points()

    def step_history(self, rank: int) -> tuple[Point, ...]:
        """Return the seconds one rank needs for its part of a step (data and compute), over optimizer steps.

        Raises:
            KeyError: no such rank.
        """
        return self._ranks[rank].steps.points()

    @property
    def skipped_lines(self) -> int:
        """Lines of output that came faster than anybody reads: kept in the run's folder, not in the view."""
        return self._room.skipped

    def cluster_view(self) -> ClusterView:
        """Return the run as a whole; with many ranks the answer may be half a second old."""
        now = self._clock()
        cached = self._cluster_view
        if cached is None or not cached.fresh(now, self.version, len(self._ranks)):
            cached = self._cluster_view = Cached(self._make_cluster_view(now), now, self.version)
        return cached.value

    def _make_cluster_view(self, now: float) -> ClusterView:
        views = self.rank_views()
        training = [view for view in views if view.state in (RankState.TRAINING, RankState.WAITING)]
        state, text = run_state(views)
        leader = training[0] if training else next((view for view in views if view.samples_per_second > 0), None)
        rate = 0.0
        step_seconds = 0.0
        if leader is not None:
            totals = self._ranks[leader.rank].window.totals()
            rate = totals.global_batch / totals.elapsed if totals.elapsed > 0 else 0.0
            step_seconds = totals.elapsed / totals.steps if totals.steps else 0.0
        done = min(self._course.step + 1, self._course.steps_total) if self._course.global_batch else 0
        ended = state.ended
        return ClusterView(
            state=state,
            state_text=text,
            step=done,
            steps_total=self._course.steps_total,
            epoch=self._course.epoch,
            eta=None if ended or not step_seconds or not training else (self._course.steps_total - done) * step_seconds,
            elapsed=self._elapsed(ended=ended),
            samples_per_second=rate,
            global_batch=self._course.global_batch,
            efficiency=self._efficiency(training or [view for view in views if view.samples_per_second > 0], rate),
            loss=self._course.loss,
            learning_rate=self._course.learning_rate,
            policy=self._shares[-1].policy if self._shares else "",
            ranks=len(views),
            ranks_training=len(training),
            ranks_failed=sum(view.state is RankState.FAILED for view in views),
            lost_lines=self.lost_lines,
            skipped_lines=self.skipped_lines,
            duplicate_lines=self.duplicate_lines,
            broken_events=self.broken_events + self.ignored_events,
            age=None if self._last_received is None else max(0.0, now - self._last_received),
        )

    def _elapsed(self, *, ended: bool) -> float | None:
        if self._started is None or self._ended is None:
            return None
        return max(0.0, (self._ended if ended else max(self._ended, self._wall_clock())) - self._started)

    def _efficiency(self, training: Sequence[RankView], rate: float) -> Efficiency | None:
        totals = [self._ranks[view.rank].window.totals() for view in training]
        return efficiency(totals, rate, sum(view.speed for view in training), self._tallies)

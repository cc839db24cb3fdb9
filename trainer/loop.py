"""The training loop of one rank: compute, reduce, step, tell; form again when the members change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trainer.balance import Balancer, Decision, UnknownPolicy, make_policy
from trainer.departure import HasLeft, Leavers
from trainer.errors import GroupBroken
from trainer.events import Epoch, Joined, Membership, Notice, Shares, Step
from trainer.exchange_clock import ExchangeClock
from trainer.exclusion import NotChanged
from trainer.healing import heal_drift, share_state
from trainer.learner import Computed
from trainer.link import Formation
from trainer.local_sgd import LocalSgd
from trainer.options import DEFAULT_POLICY
from trainer.plan import TimeTable
from trainer.reduction import Reduction, Row
from trainer.state import EpochSums, Progress
from trainer.wiring import Wiring


class StoppedEarly(Exception):
    """The run was stopped before its first group was complete."""


class _Regroup(Exception):
    """The members leave the group together, between two steps, to let somebody in or out."""


class Loop:
    """One rank's part of a run."""

    def __init__(self, wiring: Wiring, progress: Progress, balance_state: Mapping[str, Any] | None = None) -> None:
        """``progress`` is where to start: new, or from a checkpoint together with its ``balance_state``."""
        self._at = wiring
        self.progress = progress
        self._saved_balance = balance_state
        self._balancer: Balancer | None = None
        self._reduction: Reduction | None = None
        local = wiring.options.communication == "local_sgd"
        self._local = LocalSgd(wiring.options.local_steps) if local else None
        if local:
            wiring.learner.prepare_optimizer()
        self._decision: Decision | None = None
        self._told_idle: set[int] = set()
        self._leavers = Leavers()
        self._bytes_per_second = 0.0
        self._last_end = time.perf_counter()
        self._last_duration = 0.0
        self._last_collective = self._last_end
        self._clock = ExchangeClock()
        self._exchange_seconds = 0.0
        sampler, options = wiring.sampler, wiring.options
        self.steps_total = options.steps or options.epochs * sampler.steps_per_epoch

    def run(self) -> Progress:
        """Train to the end, or to a stop, and return how far it came.

        Raises:
            HasLeft: this rank was told to leave, and the others go on.
            RunAborted: the run was ended elsewhere.
            CoordinatorLost: the coordinator is gone.
        """
        self._form()
        while True:
            try:
                if self.progress.stopping or self.progress.step >= self.steps_total:
                    # A rank may have missed the last collective: nobody leaves before all are known to have it.
                    self._at.group.all_reduce(self._at.learner.flat.rows.zero_())
                    break
                if self.progress.paused:
                    self._wait_while_paused()
                else:
                    self._step()
            except (GroupBroken, _Regroup):
                self._form()
        if self._is_speaker:
            self.save()
        return self.progress

    def rewire(self, wiring: Wiring) -> None:
        """Go on with another link and group, after the coordinator had given this rank up."""
        self._at.group.close()
        self._at = wiring

    def leave(self) -> None:
        """Close the group's connections."""
        self._at.group.close()

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        assert self._balancer is not None
        self._at.save(self.progress, self._balancer.state_dict())

    @property
    def _is_speaker(self) -> bool:
        """The lowest living rank tells what is the same on all."""
        return self._at.rank == self._at.group.members[0]

    @property
    def _is_processor_bound(self) -> bool:
        """Whether the processor computes, at its own speed: only then does its time say how quick it is."""
        learner = self._at.learner
        return learner.flat.buffer.device.type == "cpu" and math.isinf(learner.simulated_samples_per_second)

    # ------------------------------------------------------------------ forming

    def _form(self) -> None:
        """Become a member of the next generation, with the same state as all others."""
        while True:
            start = time.perf_counter()
            table = [list(pair) for pair in self._at.calibration.table]
            begun = self._balancer is not None
            card = {"table": table, "begun": begun, "bytes_per_second": self._bytes_per_second, "host": self._at.host}
            formation = self._at.group.form(self.progress.step, card, self._while_waiting)
            if self._at.rank in formation.joined:
                self._at.emitter.emit(
                    Joined, seconds=time.perf_counter() - start, world_size=len(formation.members),
                    generation=formation.generation,
                )  # fmt: skip
            try:
                balance_state = self._synchronize(formation)
                self._bytes_per_second = self._link_speed(formation)
                self._plan(formation, balance_state)
            except GroupBroken:
                continue
            self._last_collective = time.perf_counter()
            self._tell_formation(formation)
            self._last_end = time.perf_counter()
            return

    def _while_waiting(self) -> None:
        """Obey a stop while the first group still waits for somebody; later groups apply it after their next step."""
        self._at.poll_control()
        if self._balancer is None and self._at.link.is_told_to_stop:
            raise StoppedEarly
        if self._balancer is None and self._at.is_leaving():
            raise HasLeft

    def _synchronize(self, formation: Formation) -> Mapping[str, Any] | None:
        """Make all members equal and return the balance state to go on from; None for a run that begins."""
        if self._local is not None and formation.generation > 0:
            self._local.average(self._at.group, self._at.learner)
        balance_state = self._saved_balance if self._balancer is None else self._balancer.state_dict()
        # Whoever comes back may have done the same number of steps with others, so numbers alone do not tell.
        is_new = bool(formation.joined) or not all(card["begun"] for card in formation.cards.values())
        newcomers = formation.generation > 0 and is_new
        behind = len(set(formation.steps.values())) > 1
        resumed = _begins(formation) and max(formation.steps.values()) > 0
        if newcomers or behind or resumed:
            self.progress, balance_state = share_state(
                self._at.group, formation.source, self._at.learner, self.progress, balance_state
            )
        return balance_state

    def _link_speed(self, formation: Formation) -> float:
        """Return bytes a second of an all-reduce; 0 for a single member.

        Measuring costs a slow network longer than everything else here, so those who stay when somebody is lost go
        on with what they know. A member may have missed the end of the last measurement: that of the source counts.
        """
        known = float(formation.cards[formation.source]["bytes_per_second"])
        same = not formation.joined and all(card["begun"] for card in formation.cards.values())
        if known > 0 and same and len(formation.members) > 1:
            return known
        return self._at.measure_link(self._at.group)

    def _plan(self, formation: Formation, balance_state: Mapping[str, Any] | None) -> None:
        """Choose the reduction and the shares, from values that are the same on all members."""
        at, bytes_per_second = self._at, self._bytes_per_second
        self.progress.exclusion.hosts |= {rank: str(card["host"]) for rank, card in formation.cards.items()}
        balancer, _ = self._make_balancer(formation, balance_state, 0.0)
        compute = at.sampler.global_batch / balancer.predicted_samples_per_second()
        reduction = at.choose_reduction(at.group, bytes_per_second, compute)
        seconds = reduction.bytes_per_step(at.learner.flat) / bytes_per_second if bytes_per_second > 0 else 0.0
        self._balancer, self._decision = self._make_balancer(formation, balance_state, seconds)
        self._reduction = reduction

    def _make_balancer(
        self, formation: Formation, balance_state: Mapping[str, Any] | None, communication_seconds: float
    ) -> tuple[Balancer, Decision]:
        at, begins = self._at, _begins(formation)
        tables = {rank: _table(card) for rank, card in formation.cards.items()}
        balancer = make_policy(
            at.options.policy or DEFAULT_POLICY,
            [tables[rank] for rank in formation.members],
            at.sampler.global_batch,
            members=formation.members,
            # A rank without a share stays in the group, so the exchange takes as long with it as without.
            communication_seconds=lambda _participants: communication_seconds,
        )
        new = set(formation.members)
        if balance_state is not None:
            asked = {"policy": at.options.policy} if begins and at.options.policy else {}
            balancer.load_state_dict({**balance_state, **asked})
        if not begins:
            assert balance_state is not None
            new = (new - {int(rank) for rank, _ in balance_state["tables"]}) | set(formation.joined)
        decision = balancer.change_members(
            formation.members,
            {rank: tables[rank] for rank in sorted(new)},
            self.progress.step,
            self.progress.exclusion.reasons(formation.members),
        )
        return balancer, decision

    def _tell_formation(self, formation: Formation) -> None:
        if not self._is_speaker:
            return
        if formation.generation > 0:
            self._at.emitter.emit(
                Membership, generation=formation.generation, members=formation.members, left=formation.left,
                joined=formation.joined, pause=time.perf_counter() - self._last_end, reason=formation.reason,
            )  # fmt: skip
        self._tell_warning(self.progress.exclusion.warning(formation.members))
        assert self._decision is not None
        self._tell_shares(self._decision, "start" if formation.generation == 0 else self._decision.reason)

    def _tell_warning(self, text: str) -> None:
        if text and self._is_speaker:
            self._at.emitter.emit(Notice, level="warning", text=text, step=self.progress.step)

    def _tell_shares(self, decision: Decision, reason: str) -> None:
        world = range(self._at.world_size)
        shares = self._at.sampler.dealt(decision.shares)
        share = dict(zip(decision.members, shares, strict=True))
        speed = dict(zip(decision.members, decision.speeds, strict=True))
        assert self._balancer is not None
        self._at.emitter.emit(
            Shares,
            step=self.progress.step,
            shares=tuple(share.get(rank, 0) for rank in world),
            policy=self._balancer.policy,
            reason=reason,
            predicted_samples_per_second=decision.predicted_samples_per_second,
            speeds=tuple(speed.get(rank, 0.0) for rank in world),
            excluded=self._balancer.excluded,
        )
        self._tell_idle()

    def _tell_idle(self) -> None:
        """Say once of each rank that has no share why that is so."""
        assert self._balancer is not None
        idle = self._balancer.idle_reasons
        for rank in sorted(idle.keys() - self._told_idle):
            text = f"rank {rank} gets no share and stays ready to take over: {idle[rank]}"
            self._at.emitter.emit(Notice, text=text, step=self.progress.step)
        self._told_idle = set(idle)

    # ------------------------------------------------------------------ one step

    def _step(self) -> None:
        at, step = self._at, self.progress.step
        assert self._balancer is not None
        assert self._reduction is not None
        at.poll_control()
        size = at.sampler.batch_size(step)
        indices = at.sampler.part(step, self._balancer.shares_for(size), at.group.position)
        nominal = size * at.learner.units_per_sample
        micro_batch = self._balancer.micro_batch_of(at.rank, len(indices))
        self._clock.begin()
        at.learner.flat.zero()
        computed = at.learner.compute(indices, step, micro_batch, nominal, at.group.broken.is_set)
        self._announce(step + 1)
        equal = self._local is None or self._local.is_due(step)
        checking = equal and at.options.check_every > 0 and step % at.options.check_every == 0
        self._clock.computed()
        ready = time.perf_counter()
        at.learner.flat.write_row(at.rank, self._row(computed, ready, checking))
        self._reduction.reduce(at.learner.flat, at.group)
        reduced = time.perf_counter()
        self._exchange_seconds = self._clock.exchanged() if self._is_processor_bound else 0.0
        rows = at.learner.flat.read_rows(at.group.members)
        own_ready = ready - self._last_collective
        self._last_collective = reduced
        # From here on nothing may fail for another rank's sake: the step counts as done.
        units = math.fsum(row.units for row in rows)
        rate = at.learner.learning_rate(step)
        counted = units if self._local is None else computed.units
        if counted > 0:
            at.learner.apply(nominal / counted, rate)
        loss = math.fsum(row.loss for row in rows) / units if units else math.nan
        self.progress.step += 1
        self._count(rows, size, loss)
        # The ranks leave a collective at slightly different times, so the difference may exceed what was waited.
        wait = min(max(0.0, max(row.ready for row in rows) - own_ready), reduced - ready)
        self._tell_step(step, computed, wait, reduced - ready - wait, loss, rate, size)
        decision = self._balancer.observe(
            step,
            [round(row.samples) for row in rows],
            [row.compute for row in rows],
            [row.ready - row.compute + row.exchange for row in rows],
        )
        if decision is not None and self._is_speaker:
            self._tell_shares(decision, decision.reason)
        if checking:
            self._tell_warning(heal_drift(at.group, at.learner, rows))
        if self._local is not None:
            self._local.count(computed.samples)
            if not self._local.is_due(self.progress.step) and self.progress.step < self.steps_total:
                # Commands and checkpoints wait for the next average: only then are all ranks equal.
                return
            self._local.average(at.group, at.learner)
        if at.options.checkpoint_every and self.progress.step % at.options.checkpoint_every == 0 and self._is_speaker:
            self.save()
        self._apply_commands(round(max(row.command for row in rows)))

    def _row(self, computed: Computed, ready: float, checking: bool) -> Row:
        high, low = self._at.learner.flat.checksum() if checking else (0.0, 0.0)
        return Row(
            ready=ready - self._last_collective,
            compute=computed.data_seconds + computed.compute_seconds,
            samples=float(computed.samples),
            units=float(computed.units),
            loss=computed.loss,
            correct=float(computed.correct),
            command=float(self._at.link.newest_command),
            checked=float(checking),
            checksum_high=high,
            checksum_low=low,
            exchange=self._exchange_seconds,
        )

    def _announce(self, step: int) -> None:
        """Let the data of the next step be fetched while this one is reduced; shares seldom change in between."""
        at = self._at
        if self._balancer is None or step >= self.steps_total:
            return
        size = at.sampler.batch_size(step)
        indices = at.sampler.part(step, self._balancer.shares_for(size), at.group.position)
        at.learner.announce(indices, step, self._balancer.micro_batch_of(at.rank, len(indices)))

    def _count(self, rows: Sequence[Row], size: int, loss: float) -> None:
        now = time.perf_counter()
        duration, self._last_end = now - self._last_end, now
        self._last_duration = duration
        epoch = self.progress.epoch
        epoch.samples += size
        epoch.units += round(math.fsum(row.units for row in rows))
        epoch.loss += math.fsum(row.loss for row in rows)
        epoch.correct += round(math.fsum(row.correct for row in rows))
        epoch.seconds += duration
        self.progress.samples += size
        self.progress.seconds += duration
        self.progress.loss = loss

    def _tell_step(
        self, step: int, computed: Computed, wait: float, communication: float, loss: float, rate: float, size: int
    ) -> None:
        at = self._at
        at.emitter.emit(
            Step, step=step, epoch=at.sampler.epoch_of(step), steps_total=self.steps_total, share=computed.samples,
            global_batch=size, loss=loss, learning_rate=rate, compute=computed.compute_seconds,
            data=computed.data_seconds, wait=wait, communication=communication,
            duration=self._last_duration,
        )  # fmt: skip
        if self.progress.step % at.sampler.steps_per_epoch == 0:
            if self._is_speaker:
                self._tell_epoch(at.sampler.epoch_of(step))
            self.progress.epoch = EpochSums()

    def _tell_epoch(self, epoch: int) -> None:
        sums = self.progress.epoch
        units = max(1, sums.units)
        self._at.emitter.emit(
            Epoch, epoch=epoch, samples=sums.samples, seconds=sums.seconds, loss=sums.loss / units,
            accuracy=sums.correct / units,
        )  # fmt: skip

    # ------------------------------------------------------------------ commands

    def _apply_commands(self, up_to: int) -> None:
        """Apply the command log up to an entry that all ranks agree on, in the log's order."""
        if up_to <= self.progress.applied_commands:
            return
        regroup = False
        for entry in self._at.link.commands(self.progress.applied_commands, up_to):
            self.progress.applied_commands += 1
            regroup = self._apply(entry) or regroup
        self._part()
        if regroup:
            raise _Regroup

    def _part(self) -> None:
        """Let the members go that leave after this step, once all of them are known to have it."""
        members = self._at.group.members
        leaving = self._leavers.take(members)
        if not leaving or self.progress.stopping:
            return
        if len(leaving) == len(members):
            # Nobody would be left to go on: the run ends as if it had been stopped, with a checkpoint.
            self.progress.stopping = True
            return
        self._at.group.all_reduce(self._at.learner.flat.rows.zero_())
        if self._at.rank in leaving:
            raise HasLeft
        raise _Regroup

    def _apply(self, entry: Mapping[str, Any]) -> bool:
        """Apply one entry; return whether the members are asked to form again."""
        match entry["command"]:
            case "regroup":
                return bool(entry["generation"] == self._at.group.generation)
            case "leave":
                self._leavers.note(entry, self._at.group.generation)
            case "stop":
                if entry.get("reason") and not self.progress.stopping and self._is_speaker:
                    text = f"the run stops: {entry['reason']}"
                    self._at.emitter.emit(Notice, level="warning", text=text, step=self.progress.step)
                self.progress.stopping = True
            case "pause":
                self._set_paused(True)
            case "resume":
                self._set_paused(False)
            case "checkpoint":
                if self._is_speaker:
                    self.save()
            case "policy":
                self._change_plan(lambda balancer, step: balancer.change_policy(str(entry["policy"]), step))
            case "exclude" | "admit":
                self._change_plan(partial(self.progress.exclusion.change, entry))
        return False

    def _set_paused(self, paused: bool) -> None:
        if paused != self.progress.paused and self._is_speaker:
            said = "paused" if paused else "resumed"
            self._at.emitter.emit(Notice, text=said, code=said, step=self.progress.step)
        self.progress.paused = paused

    def _change_plan(self, change: Callable[[Balancer, int], Decision]) -> None:
        """Plan as a person wants from the next step on; all members decide alike, also that it cannot be."""
        assert self._balancer is not None
        try:
            decision = change(self._balancer, self.progress.step)
        except NotChanged as error:
            self._refuse(error, error.level, error.code, error.about)
            return
        except UnknownPolicy as error:
            self._refuse(error, "error", "policy-refused")
            return
        if self._is_speaker:
            self._tell_shares(decision, decision.reason)

    def _refuse(self, why: Exception, level: str, code: str, about: str = "") -> None:
        if self._is_speaker:
            step = self.progress.step
            self._at.emitter.emit(Notice, level=level, text=str(why), step=step, code=code, about=about)

    def _wait_while_paused(self) -> None:
        """Apply the log entry by entry until it says to go on: the order is the same for all, so no collective."""
        while self.progress.paused and not self.progress.stopping:
            self._at.poll_control()
            if self._at.group.broken.is_set():
                raise GroupBroken(self._at.link.why_broken(self._at.group.generation))
            for entry in self._at.link.wait_for_command(self.progress.applied_commands, timeout=0.1)[:1]:
                self.progress.applied_commands += 1
                if self._apply(entry):
                    raise _Regroup
                self._part()
        # The pause is nobody's waiting time.
        self._last_end = self._last_collective = time.perf_counter()


def _begins(formation: Formation) -> bool:
    """Return whether no step was done in this run yet by the member whose state counts; a checkpoint may be there."""
    return not formation.cards[formation.source]["begun"]


def _table(card: Mapping[str, Any]) -> TimeTable:
    return TimeTable.measured([(int(samples), float(seconds)) for samples, seconds in card["table"]])

"""A rank from the go to the end: connects, measures itself, builds the loop and runs it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import DistError

from trainer.checkpoint import CheckpointFolder
from trainer.communication import make_reduction, measure_link
from trainer.communication_choice import choose
from trainer.control import Command, ControlFolder
from trainer.data import BalancedSampler
from trainer.departure import Asked, Departure, HasLeft
from trainer.environment import RankEnvironment
from trainer.errors import CheckpointError, CoordinatorLost, StartError
from trainer.events import Calibrated, Checkpoint, Done, Emitter, Notice
from trainer.exclusion import Exclusion
from trainer.group import Group
from trainer.learner import Learner, LearnerProtocol
from trainer.link import Link, RunOver
from trainer.loop import Loop, StoppedEarly
from trainer.options import Options
from trainer.reduction import Reduction
from trainer.speed import BUDGET_SECONDS, REJOIN_BUDGET_SECONDS, Calibration, calibrate, sizes
from trainer.state import Progress
from trainer.store import COORDINATOR_KEY
from trainer.wiring import Wiring
from trainer.workloads import Workload

STORE_TIMEOUT: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained."""

    learner: LearnerProtocol
    sampler: BalancedSampler
    identity: Mapping[str, Any]
    """What must be the same for a checkpoint to fit."""


def workload_subject(workload: Workload, options: Options, place: RankEnvironment, device: str) -> Subject:
    """Return a built-in workload on ``device`` as a subject of training."""
    learner = Learner(
        workload,
        options,
        device=device,
        world_size=place.host.world_size,
        simulated_samples_per_second=place.host.simulated_samples_per_second,
    )
    sampler = BalancedSampler(workload.source.size, options.global_batch, options.seed)
    identity = {
        "workload": options.workload,
        "dataset": options.dataset,
        "dataset_size": workload.source.size,
        "global_batch": sampler.global_batch,
        "seed": options.seed,
        "optimizer": options.chosen_optimizer,
        "parameters": learner.flat.size,
    }
    return Subject(learner, sampler, identity)


class Training:
    """One rank's training. Built when the go has come."""

    def __init__(
        self,
        place: RankEnvironment,
        options: Options,
        emitter: Emitter,
        control: ControlFolder,
        asked: Callable[[], Asked],
        subject: Subject,
        device: str,
        link: Link | None = None,
    ) -> None:
        """Connect to the coordinator, unless a ``link`` to it is there already.

        Raises:
            StartError: the master's store does not answer.
            CoordinatorLost: the coordinator does not answer.
        """
        self._place = place
        self._options = options
        self._emitter = emitter
        self._control = control
        self._departure = Departure(place, emitter, asked, elastic=options.elastic, process_id=os.getpid())
        self._has_left = False
        self._device = device
        self._link = link or connect(place, emitter)
        self._learner = subject.learner
        self._sampler = subject.sampler
        self._checkpoints = CheckpointFolder(
            place.host.output / "checkpoints", keep=options.checkpoint_keep, identity=subject.identity
        )
        self._calibration: Calibration | None = None
        self._calibration_told = False
        self._loop: Loop | None = None
        self._present_group: Group | None = None
        self.first_step = 0
        """The step that training begins with here: 0, or that of the checkpoint."""

    @property
    def is_main(self) -> bool:
        """Whether this is the lowest rank of the present group."""
        group = self._present_group
        return group is not None and not self._has_left and self._place.rank == min(group.members, default=0)

    @property
    def step(self) -> int | None:
        """Completed optimizer steps, once training has begun."""
        return self._loop.progress.step if self._loop else None

    def failed(self, reason: str) -> None:
        """Tell the other ranks why this one ends."""
        self._link.failed(reason)

    def run(self, commands: Sequence[Command]) -> None:
        """Train to the end, or to a stop. ``commands`` came together with the go.

        Raises:
            TrainerError: anything that ends this rank before the end of the run.
        """
        progress, balance_state = self._restore()
        self.first_step = progress.step
        calibration = self._calibration = calibrate(
            self._learner.probe,
            self._micro_batches(),
            device=self._device,
            simulated_samples_per_second=self._place.host.simulated_samples_per_second,
            # The others train meanwhile, and the first steps correct what a short look has missed.
            budget=REJOIN_BUDGET_SECONDS if self._place.is_restart else BUDGET_SECONDS,
        )
        self._take_commands(commands)
        wiring = Wiring(
            options=self._options,
            rank=self._place.rank,
            world_size=self._place.host.world_size,
            emitter=self._emitter,
            learner=self._learner,
            sampler=self._sampler,
            group=self._group(),
            link=self._link,
            host=self._place.host.host,
            calibration=calibration,
            measure_link=self._measure_link,
            choose_reduction=self._choose_reduction,
            poll_control=self._poll_control,
            is_leaving=lambda: self._departure.is_wanted,
            save=self._save,
        )
        loop = self._loop = Loop(wiring, progress, balance_state)
        try:
            end = self._run_loop(loop, wiring)
        except RunOver:
            self._emitter.emit(Done, state="finished")
            return
        except HasLeft:
            self._has_left = True
            self._link.left(self._departure.reason)
            at = loop.progress
            self._emitter.emit(Done, steps=at.step, samples=at.samples, seconds=at.seconds, loss=at.loss, state="left")
            loop.leave()
            return
        except StoppedEarly:
            self._link.finished()
            self._emitter.emit(Done, state="stopped")
            return
        self._link.finished()
        self._emitter.emit(
            Done,
            steps=end.step,
            samples=end.samples,
            seconds=end.seconds,
            loss=end.loss,
            state="stopped" if end.stopping else "finished",
        )
        loop.leave()

    def _micro_batches(self) -> list[int]:
        """Return the micro-batches to measure: the ghost batch alone where nothing else will be computed."""
        sampler = self._sampler
        if sampler.ghost_batch:
            return [min(sampler.ghost_batch, sampler.global_batch)]
        return sizes(self._options.micro_batch, sampler.global_batch, self._device)

    def _run_loop(self, loop: Loop, wiring: Wiring) -> Progress:
        """Run the loop; a rank that was taken for dead (a suspended machine) connects again and catches up."""
        while True:
            try:
                return loop.run()
            except CoordinatorLost as error:
                if not self._options.elastic:
                    raise
                self._emitter.emit(Notice, level="warning", text=f"{error}; trying to join again")
                self._link.close()
                self._link = connect(self._place, self._emitter)
                loop.rewire(dataclasses.replace(wiring, link=self._link, group=self._group()))

    def _group(self) -> Group:
        host = self._place.host
        self._present_group = Group(
            self._link,
            rank=self._place.rank,
            run_id=host.run_id,
            address=host.master_address,
            port=host.master_port,
            backend=host.backend,
        )
        return self._present_group

    def _measure_link(self, group: Group) -> float:
        """Measure the link of a new group and, once, tell what is known of this rank; all members call it."""
        assert self._calibration is not None
        rate = measure_link(group)
        if not self._calibration_told:
            self._calibration_told = True
            self._emitter.emit(
                Calibrated,
                samples_per_second=self._calibration.samples_per_second,
                table=self._calibration.table,
                max_micro_batch=self._calibration.max_micro_batch,
                link_bytes_per_second=rate,
                bytes_per_sample=self._calibration.bytes_per_sample,
            )
        return rate

    def _choose_reduction(self, group: Group, rate: float, compute_seconds: float) -> Reduction:
        """Choose how gradients travel at ``rate`` bytes a second."""
        flat = self._learner.flat
        choice = choose(self._options.communication, flat.size * 4, rate, compute_seconds)
        reduction = make_reduction(choice.mode, self._options, flat)
        if self._options.communication != "exact" and group.position == 0:
            per_step = f"{reduction.bytes_per_step(flat) / 1e6:.2f} of {flat.size * 4 / 1e6:.2f} MB a step"
            text = f"gradients travel as {choice.mode} ({per_step}): {choice.reason}"
            if choice.mode == "local_sgd":
                text += f"; parameters are averaged every {self._options.local_steps} steps"
            self._emitter.emit(Notice, text=text)
        return reduction

    # ------------------------------------------------------------------ checkpoints

    def _save(self, progress: Progress, balance_state: Mapping[str, Any]) -> None:
        """Write a checkpoint; a full disk must not end a run that can go on."""
        learner = self._learner
        try:
            path = self._checkpoints.save(
                progress,
                balance_state,
                learner.tensors(),
                learner.extra_state(),
                learner.model_state(),
            )
        except CheckpointError as error:
            self._emitter.emit(Checkpoint, action="refused", step=progress.step, reason=str(error))
            self._emitter.emit(Notice, level="error", text=str(error), step=progress.step)
            return
        self._emitter.emit(Checkpoint, action="saved", path=str(path), step=progress.step)

    def _restore(self) -> tuple[Progress, Mapping[str, Any] | None]:
        """Go on from the newest good checkpoint of this host, when asked or after a restart.

        Only one member needs to have it: the others take the state of the member with the most steps.
        """
        if not self._options.resume and not self._place.is_restart:
            return Progress(), None
        saved, refused = self._checkpoints.newest()
        for each in refused:
            self._emitter.emit(Checkpoint, action="refused", path=str(each.path), reason=each.reason)
        if saved is None:
            self._emitter.emit(Notice, text="no checkpoint on this host to go on from")
            return Progress(), None
        try:
            self._learner.load_tensors(saved.tensors)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{saved.path} does not fit the model: {error}") from error
        self._learner.load_extra_state(saved.extra)
        self._emitter.emit(Checkpoint, action="restored", path=str(saved.path), step=saved.progress.step)
        # The commands, the pause and the exclusions of the earlier run are not this run's.
        progress = dataclasses.replace(
            saved.progress, applied_commands=0, paused=False, stopping=False, exclusion=Exclusion()
        )
        return progress, saved.balance_state

    # ------------------------------------------------------------------ control

    def _poll_control(self) -> None:
        self._take_commands(self._control.read())
        if self._departure.is_asked and self._present_group is not None:
            # Whoever stops the run says so in the control folder before the signal comes.
            self._take_commands(self._control.read(now=True))
            self._departure.ask(self._link, self._present_group.generation)

    def _take_commands(self, commands: Sequence[Command]) -> None:
        """Put commands for all ranks into the log; what concerns only this host takes effect at once."""
        for command in commands:
            if command.name == "stop":
                self._departure.run_stops()
            if command.name == "simulate":
                self._learner.simulated_samples_per_second = command.samples_per_second
                text = f"simulated: held down to {command.samples_per_second:g} samples/s by sleeping"
                self._emitter.emit(Notice, text=text)
            elif command.name == "policy":
                self._link.command(command.file, {"command": "policy", "policy": command.policy})
            elif command.name in ("exclude", "admit"):
                entry = {"command": command.name, "host": command.host, "by": command.by}
                self._link.command(command.file, entry)
            elif command.name != "go":
                self._link.command(command.file, {"command": command.name})


def connect(place: RankEnvironment, emitter: Emitter) -> Link:
    """Connect to the coordinator, whose port the store knows; what is wrong with the connection is told as a notice.

    Raises:
        StartError: the master's store does not answer.
        CoordinatorLost: the coordinator does not answer.
    """
    host = place.host
    try:
        store = TCPStore(host.master_address, host.master_port, None, is_master=False, timeout=STORE_TIMEOUT)
        port = int(PrefixStore(host.run_id, store).get(COORDINATOR_KEY))
    except DistError as error:
        raise StartError(
            f"no answer from the store at {host.master_address}:{host.master_port} ({str(error).splitlines()[0]})",
            next_step="see whether the master runs and its firewall lets this port in",
        ) from error

    def tell(text: str) -> None:
        emitter.emit(Notice, level="warning", text=text)

    return Link(host.master_address, port, run_id=host.run_id, rank=place.rank, tell=tell)

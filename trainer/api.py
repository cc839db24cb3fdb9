"""``trainer.prepare``: a plain PyTorch loop, balanced and elastic.

    run = trainer.prepare(model, optimizer, loader)
    for epoch in run.epochs(3):
        for inputs, targets in run:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            run.backward(loss)
            optimizer.step()

The loop's body is run for every micro-batch of this rank's share. The step itself (reduction, optimizer, events,
checkpoints, control messages, lost and joining ranks) is that of :mod:`trainer.loop`, which runs in a thread of its
own while the body waits.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from trainer import launch
from trainer.api_data import LoaderData
from trainer.api_dropout import SeededDropout
from trainer.api_learner import ScriptLearner, gradient_model
from trainer.api_norm import RunningStatistics, has_batch_norm
from trainer.api_optimizer import ScriptOptimizer
from trainer.api_turns import Piece, Turns
from trainer.data import BalancedSampler
from trainer.departure import Asked
from trainer.errors import UsageError
from trainer.events import Notice
from trainer.launch import Launched
from trainer.learner import autocast
from trainer.options import Options
from trainer.training import Subject, Training

GHOST_BATCH = 32


def prepare(
    model: nn.Module,
    optimizer: Optimizer,
    loader: DataLoader[Any],
    *,
    scheduler: LRScheduler | None = None,
    clip_grad_norm: float | None = None,
    ghost_batch: int = GHOST_BATCH,
    seed: int | None = None,
    seeded_dropout: bool = True,
) -> Run:
    """Make the training of ``model`` a balanced run over all ranks.

    Call it once, with the same arguments on every rank, when the model has its initial parameters and before anything
    is trained. The model is moved to the rank's device.

    Args:
        model: The plain module, not wrapped in DistributedDataParallel. Parameters must be float32.
        optimizer: Made from the model's parameters. Its ``step()`` and ``zero_grad()`` may stay in the loop.
        loader: Its ``batch_size`` is the global batch: the samples of one step over all ranks together. Its dataset,
            ``shuffle`` or sampler, ``collate_fn``, worker processes and ``drop_last`` are used.
        scheduler: A learning rate schedule that steps after every optimizer step; leave its ``step()`` out of the loop.
        clip_grad_norm: Largest norm of the whole gradient; larger ones are scaled down before the step.
        ghost_batch: Samples that a model with batch norm normalises together, on every rank and for any shares; it is
            not used for other models. 0: whatever micro-batch a rank computes.
        seed: Decides about the order of samples and about what is random in them; the launcher's by default.
        seeded_dropout: Let ``nn.Dropout`` draw by sample and step, so that results do not depend on who computes what.

    Raises:
        UsageError: something of this cannot be trained by several unequal ranks; the message says what to do.
    """
    launched = launch.current or launch_alone()
    if launched.is_prepared:
        raise UsageError("trainer.prepare: a process can prepare one training only")
    if isinstance(model, DistributedDataParallel):
        raise UsageError(
            "trainer.prepare: the model is wrapped in DistributedDataParallel", next_step="give the plain module"
        )
    launched.is_prepared = True
    launched.stop_watching()
    options = launched.options if seed is None else dataclasses.replace(launched.options, seed=seed)
    device = _device(launched.device)
    _move(model, device)
    data = LoaderData(loader, options.seed, device)
    piece = ghost_batch if has_batch_norm(model) else 0
    statistics = RunningStatistics(model)
    flat = gradient_model(model, launched.place.host.world_size, statistics)
    turns = Turns()
    script_optimizer = ScriptOptimizer(optimizer, flat, scheduler, clip_grad_norm, options.precision, turns.done)
    learner = ScriptLearner(
        flat,
        script_optimizer,
        data.batches,
        turns,
        device=device,
        seed=options.seed,
        dataset_size=data.size,
        ghost_batch=piece,
        statistics=statistics,
        dropout=SeededDropout(model) if seeded_dropout else None,
        simulated_samples_per_second=launched.place.host.simulated_samples_per_second,
    )
    sampler = BalancedSampler(
        data.size,
        data.global_batch,
        options.seed,
        ghost_batch=piece,
        drop_last=data.drop_last and data.size >= data.global_batch,
        order=data.order(),
    )
    identity = {
        "script": Path(sys.argv[0]).name,
        "dataset_size": data.size,
        "global_batch": sampler.global_batch,
        "seed": options.seed,
        "optimizer": type(optimizer).__name__,
        "parameters": flat.size,
    }
    if launched.options.global_batch != sampler.global_batch:
        text = f"the global batch is that of the script's DataLoader: {sampler.global_batch} samples"
        launched.emitter.emit(Notice, text=text)
    if options.compile:
        model.compile(dynamic=True)
    return Run(launched, options, Subject(learner, sampler, identity), script_optimizer, turns, device)


def launch_alone() -> Launched:
    """Make a process that nobody launched a run of its own."""
    from trainer.api_alone import launch_alone as alone

    return alone()


class Run:
    """A prepared training. Made by :func:`prepare`."""

    def __init__(
        self,
        launched: Launched,
        options: Options,
        subject: Subject,
        optimizer: ScriptOptimizer,
        turns: Turns,
        device: str,
    ) -> None:
        self.device = device
        """Where the model is and micro-batches come to: ``cpu``, ``cuda:0``, ``mps``."""
        self.rank = launched.place.rank
        self.world_size = launched.place.host.world_size
        """Ranks the run was started with; some of them may be lost at the moment."""
        self._launched = launched
        self._options = options
        self._subject = subject
        self._optimizer = optimizer
        self._turns = turns
        self._training: Training | None = None
        self._piece: Piece | None = None
        self._epoch = 0

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self._training.step or 0 if self._training else 0

    @property
    def is_main(self) -> bool:
        """Whether this is the lowest living rank: the one that should write and print what is the same on all."""
        return self._training.is_main if self._training else self.rank == 0

    @property
    def is_measuring(self) -> bool:
        """Whether the present micro-batch only shows how fast this rank is: its gradient is thrown away."""
        return self._piece is not None and self._piece.measuring

    def epochs(self, count: int) -> Iterator[int]:
        """Train for ``count`` epochs; give the number of each that is to be trained, counted from 0.

        A resumed run begins with the epoch it stopped in. A rank that joins a running job enters the loop in the
        epoch it knows of, to measure itself, and goes on in that of the others.

        Raises:
            UsageError: called twice.
            TrainerError: whatever ends this rank before the end of the run.
        """
        if self._training is not None:
            raise UsageError("run.epochs() can be called once")
        self._start(count)
        while (piece := self._turns.next()) is not None:
            self._epoch = self._epoch_of(piece)
            yield self._epoch
            if self._turns.at_work(piece):
                raise UsageError("the loop over run.epochs() has to loop over run", next_step="for batch in run: ...")

    def __iter__(self) -> Iterator[Any]:
        """Give this rank's micro-batches of the present epoch, as the loader's ``collate_fn`` made them."""
        while (piece := self._turns.next()) is not None and self._epoch_of(piece) == self._epoch:
            self._piece = piece
            yield piece.batch
            self._piece = None
            if self._turns.at_work(piece):
                self._turns.done()

    def backward(self, loss: Tensor, *, units: int | None = None, correct: int = 0) -> None:
        """Compute the gradients of a micro-batch, so that all ranks' together are those of one big batch.

        Args:
            loss: The *mean* loss over the micro-batch, as torch's loss functions return it.
            units: What it is the mean over, where that is not the micro-batch's samples: the labels that count, with
                ``ignore_index``. 0 where none does.
            correct: How many were predicted right, for the accuracy that is shown for the epoch.
        """
        piece = self._piece
        if piece is None:
            raise UsageError("run.backward() belongs into the loop over run")
        count = piece.samples if units is None else units
        # A mean over nothing is not a number, and has no gradient either.
        total = loss * count if count else loss.new_zeros((), requires_grad=True)
        torch.autograd.backward(self._optimizer.scale(total / piece.nominal))
        piece.has_gradient = True
        piece.units += count
        piece.correct += correct
        piece.losses.append(total.detach())

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes in the precision that the launcher was asked for."""
        return autocast(self.device, self._options.precision)

    def stop(self) -> None:
        """Stop all ranks after the same step, with a checkpoint; call it from any rank."""
        self._launched.stop_signal.set()

    def _asked(self) -> Asked:
        if self._launched.stop_signal.is_set():
            return "stop"
        return "leave" if self._launched.told_to_end.is_set() else ""

    def _epoch_of(self, piece: Piece) -> int:
        assert self._training is not None
        step = self._training.first_step if piece.measuring else piece.step
        return self._subject.sampler.epoch_of(step)

    def _start(self, count: int) -> None:
        at = self._launched
        options = dataclasses.replace(
            self._options, epochs=count, steps=0, global_batch=self._subject.sampler.global_batch
        )
        if threading.current_thread() is threading.main_thread() and at.is_launched:
            signal.signal(signal.SIGTERM, lambda _signal, _frame: at.told_to_end.set())
        at.link.take_part(elastic=options.elastic, heartbeat_timeout=options.heartbeat_timeout)
        training = self._training = Training(
            at.place, options, at.emitter, at.control, self._asked, self._subject, self.device, at.link
        )
        at.steps = lambda: self.step
        threading.Thread(
            target=self._turns.run, args=(lambda: self._train(training),), name="training", daemon=True
        ).start()

    def _train(self, training: Training) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
        training.run(self._launched.commands)
        self._launched.is_over = True
        if not self._launched.is_launched:
            self._launched.link.close()


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _move(model: nn.Module, device: str) -> None:
    before = list(model.parameters())
    model.to(device)
    if any(one is not other for one, other in zip(before, model.parameters(), strict=True)):
        raise UsageError(
            f"trainer.prepare: moving the model to {device} made new parameters",
            next_step=f"move it there before the optimizer is made: model.to({device!r})",
        )

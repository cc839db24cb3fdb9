"""Runs an unmodified training script as torchrun would, and watches its optimizer steps through torch's public hooks.

The script keeps its own loop, model, data and process group. What is seen from outside becomes `Step` events:

* an optimizer step ends where the first optimizer finishes its ``step()``;
* samples are the batch of the outermost trainable module's forward, checked against what the ``DataLoader`` gave;
* compute ends when the last gradient is accumulated, before DistributedDataParallel waits for other ranks;
* waiting and communication cannot be told apart from outside: both are in ``wait``.

Importing this module does not import torch. A rank runs a script after its hello and its go like this::

    os.environ.update(torchrun_environment(os.environ, run_id))
    exit_code = run_script(Path(options.script[0]), options.script[1:], emitter, world_size)

An exception of the script passes through ``run_script``; the rank tells it as it tells its own. With ``-m`` Python
puts the current folder first on ``sys.path``, so where that folder can hold a ``trainer.py`` (the runtime without
containers) processes are started with ``python -P -m trainer``.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import trainer
from trainer import launch
from trainer.events import Done, Emitter, Joined, Notice, Step
from trainer.gradient_clock import GradientClock

RECENT_BATCHES: Final = 3
"""Batch sizes of the loader that a forward may belong to: some loops fetch a batch or two ahead."""


def torchrun_environment(environment: Mapping[str, str], run_id: str) -> dict[str, str]:
    """Return the variables a torchrun script expects beyond RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR/PORT.

    ``TORCHELASTIC_USE_AGENT_STORE`` makes ``init_process_group("env://")`` use the store that already listens on
    the master (torch/distributed/rendezvous.py) instead of opening a second one on the same port. Lightning Fabric
    and Accelerate recognise a launched process by ``TORCHELASTIC_RUN_ID`` and ``LOCAL_RANK``.
    """
    rank, world_size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    local_world_size = environment.get("LOCAL_WORLD_SIZE", "1")
    return {
        "LOCAL_RANK": environment.get("LOCAL_RANK", "0"),
        "LOCAL_WORLD_SIZE": local_world_size,
        "GROUP_RANK": environment.get("GROUP_RANK", environment.get("NODE_RANK", "0")),
        "ROLE_NAME": "default",
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": world_size,
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def run_script(script: Path, arguments: Sequence[str], emitter: Emitter, world_size: int) -> int:
    """Run a script as ``python script arguments…`` would, watch its steps, and return its exit code.

    The process's signals behave as Python's own again: the script may handle them itself.

    Raises:
        FileNotFoundError: there is no such script.
        BaseException: whatever the script raises and does not catch, except ``SystemExit``.
    """
    if not script.is_file():
        raise FileNotFoundError(f"there is no script {script} on this host (looked in {Path.cwd()})")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _tell_shadowed(script, emitter)
    observer = install(emitter, world_size)
    if launch.current is not None:
        launch.current.stop_watching = observer.remove
    before = sys.argv, list(sys.path)
    began = time.monotonic()
    sys.argv = [str(script), *arguments]
    # Our package is imported by now, so a trainer.py beside the script cannot take its place.
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
        exit_code = 0
    except SystemExit as stop:
        exit_code = _exit_code(stop.code)
    finally:
        observer.remove()
        sys.argv, sys.path[:] = before
    if exit_code == 0 and not (launch.current and launch.current.is_prepared):
        emitter.emit(Done, steps=observer.steps, samples=observer.samples, seconds=time.monotonic() - began)
    return exit_code


def _exit_code(code: object) -> int:
    """Return the exit status of ``SystemExit(code)`` as Python's own: text is printed and means 1."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr, flush=True)
    return 1


def _tell_shadowed(script: Path, emitter: Emitter) -> None:
    """Say so when the script's own ``trainer`` module cannot be imported by that name."""
    folder = script.resolve().parent
    ours = Path(trainer.__file__ or "").resolve().parent
    for own in (folder / "trainer.py", folder / "trainer" / "__init__.py"):
        if own.is_file() and own.parent != ours:
            emitter.emit(
                Notice,
                level="warning",
                text=f"{own} has the name of hetero-tui's own package: 'import trainer' in {script.name} gives that"
                " package; rename the file if the script imports it",
            )


def install(emitter: Emitter, world_size: int) -> Observer:
    """Watch the optimizer steps of this process from now on; ``remove()`` of the result ends it.

    Imports torch. ``world_size`` is used for the global batch: every rank is taken to compute as many samples as
    this one, as ``DistributedSampler`` arranges it.
    """
    observer = Observer(emitter, world_size)
    observer.install()
    return observer


class _Loader:
    """What one DataLoader gave."""

    def __init__(self) -> None:
        self.rounds = 0
        self.available = 0
        """Samples fetched and not yet counted in a step."""
        self.sizes: list[int] = []


class _WatchedIterator:
    """An iterator over a loader's batches that measures waiting and counts samples."""

    def __init__(self, inner: Iterator[Any], fetched: Callable[[Any, float], None]) -> None:
        self._inner = inner
        self._fetched = fetched

    def __iter__(self) -> _WatchedIterator:
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        batch = next(self._inner)
        self._fetched(batch, time.perf_counter() - began)
        return batch

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]  # torch's own iterators have a length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Observer:
    """Turns what torch's hooks tell into `Step` events. Made by :func:`install`."""

    def __init__(self, emitter: Emitter, world_size: int) -> None:
        self._emitter = emitter
        self._world_size = world_size
        self.steps = 0
        """Optimizer steps seen."""
        self.samples = 0
        """Samples of all ranks together, by this rank's count."""
        self._handles: list[Any] = []
        self._discovery: Any = None
        self._undo: list[Callable[[], None]] = []
        self._loaders: WeakKeyDictionary[Any, _Loader] = WeakKeyDictionary()
        self._latest: _Loader | None = None
        self._training: _Loader | None = None
        self._root: Any = None
        self._primary = 0
        self._others: set[int] = set()
        self._told_joined = False
        self._gradients: GradientClock | None = None
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._interrupted = True
        """An evaluation (or the time before training) belongs to no step: the next one begins with its own data."""
        self._forwarded = 0
        self._was_called = False

    def install(self) -> None:
        """Set the hooks."""
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self._handles += [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        self._discover()
        self._watch_loaders()

    def remove(self) -> None:
        """Take all hooks away again."""
        for handle in self._handles:
            handle.remove()
        for undo in self._undo:
            undo()
        self._handles.clear()
        self._undo.clear()
        self._end_discovery()
        if self._gradients is not None:
            self._gradients.remove()

    # ------------------------------------------------------------------ data

    def _watch_loaders(self) -> None:
        from torch.utils.data import DataLoader

        original = DataLoader.__iter__
        observer = self

        def watched(loader: Any) -> Any:
            return observer._iterate(loader, original(loader))

        DataLoader.__iter__ = watched  # type: ignore[method-assign]  # there is no hook for batches

        def undo() -> None:
            DataLoader.__iter__ = original  # type: ignore[method-assign]

        self._undo.append(undo)

    def _iterate(self, loader: Any, inner: Iterator[Any]) -> _WatchedIterator:
        seen = self._loaders.setdefault(loader, _Loader())
        seen.rounds += 1
        seen.available = 0

        def fetched(batch: Any, seconds: float) -> None:
            size = batch_size(batch)
            seen.available += size
            seen.sizes = [*seen.sizes, size][-RECENT_BATCHES:]
            self._latest = seen
            if self._training is None or (self._interrupted and seen is self._training):
                self._begin_again(seconds)
            elif seen is self._training:
                self._waited += seconds
            else:
                self._interrupted = True

        return _WatchedIterator(inner, fetched)

    # ------------------------------------------------------------------ forward

    def _discover(self) -> None:
        """Look for the outermost trainable module: the first one that is called after this."""
        from torch.nn.modules.module import register_module_forward_pre_hook

        if self._discovery is None:
            self._discovery = register_module_forward_pre_hook(self._found)

    def _end_discovery(self) -> None:
        if self._discovery is not None:
            self._discovery.remove()
            self._discovery = None

    def _found(self, module: Any, arguments: tuple[Any, ...]) -> None:
        import torch

        if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
            return
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return
        # A hook on every module would cost time in every one of them; from now on only this one is asked.
        self._end_discovery()
        self._root = module
        self._handles.append(module.register_forward_pre_hook(self._before_forward, with_kwargs=True))
        if self._gradients is not None:
            self._gradients.remove()
        self._gradients = GradientClock(module)
        self._before_forward(module, arguments, {})

    def _before_forward(self, module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        import torch

        if module is not self._root:
            return
        if not (module.training and torch.is_grad_enabled()):
            self._interrupted = True
            return
        if self._interrupted:
            self._begin_again()
        self._was_called = True
        self._training = self._latest
        self._forwarded += self._samples_of(arguments, named)
        if self._gradients is not None:
            self._gradients.begin()
        self._tell_joined()

    def _samples_of(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> int:
        """Return the samples of one forward; the loader says which dimension of the input counts them."""
        shape = _first_shape((*arguments, *named.values()))
        sizes = self._training.sizes if self._training is not None else []
        for length in shape[:2]:
            if length in sizes:
                return int(length)
        if sizes:
            return sizes[-1]
        return int(shape[0]) if shape else 0

    def _tell_joined(self) -> None:
        import torch.distributed as distributed

        if self._told_joined or not (distributed.is_available() and distributed.is_initialized()):
            return
        self._told_joined = True
        self._emitter.emit(Joined, world_size=distributed.get_world_size())

    # ------------------------------------------------------------------ optimizer

    def _before_step(self, optimizer: Any, _arguments: Any, _named: Any) -> None:
        if self._is_primary(optimizer) and self._gradients is not None:
            self._gradients.end()

    def _after_step(self, optimizer: Any, _arguments: Any, _named: Any) -> None:
        if not self._is_primary(optimizer):
            if id(optimizer) not in self._others:
                self._others.add(id(optimizer))
                return
            # The first optimizer has been silent while another one stepped twice: the script moved on to that one.
            self._primary = id(optimizer)
        self._others.clear()
        self._end_step(float(optimizer.param_groups[0]["lr"]))

    def _is_primary(self, optimizer: Any) -> bool:
        self._primary = self._primary or id(optimizer)
        return id(optimizer) == self._primary

    def _end_step(self, learning_rate: float) -> None:
        duration = time.perf_counter() - self._begin
        samples = self._count()
        data = min(self._waited, duration)
        measured = self._gradients.seconds() if self._gradients is not None else None
        compute = duration - data if measured is None else min(measured, duration - data)
        wait = 0.0 if measured is None or self._gradients is None else self._gradients.waited(duration)
        self._emitter.emit(
            Step,
            step=self.steps,
            epoch=max(0, self._training.rounds - 1) if self._training is not None else 0,
            share=samples,
            global_batch=samples * self._world_size,
            learning_rate=learning_rate,
            compute=compute,
            data=data,
            wait=wait,
            duration=duration,
        )
        self.steps += 1
        self.samples += samples * self._world_size
        if not self._was_called:
            self._discover()
        self._forwarded, self._was_called = 0, False
        self._begin_again()

    def _count(self) -> int:
        """Return the samples of the step that ends: no forward counts twice what was fetched once."""
        training = self._training
        if training is None:
            return self._forwarded
        samples = min(self._forwarded, training.available) if self._was_called else training.available
        training.available -= samples
        return samples

    def _begin_again(self, waited: float = 0.0) -> None:
        """A step begins now, or when the wait for its first batch began."""
        self._begin = time.perf_counter() - waited
        self._waited = waited
        self._interrupted = False


def batch_size(batch: Any) -> int:
    """Return the samples of a batch: the first dimension of its first tensor; 0 where there is none."""
    shape = _first_shape((batch,))
    return int(shape[0]) if shape else 0


def _first_shape(values: Sequence[Any]) -> Sequence[int]:
    """Return the shape of the first tensor with a dimension in nested tuples, lists and mappings."""
    import torch

    for value in values:
        if isinstance(value, torch.Tensor):
            if value.dim():
                return tuple(value.shape)
            continue
        inner: Sequence[Any] = ()
        if isinstance(value, Mapping):
            inner = tuple(value.values())
        elif isinstance(value, (tuple, list)):
            inner = value
        shape = _first_shape(inner) if inner else ()
        if shape:
            return shape
    return ()


def main() -> int:
    """Run ``python -m trainer.observe script arguments…``: one rank, events on standard output."""
    if len(sys.argv) < 2:
        print("usage: python -m trainer.observe SCRIPT [ARGUMENT…]", file=sys.stderr)
        return 2

    def write(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    emitter = Emitter(int(os.environ.get("RANK", "0")), write)
    return run_script(Path(sys.argv[1]), sys.argv[2:], emitter, int(os.environ.get("WORLD_SIZE", "1")))


if __name__ == "__main__":
    sys.exit(main())

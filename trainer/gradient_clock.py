"""When a model's gradients are complete, seen from outside: the end of this rank's own work in a step.

DistributedDataParallel starts to reduce a bucket as soon as its gradients are there, and waits for the reductions only
after the last gradient. So the time up to the last gradient is compute, and what follows until the optimizer steps is
waiting and communication.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final


class GradientClock:
    """Measures forward and backward of a module up to its last gradient, before anything is waited for.

    On a GPU the times are those of CUDA events, read one step later, when they are there without waiting.
    """

    KEPT: Final = 2
    """Gradients watched once it is known which come last."""

    def __init__(self, module: Any) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._on_gpu = parameters[0].device.type == "cuda"
        self._order: list[int] = []
        self._handles = {
            index: parameter.register_post_accumulate_grad_hook(self._accumulated(index))
            for index, parameter in enumerate(parameters)
        }
        self._began: Any = None
        self._last: Any = None
        self._stepped = 0.0
        self._finished: tuple[Any, Any] | None = None
        self._narrowed = False

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def begin(self) -> None:
        """A forward begins; the first one since the last step counts."""
        if self._began is None:
            self._began = self._now()

    def end(self) -> None:
        """The optimizer is about to step: gradients are complete, here and on the other ranks."""
        self._stepped = time.perf_counter()
        self._narrow()

    def seconds(self) -> float | None:
        """Return the compute time of the step that ended, or None when it is not known."""
        began, last, self._began, self._last = self._began, self._last, None, None
        pair = None if began is None or last is None else (began, last)
        if not self._on_gpu:
            self._finished = pair
            return None if pair is None else float(pair[1] - pair[0])
        before: tuple[Any, Any] | None = self._finished
        self._finished = pair
        if before is None or not before[1].query():
            return None
        return float(before[0].elapsed_time(before[1])) / 1000

    def waited(self, duration: float) -> float:
        """Return the seconds between the last gradient and the optimizer's step; call it after :meth:`seconds`."""
        if self._on_gpu or self._finished is None:
            return 0.0
        return min(max(0.0, self._stepped - float(self._finished[1])), duration)

    def _accumulated(self, index: int) -> Callable[[Any], None]:
        def hook(_parameter: Any) -> None:
            self._last = self._now()
            if not self._narrowed:
                self._order.append(index)

        return hook

    def _narrow(self) -> None:
        """Keep only the hooks of the gradients that came last, so that watching costs next to nothing."""
        if self._narrowed or not self._order:
            return
        self._narrowed = True
        last = list(dict.fromkeys(reversed(self._order)))[: self.KEPT]
        for index in [index for index in self._handles if index not in last]:
            self._handles.pop(index).remove()

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

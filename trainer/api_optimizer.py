"""A user's optimizer in the training loop: when it steps, and what of it a joining rank takes over."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainer.errors import UsageError
from trainer.reduction import FlatModel


class ScriptOptimizer:
    """Steps a user's optimizer with reduced gradients; its state can be sent and kept.

    ``optimizer.step()`` and ``optimizer.zero_grad()`` in the user's loop are left in place and mean: this micro-batch
    is done, and nothing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        flat: FlatModel,
        scheduler: LRScheduler | None,
        clip_grad_norm: float | None,
        precision: str,
        on_step: Callable[[], None],
    ) -> None:
        """Take over ``step`` and ``zero_grad``; ``on_step`` is called for the user's ``step()``.

        Raises:
            UsageError: it has parameters that do not belong to the model.
        """
        self.optimizer = optimizer
        self._flat = flat
        self._scheduler = scheduler
        self._clip = clip_grad_norm
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._check()
        if optimizer.state:
            # Its state may be on another device than the parameters are now.
            optimizer.load_state_dict(optimizer.state_dict())
        device = flat.buffer.device.type
        self._scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
        self._step, self._stepping = optimizer.step, False
        self._take_over(on_step)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def scale(self, loss: Tensor) -> Tensor:
        """Scale a loss for 16-bit gradients; as it is otherwise."""
        return self._scaler.scale(loss)

    def apply(self) -> None:
        """Clip and step once with the gradients that are there, then let the schedule step."""
        if self._clip is not None:
            self._scaler.unscale_(self.optimizer)
            self._clip_gradients(self._clip)
        self._stepping = True
        try:
            self._scaler.step(self.optimizer)
        finally:
            self._stepping = False
        self._scaler.update()
        if self._scheduler is not None:
            self._scheduler.step()

    def prepare_state(self) -> None:
        """Create the optimizer's state with a step that changes nothing."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self._flat.zero()
        self._stepping = True
        try:
            self._step()
        finally:
            self._stepping = False
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for state in self.optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as few tensors, by name: those of the same key in a row."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self._parameters]
        keys = sorted({key for state in states for key, value in state.items() if isinstance(value, Tensor)})
        found = {}
        for key in keys:
            parts = [state[key].reshape(-1) for state in states if isinstance(state.get(key), Tensor)]
            found[f"optimizer.{key}"] = torch.cat(parts)
        return found

    def extra_state(self) -> dict[str, Any]:
        """Return what is no tensor, as JSON values; for each parameter also which tensors it has, and their shapes."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self._parameters]
        shapes = [
            {key: list(value.shape) for key, value in state.items() if isinstance(value, Tensor)} for state in states
        ]
        return {
            "shapes": shapes,
            "values": [_plain(state) for state in states],
            "groups": [_plain(group) for group in self.optimizer.param_groups],
            "schedule": {} if self._scheduler is None else _plain(self._scheduler.state_dict()),
            "scaler": dict(self._scaler.state_dict()),
        }

    def load_extra_state(self, extra: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over both :meth:`extra_state` and :meth:`tensors` of another rank or of an earlier run."""
        offsets: dict[str, int] = {}
        pairs = zip(self._parameters, extra["shapes"], extra["values"], strict=True)
        for parameter, shapes, values in pairs:
            state: dict[str, Any] = dict(values)
            for key, shape in shapes.items():
                start = offsets.get(key, 0)
                length = torch.Size(shape).numel()
                offsets[key] = start + length
                value = tensors[f"optimizer.{key}"][start : start + length].view(shape)
                state[key] = value.to(self._device_of(shape, parameter), copy=True)
            self.optimizer.state[parameter] = state
        for group, values in zip(self.optimizer.param_groups, extra["groups"], strict=True):
            group.update(values)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(extra["schedule"]))
        if extra["scaler"]:
            self._scaler.load_state_dict(dict(extra["scaler"]))

    def _device_of(self, shape: Sequence[int], parameter: nn.Parameter) -> torch.device:
        """Return where a state tensor belongs: torch keeps the count of steps on the CPU, unless told otherwise."""
        group = self.optimizer.param_groups[0]
        on_device = bool(shape) or group.get("capturable") or group.get("fused")
        return parameter.device if on_device else torch.device("cpu")

    def _check(self) -> None:
        if isinstance(self._scheduler, ReduceLROnPlateau):
            raise UsageError(
                "trainer.prepare: ReduceLROnPlateau needs a figure that only the script knows",
                next_step="set the learning rate in optimizer.param_groups yourself, the same on every rank",
            )
        known = {id(parameter) for parameter in self._flat.model.parameters()}
        if any(id(parameter) not in known for parameter in self._parameters):
            raise UsageError(
                "trainer.prepare: the optimizer has parameters that are not the model's",
                next_step="put all that is trained into one nn.Module, and make the optimizer from its parameters",
            )

    def _clip_gradients(self, largest: float) -> None:
        """Scale all gradients down together, as ``torch.nn.utils.clip_grad_norm_`` does."""
        norm = self._flat.gradient.norm()
        self._flat.gradient.mul_(torch.clamp(largest / (norm + 1e-6), max=1.0))

    def _take_over(self, on_step: Callable[[], None]) -> None:
        original = self._step

        @functools.wraps(original)
        def step(_optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
            if self._stepping:
                return original(*arguments, **named)
            return on_step()

        def zero_grad(_optimizer: Optimizer, set_to_none: bool = True) -> None:
            """Do nothing: gradients are cleared once a step, and live in one buffer."""

        self.optimizer.step = types.MethodType(step, self.optimizer)  # type: ignore[method-assign]
        self.optimizer.zero_grad = types.MethodType(zero_grad, self.optimizer)  # type: ignore[method-assign]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can carry of a mapping."""
    return {key: value for key, value in values.items() if key != "params" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, (bool, int, float, str))

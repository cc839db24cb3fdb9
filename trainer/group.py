"""The process group: collectives over the present members, and leaving a group in which somebody is lost.

Gloo cannot abort: ``abort()`` does nothing and a blocked collective waits for its timeout. What works is to call
``shutdown()`` on this process's own sockets of the group: the blocked call raises within milliseconds. The sockets of
the group are those that were opened since its formation began; all others are left alone. NCCL has a real abort.

Each generation uses its own TCPStore connection and its own key prefix: addresses of an earlier group are never read.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from trainer.errors import GroupBroken
from trainer.link import Formation, Link
from trainer.open_sockets import sockets
from trainer.stuck import OnStuck, comes_back, end_process

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
STORE_TIMEOUT: Final = timedelta(seconds=60)
LEAVE_SECONDS: Final = 20.0
"""Leaving a group takes milliseconds, also on a busy machine; in a deadlock inside the backend it takes for ever."""
INTERRUPTED_SECONDS: Final = 90.0
"""Connecting to a store that does not answer takes ``STORE_TIMEOUT``, and cannot be interrupted before it answers."""
INTERRUPT_SECONDS: Final = 0.02
"""A socket may be opened just after the others were shut down, so the watchdog looks again."""


class Group:
    """The members that train together. Collectives are called from one thread; the watchdog is another."""

    def __init__(
        self,
        link: Link,
        *,
        rank: int,
        run_id: str,
        address: str,
        port: int,
        backend: str,
        on_stuck: OnStuck = end_process,
    ) -> None:
        """``address`` and ``port`` are those of the TCPStore; ``on_stuck`` is told what does not come back."""
        self.rank = rank
        self.members: tuple[int, ...] = ()
        self.generation = -1
        self._link = link
        self._run_id = run_id
        self._address = address
        self._port = port
        self._backend = backend
        self._on_stuck = on_stuck
        self._staging: dict[tuple[torch.dtype, int], Tensor] = {}
        self._guard = threading.Lock()
        self._inside = False
        self._protected: frozenset[int] = frozenset()
        self.broken = threading.Event()
        """Set as soon as the present generation is given up: long computations may look at it."""
        self._closed = False
        link.on_break = self._on_break
        threading.Thread(target=self._watchdog, name="group-watchdog", daemon=True).start()

    @property
    def position(self) -> int:
        """Index of this rank among the members."""
        return self.members.index(self.rank)

    def form(self, step: int, card: Mapping[str, Any], while_waiting: Callable[[], None]) -> Formation:
        """Leave the present group and become a member of the next one.

        Args:
            step: Optimizer steps this rank has completed; -1 when it has no state.
            card: JSON values to tell the other members.
            while_waiting: Called a few times a second; what it raises ends the waiting.

        Raises:
            RunAborted: the run was ended elsewhere.
            RunOver: the run ended in good order while this rank was waiting.
            CoordinatorLost: the coordinator is gone.
        """
        while True:
            self.leave()
            formation = self._link.form(step, card, while_waiting)
            try:
                self._join(formation)
            except GroupBroken:
                continue
            return formation

    def leave(self) -> None:
        """Close the present group's connections; harmless without a group."""
        if dist.is_initialized():
            try:
                with comes_back("leaving the group", LEAVE_SECONDS, self._on_stuck):
                    dist.destroy_process_group()
            except RuntimeError as error:
                # A group that is being given up may complain that a member is gone; that is why it is given up.
                self._link.broken(self.generation, f"while leaving: {error}")

    def close(self) -> None:
        """Leave the group and end its watchdog."""
        self.leave()
        self._closed = True
        self.broken.set()

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum ``tensor`` over the members, in place.

        Raises:
            GroupBroken: a member is lost; the content of ``tensor`` is undefined.
        """
        if len(self.members) == 1:
            self._raise_if_broken()
            return
        with self._collective():
            wire = self._on_wire(tensor)
            dist.all_reduce(wire)
            if wire is not tensor:
                tensor.copy_(wire)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Copy ``tensor`` of rank ``source`` to all members, in place.

        Raises:
            GroupBroken: a member is lost; the content of ``tensor`` is undefined.
        """
        if len(self.members) == 1:
            return
        with self._collective():
            wire = self._on_wire(tensor)
            dist.broadcast(wire, group_src=self.members.index(source))
            if wire is not tensor:
                tensor.copy_(wire)

    def broadcast_bytes(self, content: bytes, source: int) -> bytes:
        """Return the ``content`` that rank ``source`` passed.

        Raises:
            GroupBroken: a member is lost.
        """
        length = torch.tensor([len(content)], dtype=torch.int64)
        self.broadcast(length, source)
        buffer = torch.zeros(int(length.item()), dtype=torch.uint8)
        if self.rank == source:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.broadcast(buffer, source)
        return bytes(buffer.numpy())

    def _on_wire(self, tensor: Tensor) -> Tensor:
        """Return the tensor the backend can send: Gloo works on the CPU, NCCL on the GPU."""
        wanted = "cpu" if self._backend == "gloo" else torch.device("cuda", torch.cuda.current_device())
        if tensor.device.type == torch.device(wanted).type:
            return tensor
        key = (tensor.dtype, tensor.numel())
        if key not in self._staging:
            pinned = wanted == "cpu" and tensor.device.type == "cuda"
            self._staging[key] = torch.empty(tensor.numel(), dtype=tensor.dtype, device=wanted, pin_memory=pinned)
        staging = self._staging[key].view(tensor.shape)
        staging.copy_(tensor)
        return staging

    def _join(self, formation: Formation) -> None:
        with self._guard:
            self._protected = frozenset(sockets())
            self.generation = formation.generation
            self.members = formation.members
            self.broken.clear()
        with self._collective():
            store = TCPStore(self._address, self._port, None, is_master=False, timeout=STORE_TIMEOUT)
            dist.init_process_group(
                self._backend,
                store=PrefixStore(f"{self._run_id}/{formation.generation}", store),
                rank=formation.members.index(self.rank),
                world_size=len(formation.members),
                timeout=COLLECTIVE_TIMEOUT,
            )
            if len(formation.members) > 1:
                dist.all_reduce(self._on_wire(torch.zeros(1)))

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Let the watchdog interrupt what runs inside, and turn its errors into ``GroupBroken``."""
        with self._guard:
            self._inside = True
        try:
            self._raise_if_broken()
            yield
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._link.broken(self.generation, first_line)
            raise GroupBroken(self._link.why_broken(self.generation) or first_line) from error
        finally:
            with self._guard:
                self._inside = False

    def _raise_if_broken(self) -> None:
        reason = self._link.why_broken(self.generation)
        if reason:
            raise GroupBroken(reason)

    def _on_break(self, generation: int, _reason: str) -> None:
        ended = bool(self._link.why_broken(self.generation))
        if generation >= self.generation or ended:
            self.broken.set()

    def _watchdog(self) -> None:
        interrupted_at = math.inf
        while True:
            self.broken.wait()
            if self._closed:
                return
            with self._guard:
                is_inside = self._inside and self.broken.is_set()
                if is_inside:
                    self._interrupt()
            interrupted_at = min(interrupted_at, time.monotonic()) if is_inside else math.inf
            if time.monotonic() - interrupted_at > INTERRUPTED_SECONDS:
                self._on_stuck(f"an interrupted collective did not come back within {INTERRUPTED_SECONDS:g} s")
                interrupted_at = math.inf
            threading.Event().wait(INTERRUPT_SECONDS)

    def _interrupt(self) -> None:
        if self._backend == "nccl":
            dist.distributed_c10d._abort_process_group()
            return
        for inode, descriptor in sockets().items():
            if inode not in self._protected:
                _shut_down(descriptor)


def _shut_down(descriptor: int) -> None:
    try:
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        # Its owner closed it between the listing and now.
        return
    with duplicate:
        if duplicate.family not in (socket.AF_INET, socket.AF_INET6):
            return
        try:
            # Only connections have a peer. Gloo's listening socket must stay: its thread would end the process.
            duplicate.getpeername()
            duplicate.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Not connected, or the peer was quicker.
            return

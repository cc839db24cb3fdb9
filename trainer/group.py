"""The process group: collectives over the present members, and leaving a group in which somebody is lost.

Gloo cannot abort: ``abort()`` does nothing and a blocked collective waits for its timeout. What works is to call
``shutdown()`` on this process's own sockets of the group: the blocked call raises within milliseconds. The sockets of
the group are those that were opened since its formation began; all others are left alone. NCCL has a real abort.

Not always, though: what no interruption ends is left behind (see ``trainer.connections``).

Each generation uses its own TCPStore connection and its own key prefix: addresses of an earlier group are never read.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from trainer.connections import Connections, open_connections
from trainer.errors import GroupBroken
from trainer.link import Formation, Link
from trainer.open_sockets import sockets

INTERRUPT_SECONDS: Final = 0.02
"""A socket may be opened just after the others were shut down, so the watchdog looks again."""
HOPELESS_INTERRUPTIONS: Final = 50
"""After a second in which this process ran and every socket was shut down, nothing will wake the call any more."""


class Group:
    """The members that train together. Collectives are called from one thread; the watchdog is another."""

    def __init__(self, link: Link, *, rank: int, run_id: str, address: str, port: int, backend: str) -> None:
        """``address`` and ``port`` are those of the TCPStore."""
        self.rank = rank
        self.members: tuple[int, ...] = ()
        self.generation = -1
        self._link = link
        self._run_id = run_id
        self._address = address
        self._port = port
        self._backend = backend
        self._connections: Connections | None = None
        self._staging: dict[tuple[torch.dtype, int], Tensor] = {}
        self._guard = threading.Lock()
        self._inside = False
        self._interruptions = 0
        """How often what runs inside was interrupted."""
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
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

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
            self._present().all_reduce(wire, self._is_hopeless)
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
            self._present().broadcast(wire, self.members.index(source), self._is_hopeless)
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
            self._connections = open_connections(
                self._backend,
                self._address,
                self._port,
                f"{self._run_id}/{formation.generation}",
                formation.members.index(self.rank),
                self._on_wire(torch.zeros(1)),
                len(formation.members),
                self._is_hopeless,
            )

    def _present(self) -> Connections:
        assert self._connections is not None, "no group was formed"
        return self._connections

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Let the watchdog interrupt what runs inside, and turn its errors into ``GroupBroken``."""
        with self._guard:
            self._inside = True
            self._interruptions = 0
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
        while True:
            self.broken.wait()
            if self._closed:
                return
            with self._guard:
                if self._inside and self.broken.is_set():
                    self._interrupt()
                    self._interruptions += 1
            threading.Event().wait(INTERRUPT_SECONDS)

    def _is_hopeless(self) -> bool:
        return self._interruptions > HOPELESS_INTERRUPTIONS

    def _interrupt(self) -> None:
        if self._backend == "nccl":
            if self._connections is not None:
                self._connections.abort()
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

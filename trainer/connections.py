"""The connections of one generation of the group: opened, used and let go without ever waiting for good.

Gloo wakes whoever waits for a message when its connection ends, except when the message was already sent or received
in part: that one is in none of the lists that ``Pair::signalException`` goes over (gloo/transport/tcp/pair.cc), and its
waiter comes back with the collective's timeout only. A pair that waits to be connected to has no socket that could be
shut down, and destroying the process group joins the threads that wait. So what is hopeless is left behind: in a thread
that ends with its own timeout, with buffers that nobody can write to any more because all connections are closed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import timedelta
from typing import Final, Protocol, TypeVar, cast

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore, Work

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
OPEN_TIMEOUT: Final = timedelta(seconds=60)
"""For the store's answers, and for each peer's connection."""
LOOK: Final = timedelta(milliseconds=250)
"""How often a caller that waits looks whether that is hopeless."""
CLOSE_SECONDS: Final = 5.0
"""Closing takes milliseconds; what takes longer is left to itself."""

IsHopeless = Callable[[], bool]
Result = TypeVar("Result")


class NeverBack(RuntimeError):
    """The backend was interrupted and did not come back; its call is left behind."""


class ProcessGroup(Protocol):
    """What is used of torch's process groups; without their global registry, which knows one group at a time."""

    def allreduce(self, tensors: list[Tensor], opts: dist.AllreduceOptions) -> Work: ...
    def broadcast(self, tensors: list[Tensor], opts: dist.BroadcastOptions) -> Work: ...
    def abort(self) -> None: ...


class Connections:
    """Connections with all members of one generation. All but ``abort`` is called from one thread."""

    def __init__(self, process_group: ProcessGroup, *, interruptible: bool) -> None:
        """``interruptible`` says that the backend has a real abort, so that nothing of it needs to be left behind."""
        self._held = [process_group]
        self._interruptible = interruptible
        self._left_behind = False

    def all_reduce(self, tensor: Tensor, is_hopeless: IsHopeless) -> None:
        """Sum ``tensor`` over the members, in place.

        Raises:
            NeverBack: ``is_hopeless`` said so, and the call is left behind; ``tensor`` is undefined.
            RuntimeError: a connection ended; ``tensor`` is undefined.
        """
        options = dist.AllreduceOptions()
        options.timeout = COLLECTIVE_TIMEOUT
        self._wait(self._held[0].allreduce([tensor], options), is_hopeless)

    def broadcast(self, tensor: Tensor, source: int, is_hopeless: IsHopeless) -> None:
        """Copy ``tensor`` of the member at position ``source`` to all members, in place.

        Raises:
            NeverBack: ``is_hopeless`` said so, and the call is left behind; ``tensor`` is undefined.
            RuntimeError: a connection ended; ``tensor`` is undefined.
        """
        options = dist.BroadcastOptions()
        options.timeout = COLLECTIVE_TIMEOUT
        options.rootRank = source
        self._wait(self._held[0].broadcast([tensor], options), is_hopeless)

    def abort(self) -> None:
        """End what runs, of a backend that can be interrupted; may be called from any thread."""
        for process_group in self._held:
            process_group.abort()

    def close(self) -> None:
        """Let go of the process group, which closes its connections; what does not end is left to itself."""
        # Its destruction waits for its threads, and one of them may wait for good.
        closing = threading.Thread(target=self._held.clear, name="group-closing", daemon=True)
        closing.start()
        if not self._left_behind:
            closing.join(CLOSE_SECONDS)
            if closing.is_alive():
                _tell("closing a group's connections")

    def _wait(self, work: Work, is_hopeless: IsHopeless) -> None:
        if self._interruptible:
            work.wait()
            return
        while True:
            try:
                work.wait(LOOK)
            except RuntimeError:
                if work.is_completed():
                    # It may have completed just after the look had ended: only now it is sure how.
                    work.wait()
                    return
                if is_hopeless():
                    self._left_behind = True
                    _tell("an interrupted exchange")
                    raise NeverBack("the exchange was interrupted and did not come back") from None
                continue
            return


def open_connections(
    backend: str, address: str, port: int, prefix: str, position: int, first: Tensor, size: int, is_hopeless: IsHopeless
) -> Connections:
    """Connect with all ``size`` members that open the same ``prefix`` of the TCPStore at ``address`` and ``port``.

    Args:
        backend: "gloo" or "nccl".
        address: Where the store listens.
        port: Where the store listens.
        prefix: Names this generation: addresses of an earlier one are never read.
        position: Of this rank among the members, from 0.
        first: Reduced once, so that every member is known to be there; on the device that the backend wants.
        size: Number of members.
        is_hopeless: Asked now and then whether to give up.

    Raises:
        NeverBack: ``is_hopeless`` said so; what was begun ends by itself.
        RuntimeError: the store or a member does not answer, or ended the connection.
    """

    def connect() -> Connections:
        store = TCPStore(address, port, None, is_master=False, timeout=OPEN_TIMEOUT)
        connections = Connections(
            _process_group(backend, PrefixStore(prefix, store), position, size), interruptible=backend == "nccl"
        )
        if size > 1:
            try:
                connections.all_reduce(first, is_hopeless)
            except RuntimeError:
                connections.close()
                raise
        return connections

    return _unless_hopeless(connect, is_hopeless)


def _process_group(backend: str, store: PrefixStore, position: int, size: int) -> ProcessGroup:
    if backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = COLLECTIVE_TIMEOUT
        return cast("ProcessGroup", dist.ProcessGroupNCCL(store, position, size, options))
    return cast("ProcessGroup", dist.ProcessGroupGloo(store, position, size, OPEN_TIMEOUT))


def _unless_hopeless(call: Callable[[], Result], is_hopeless: IsHopeless) -> Result:
    """Return what ``call`` returns, or leave it behind in its thread.

    Raises:
        NeverBack: ``is_hopeless`` said so.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised to whoever waits, on the other thread
            outcome.set_exception(error)

    threading.Thread(target=run, name="group-opening", daemon=True).start()
    while not wait_for([outcome], timeout=LOOK.total_seconds()).done:
        if is_hopeless():
            _tell("the opening of a group's connections")
            raise NeverBack("the connections could not be opened")
    return outcome.result()


def _tell(what: str) -> None:
    print(f"{what} did not come back from the backend and is left behind; this rank goes on", file=sys.stderr)

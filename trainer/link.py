"""A rank's connection to the coordinator: signs of life out; formations, breaks and commands in."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trainer.coordinator import BEAT_SECONDS, TOLD_SECONDS
from trainer.errors import UNFIT, CoordinatorLost, RunAborted
from trainer.open_sockets import unanswered, unanswered_on
from trainer.probing import Prober

MAX_LINE_BYTES: Final = 64 << 20
"""Of a message: the longest tells every member what all others said of themselves."""
SILENCE_SECONDS: Final = 10.0
"""Without a sign of life from the coordinator for so long, the master counts as lost."""
WAITING_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 0.5
"""How often this process's connections are looked at for peers that do not answer."""


class RunOver(Exception):
    """The run ended in good order while this rank was waiting to join it."""


@dataclass(frozen=True, slots=True)
class Formation:
    """One generation of the group, as the coordinator formed it."""

    generation: int
    members: tuple[int, ...]
    steps: Mapping[int, int]
    """Completed steps of each member; -1 for a member without state."""
    source: int
    """The rank whose parameters and position count."""
    left: tuple[int, ...] = ()
    joined: tuple[int, ...] = ()
    reason: str = ""
    cards: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """What each member said of itself when it was ready."""


@dataclass(slots=True)
class _Inbox:
    formation: Formation | None = None
    broken_generation: int = -1
    broken_reason: str = ""
    commands: list[Mapping[str, Any]] = field(default_factory=list)
    aborted: str = ""
    over: bool = False
    closed: str = ""


class Link:
    """One connection. Its thread reads and beats; the methods may be called from any thread."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        run_id: str,
        rank: int,
        timeout: float = 60.0,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Connect, trying for ``timeout`` seconds; ``tell`` takes a sentence that a person should read.

        Raises:
            CoordinatorLost: nobody answers at ``address``.
        """
        self._where = f"{address}:{port}"
        self._socket = _connect(address, port, timeout)
        self._tell = tell
        self._heard = time.monotonic()
        """When the coordinator gave a sign of life."""
        self._inbox = _Inbox()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self.on_break: Callable[[int, str], None] = _ignore
        """Called on the link's thread with the generation and the reason when a generation is given up."""
        self._prober = Prober(lambda ranks: self._send({"type": "reached", "ranks": ranks}))
        self._send({"type": "hello", "rank": rank, "run": run_id})
        self._beater = threading.Thread(target=self._beat, name="coordinator-beat", daemon=True)
        self._reader = threading.Thread(target=self._read, name="coordinator-link", daemon=True)
        self._beater.start()
        self._reader.start()

    @property
    def file_descriptor(self) -> int:
        return self._socket.fileno()

    def form(self, step: int, card: Mapping[str, Any], while_waiting: Callable[[], None]) -> Formation:
        """Say that this rank is ready with ``step`` completed steps, and wait for the next generation.

        ``while_waiting`` is called a few times a second; what it raises ends the waiting.

        Raises:
            RunAborted: the run was ended elsewhere.
            RunOver: the run ended in good order.
            CoordinatorLost: the coordinator is gone.
        """
        with self._changed:
            self._inbox.formation = None
        self._send({"type": "ready", "step": step, "card": card})
        while True:
            with self._changed:
                formation = self._newest_formation()
                if formation is None:
                    self._changed.wait(WAITING_SECONDS)
                    formation = self._newest_formation()
            if formation is not None:
                return formation
            while_waiting()

    def _newest_formation(self) -> Formation | None:
        if self._inbox.formation is None:
            self._raise_if_ended()
        return self._inbox.formation

    def broken(self, generation: int, reason: str) -> None:
        """Tell that a collective of ``generation`` failed here."""
        self._send({"type": "broken", "generation": generation, "reason": reason[:300]})

    def why_broken(self, generation: int) -> str:
        """Return why ``generation`` was given up; empty while it stands."""
        with self._changed:
            if self._inbox.aborted or self._inbox.closed:
                return self._inbox.aborted or self._inbox.closed
            return self._inbox.broken_reason if self._inbox.broken_generation >= generation else ""

    def command(self, name: str, command: Mapping[str, Any]) -> None:
        """Add a command to the log that all ranks apply in one order."""
        self._send({"type": "command", "name": name, "command": dict(command)})

    @property
    def newest_command(self) -> int:
        """Number of entries of the command log that this rank has received."""
        with self._changed:
            return len(self._inbox.commands)

    @property
    def is_told_to_stop(self) -> bool:
        """Whether the log has a stop of the whole run, applied or not."""
        with self._changed:
            return any(entry["command"] == "stop" for entry in self._inbox.commands)

    def commands(self, after: int, up_to: int) -> list[Mapping[str, Any]]:
        """Return the entries ``after+1 … up_to`` of the log, waiting for those that are still on their way.

        Raises:
            RunAborted: the run was ended elsewhere.
            CoordinatorLost: the coordinator is gone.
        """
        with self._changed:
            while len(self._inbox.commands) < up_to:
                self._raise_if_ended()
                self._changed.wait()
            return self._inbox.commands[after:up_to]

    def wait_for_command(self, after: int, timeout: float) -> list[Mapping[str, Any]]:
        """Return the entries behind ``after``, waiting up to ``timeout`` seconds for one.

        Raises:
            RunAborted: the run was ended elsewhere.
            CoordinatorLost: the coordinator is gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._inbox.commands) > after or self._ended(), timeout=timeout)
            if len(self._inbox.commands) <= after:
                self._raise_if_ended()
            return self._inbox.commands[after:]

    def take_part(self, *, elastic: bool, heartbeat_timeout: float) -> None:
        """Tell, before anything else, that this rank's script trains through this package: it can lose ranks."""
        self._send({"type": "take_part", "elastic": elastic, "heartbeat_timeout": heartbeat_timeout})

    def finished(self) -> None:
        """Tell that this rank ends in good order."""
        self._send({"type": "finished"})

    def left(self, reason: str) -> None:
        """Tell that this rank ends in good order while the others go on; they are told the reason."""
        self._send({"type": "left", "reason": reason[:300]})

    def failed(self, reason: str) -> None:
        """Tell why this rank is about to end, so that the others can name the cause."""
        self._send({"type": "failed", "reason": reason[:300]})

    def check(self) -> None:
        """Return while the run goes on.

        Raises:
            RunAborted: the run was ended elsewhere.
            CoordinatorLost: the coordinator is gone.
        """
        with self._changed:
            self._raise_if_ended()

    def close(self) -> None:
        """End the connection."""
        self._closing.set()
        self._prober.close()
        # The other side may have closed it first.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(timeout=1.0)
        self._socket.close()

    def _ended(self) -> bool:
        return bool(self._inbox.aborted or self._inbox.over or self._inbox.closed)

    def _raise_if_ended(self) -> None:
        if self._inbox.aborted:
            raise RunAborted(self._inbox.aborted)
        if self._inbox.over:
            raise RunOver
        if self._inbox.closed:
            raise CoordinatorLost(
                f"lost the coordinator at {self._where}: {self._inbox.closed}",
                next_step="see whether the master still runs and this host reaches it",
            )

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            with self._sending:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            self._close_inbox(str(error))

    def _beat(self) -> None:
        last_beat = last_look = time.monotonic()
        knows_silence = False
        cut: frozenset[str] = frozenset()
        while not self._closing.wait(BEAT_SECONDS) and not self._inbox.closed:
            try:
                with self._sending:
                    self._socket.sendall(b"\n")
            except OSError as error:
                self._close_inbox(str(error))
                return
            now = time.monotonic()
            if now - last_beat > TOLD_SECONDS / 2:
                # This process itself did not run: nobody can be blamed for the silence.
                self._heard = now
            last_beat = now
            if knows_silence != (now - self._heard > TOLD_SECONDS):
                knows_silence = not knows_silence
                self._tell_silence(now - self._heard if knows_silence else 0.0)
            # While the coordinator itself does not answer, its own clock decides, and what is said comes too late.
            if now - last_look >= LOOK_SECONDS and not unanswered_on(self._socket.fileno()):
                last_look, before, cut = now, cut, unanswered()
                if cut != before:
                    self._send({"type": "unanswered", "addresses": sorted(cut)})

    def _tell_silence(self, seconds: float) -> None:
        """Name a master that is frozen or cut off before it is given up, and once it is back."""
        if seconds:
            what = f"for {seconds:.1f} s: the master is frozen, cut off or too busy"
            self._tell(f"no sign of life from the coordinator at {self._where} {what}")
        else:
            self._tell(f"the coordinator at {self._where} gives signs of life again")

    def _read(self) -> None:
        self._socket.settimeout(SILENCE_SECONDS)
        buffered = self._socket.makefile("rb")
        try:
            while line := buffered.readline(MAX_LINE_BYTES):
                self._heard = time.monotonic()
                if line != b"\n":
                    self._take(json.loads(line))
            self._close_inbox("it closed the connection")
        except TimeoutError:
            self._close_inbox(f"no sign of life for {SILENCE_SECONDS:.0f} s")
        except OSError as error:
            self._close_inbox(str(error))
        except UNFIT as error:
            self._close_inbox(f"it sent something that is no message ({error!r})"[:300])

    def _take(self, message: Mapping[str, Any]) -> None:
        broken = False
        with self._changed:
            match message["type"]:
                case "form":
                    self._inbox.formation = _formation(message)
                case "break":
                    self._inbox.broken_generation = int(message["generation"])
                    self._inbox.broken_reason = str(message["reason"])
                    broken = True
                case "command":
                    if message["index"] == len(self._inbox.commands) + 1:
                        self._inbox.commands.append(message)
                case "probe":
                    self._prober.ask(*_probe(message))
                case "abort":
                    self._inbox.aborted = str(message["reason"])
                    broken = True
                case "over":
                    self._inbox.over = True
            self._changed.notify_all()
        if broken:
            self.on_break(self._inbox.broken_generation, self._inbox.aborted or self._inbox.broken_reason)

    def _close_inbox(self, reason: str) -> None:
        with self._changed:
            first = not self._inbox.closed
            self._inbox.closed = self._inbox.closed or reason
            self._changed.notify_all()
        if first and not self._closing.is_set():
            self.on_break(self._inbox.broken_generation, f"lost the coordinator at {self._where}: {reason}")


def _ignore(_generation: int, _reason: str) -> None:
    """Stand in until a group listens."""


def _probe(message: Mapping[str, Any]) -> tuple[dict[int, tuple[str, int]], int]:
    addresses = {int(rank): (str(host), int(port)) for rank, (host, port) in message["addresses"].items()}
    return addresses, int(message["answers"])


def _formation(message: Mapping[str, Any]) -> Formation:
    return Formation(
        generation=int(message["generation"]),
        members=tuple(int(rank) for rank in message["members"]),
        steps={int(rank): int(step) for rank, step in message["steps"].items()},
        source=int(message["source"]),
        left=tuple(int(rank) for rank in message["left"]),
        joined=tuple(int(rank) for rank in message["joined"]),
        reason=str(message["reason"]),
        cards={int(rank): dict(card) for rank, card in message["cards"].items()},
    )


def _connect(address: str, port: int, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=min(5.0, timeout))
        except OSError as error:
            if time.monotonic() >= deadline:
                raise CoordinatorLost(
                    f"no coordinator at {address}:{port} ({error})",
                    next_step="see whether the master runs and lets this port in",
                ) from error
            time.sleep(0.1)
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

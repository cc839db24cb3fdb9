"""The coordinator: a small server on the master that knows which ranks live.

It runs beside the TCPStore in a process of its own, so it outlives every rank, rank 0 included. Each rank holds one
TCP connection to it and sends an empty line four times a second. A closed connection (the kernel closes it when a
process dies) is noticed in milliseconds, silence (a stopped process, a pulled cable) after the heartbeat timeout.

Protocol: one JSON object a line, both ways; see :class:`trainer.roster.Roster` for what is decided.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer.errors import UNFIT
from trainer.listening import listen_on
from trainer.open_sockets import CUT_SECONDS, plain_address
from trainer.roster import Outgoing, Roster

MAX_LINE_BYTES: Final = 1 << 20
BEAT_SECONDS: Final = 0.25
"""How often a rank, and the coordinator to each rank, gives a sign of life."""
TICK_SECONDS: Final = 0.05
START_TIMEOUT_SECONDS: Final = 600.0
REFORM_TIMEOUT_SECONDS: Final = 300.0
PATIENT_SECONDS: Final = 30.0
TOLD_SECONDS: Final = 3.0
"""A rank that may be silent for longer without being given up is told to the person after so long."""
FRESH_SECONDS: Final = 1.0
"""Who gave a sign of life within it is there, and does not answer another rank because the network is cut."""
ALONE_SECONDS: Final = 3.0
"""Without any connected rank for so long a run that had begun is over, once its own host's ranks have ended."""


@dataclass(slots=True)
class _Peer:
    rank: int
    writer: asyncio.StreamWriter
    last_heard: float
    is_told: bool = False
    """The person knows that it is silent."""
    unanswered: frozenset[str] = frozenset()
    """Addresses from which it gets no answer, though it may give signs of life itself."""


class Coordinator:
    """Serves one run. Everything happens on one event loop, so no locks are needed."""

    def __init__(
        self,
        roster: Roster,
        *,
        run_id: str,
        heartbeat_timeout: float,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``heartbeat_timeout`` is in seconds; ``tell`` takes a sentence that a person should read."""
        self.roster = roster
        self._tell = tell
        self._run_id = run_id
        self._heartbeat_timeout = heartbeat_timeout
        self._peers: dict[int, _Peer] = {}
        self._server: asyncio.Server | None = None
        self.ended = asyncio.Event()
        """Set when every rank that lives has ended in good order, or the run was aborted and all are gone."""
        self._may_leave = False
        self._elastic_once_formed = False
        """A script that fails on one rank before the first group ends the run; later it can do without the rank."""
        self._alone_since = math.inf

    async def start(self, preferred_port: int, address: str) -> int:
        """Listen for ranks that dial ``address``, on ``preferred_port`` if it is free, else on any; return the port."""
        try:
            listening = listen_on(address, preferred_port)
        except OSError:
            listening = listen_on(address, 0)
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=MAX_LINE_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop every connection, telling nobody."""
        for peer in self._peers.values():
            peer.writer.transport.abort()
        self._peers.clear()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def watch(self) -> None:
        """Look for silent ranks until cancelled."""
        loop = asyncio.get_running_loop()
        last_tick = last_beat = waiting_since = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            if now - last_tick > self._heartbeat_timeout / 2:
                # This process itself did not run (a suspended machine): nobody can be blamed for the silence.
                for peer in self._peers.values():
                    peer.last_heard = now
            last_tick = now
            patience = self._patience()
            for peer in list(self._peers.values()):
                if now - peer.last_heard > patience:
                    self._drop(peer, f"no sign of life for {now - peer.last_heard:.1f} s")
                else:
                    self._tell_silence(peer, now - peer.last_heard, patience)
            if now - last_beat >= BEAT_SECONDS:
                last_beat = now
                for peer in self._peers.values():
                    peer.writer.write(b"\n")
            self._act_on_cuts(now)
            waiting = self.roster.generation < 0 or self.roster.breaking
            waiting_since = waiting_since if waiting else now
            self._check_patience(now - waiting_since)
            self._check_ended()

    def _tell_silence(self, peer: _Peer, seconds: float, patience: float) -> None:
        """Name a rank that is stopped, frozen or cut off long before it is given up, and once it is back."""
        if self.roster.generation < 0 or peer.is_told == (seconds > TOLD_SECONDS):
            return
        peer.is_told = not peer.is_told
        if peer.is_told:
            what = f"no sign of life for {seconds:.1f} s: stopped, frozen, cut off or too busy"
            self._tell(f"rank {peer.rank}: {what}; it is given up after {patience:g} s")
        else:
            self._tell(f"rank {peer.rank} gives signs of life again")

    def _tell_unanswered(self, peer: _Peer, addresses: frozenset[str]) -> None:
        """Name the two ranks between which the network is cut: they wait for each other, and all others for them."""
        before, peer.unanswered = peer.unanswered, addresses
        for address in sorted(addresses ^ before):
            others = self._at(address, peer)
            if not others or any(self.roster.stands_aside(each.rank) for each in (peer, *others)):
                # What else a script talks to is its own affair; a rank that is gone has been named. Nothing is sent
                # to one that stands aside, so nothing goes unanswered.
                continue
            who = f"rank{'s' if len(others) > 1 else ''} {', '.join(str(each.rank) for each in others)} ({address})"
            if address in addresses:
                why = "the network between them is cut, or drops most of what is sent (cable, Wi-Fi, firewall)"
                why += "" if self.roster.elastic else "; all ranks may be waiting for it"
                self._tell(f"rank {peer.rank} gets no answer from {who} since {CUT_SECONDS:g} s: {why}")
            else:
                self._tell(f"rank {peer.rank} gets answers from {who} again")

    def _act_on_cuts(self, now: float) -> None:
        """Go on without one of two hosts that give signs of life here and get no answer from each other."""
        for peer in list(self._peers.values()):
            for address in sorted(peer.unanswered):
                own = self._at(_address(peer, peer)[0], peer)
                others = self._at(address, peer)
                if others and all(now - each.last_heard < FRESH_SECONDS for each in (peer, *own, *others)):
                    sides = [each.rank for each in (peer, *own)], [each.rank for each in others]
                    self._send(self.roster.cut(*sides))

    def _at(self, address: str, seen_by: _Peer) -> list[_Peer]:
        """Return the other ranks at an address."""
        return [each for each in self._peers.values() if each is not seen_by and _is_at(each, address, seen_by)]

    def _patience(self) -> float:
        """Return the seconds of silence that mean death: long where a mistake would cost the run, not a moment.

        While ranks load and measure themselves a busy machine can keep Python's threads waiting, and without elastic
        there is no way back. A closed connection is noticed at once in any case.
        """
        if self.roster.elastic and self.roster.generation >= 0:
            return self._heartbeat_timeout
        return max(self._heartbeat_timeout, PATIENT_SECONDS)

    def _check_patience(self, waited: float) -> None:
        first = self.roster.generation < 0
        if waited < (START_TIMEOUT_SECONDS if first else REFORM_TIMEOUT_SECONDS) or self.roster.aborted:
            return
        who = "; ".join(f"rank {rank}: {self.roster.why_missing(rank)}" for rank in self.roster.missing())
        self._send(self.roster.abort(f"waited {waited:.0f} s for {who}"))

    def stop(self) -> None:
        """Stop the run everywhere after the same step, as a person's command does."""
        reason = "the master, where the rendezvous lives, was told to end from outside (SIGTERM)"
        self._send(self.roster.command("master-told-to-end", {"command": "stop", "reason": reason}))

    def leave_when_alone(self) -> None:
        """End also when no rank is connected: the master host's own ranks have ended for good."""
        self._may_leave = True
        self._alone_since = asyncio.get_running_loop().time()
        self._check_ended()

    def _check_ended(self) -> None:
        now = asyncio.get_running_loop().time()
        self._alone_since = now if self._peers else min(self._alone_since, now)
        patience = ALONE_SECONDS if self.roster.generation >= 0 else 0.0
        alone = self._may_leave and not self._peers and now - self._alone_since >= patience
        if self.roster.over or alone or (self.roster.aborted and not self._peers):
            self.ended.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: _Peer | None = None
        reason = "its process ended or closed the connection"
        try:
            while line := await reader.readline():
                if peer is None:
                    peer = self._hello(_decode(line), writer)
                    continue
                peer.last_heard = asyncio.get_running_loop().time()
                if line != b"\n":
                    self._handle(peer, _decode(line))
        except (OSError, asyncio.IncompleteReadError) as error:
            reason = f"its connection broke ({error})"
        except UNFIT as error:
            reason = f"it sent something that is no message ({error!r})"[:300]
        except asyncio.CancelledError:
            # The run is over and this process ends; asyncio would report the task as one that failed.
            reason = "the run is over"
        finally:
            if peer is not None:
                self._drop(peer, reason)
            writer.close()

    def _hello(self, message: Mapping[str, Any], writer: asyncio.StreamWriter) -> _Peer:
        if message["type"] != "hello" or message["run"] != self._run_id:
            raise ValueError(f"a rank of run {message.get('run')!r}")
        rank = int(message["rank"])
        if not 0 <= rank < self.roster.world_size:
            raise ValueError(f"no such rank: {rank}")
        if rank in self._peers:
            self._drop(self._peers[rank], "another process took its place")
        peer = _Peer(rank, writer, asyncio.get_running_loop().time())
        self._peers[rank] = peer
        self._send(self.roster.connected(rank))
        return peer

    def _handle(self, peer: _Peer, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "ready":
                self._send(self.roster.ready(peer.rank, int(message["step"]), _mapping(message["card"])))
                self.roster.elastic |= self._elastic_once_formed and self.roster.generation >= 0
            case "broken":
                self._send(self.roster.broken(peer.rank, int(message["generation"]), str(message["reason"])))
            case "command":
                self._send(self.roster.command(str(message["name"]), _mapping(message["command"])))
            case "left":
                # Its connection closes next, which is no loss.
                del self._peers[peer.rank]
                self._send(self.roster.left(peer.rank, str(message["reason"])))
            case "unanswered":
                self._tell_unanswered(peer, frozenset(plain_address(each) for each in message["addresses"][:16]))
            case "reached":
                self._send(self.roster.reached(peer.rank, [int(rank) for rank in message["ranks"]]))
            case "failed":
                self._drop(peer, str(message["reason"]))
            case "take_part":
                self._elastic_once_formed = bool(message["elastic"])
                self._heartbeat_timeout = _timeout(float(message["heartbeat_timeout"]))
            case "finished":
                self._send(self.roster.finished(peer.rank))
            case other:
                raise ValueError(f"unknown type {other!r}")

    def _drop(self, peer: _Peer, reason: str) -> None:
        if self._peers.get(peer.rank) is not peer:
            return
        del self._peers[peer.rank]
        peer.writer.transport.abort()
        self._send(self.roster.lost(peer.rank, reason))
        self._check_ended()

    def _send(self, outgoing: Outgoing) -> None:
        for rank, message in outgoing:
            peer = self._peers.get(rank)
            if peer is None:
                continue
            if message["type"] == "probe":
                others = [self._peers[other] for other in message["ranks"] if other in self._peers]
                message = message | {"addresses": {str(other.rank): _address(other, peer) for other in others}}
            peer.writer.write(json.dumps(message).encode() + b"\n")


def _address(peer: _Peer, seen_by: _Peer) -> tuple[str, int]:
    """Return another rank's end of its connection. Ranks on the master may have come from its loopback address."""
    host, port, *_ = peer.writer.get_extra_info("peername")
    if ipaddress.ip_address(plain_address(host)).is_loopback:
        host = seen_by.writer.get_extra_info("sockname")[0]
    return plain_address(host), int(port)


def _is_at(peer: _Peer, address: str, seen_by: _Peer) -> bool:
    return _address(peer, seen_by)[0] == address


def _decode(line: bytes) -> Mapping[str, Any]:
    return _mapping(json.loads(line))


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _timeout(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ValueError(f"{seconds} s cannot be waited for")
    return seconds

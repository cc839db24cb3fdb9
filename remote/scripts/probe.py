"""Listens and dials where the ranks of one host will run, and prints what happened as one line of JSON.

Sent over standard input to the host or as a file into the job's image, with ``probe_line.py`` in the place of its
import. Standard library only, Python 3.6 or newer.
The only argument is a JSON object; ``remote/checks/network_probe.py`` writes it and documents its fields. Only peers
that know the run's token are answered.
"""

# ruff: noqa: UP006, UP035, UP041, UP045  the syntax and the exceptions of Python 3.6

import errno
import json
import os
import platform
import random
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from remote.scripts.probe_line import Closed, Line, Stopped, Stranger, Turns, hold

PINGS = 3
ROUND_TRIPS = 20
MOST_SECONDS = 2.0
RETRY_SECONDS = 0.15
ASK, YES, NO = b"?", b"y", b"n"
MAX_WINDOW = 60.0
SIOCGIFADDR = {"Linux": 0x8915, "Darwin": 0xC0206921}
DISTURBING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
DISTURBING_PREFIXES = ("MASTER_", "NCCL_", "GLOO_", "TORCH_DISTRIBUTED_", "TORCH_NCCL_")


class Listener:
    """Answers this run's diallers on every port it could bind."""

    def __init__(self, config: Dict[str, Any], turns: Turns) -> None:
        self.config = config
        self.turns = turns
        self.sockets: List[socket.socket] = []
        self.lock = threading.Lock()
        self.served: Set[Tuple[str, str]] = set()
        self.serving = 0
        self.changed = threading.Event()

    def bind(self, port: int) -> Dict[str, Any]:
        """Return what became of an attempt to listen on ``port``; the same options as torch's TCPStore."""
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
            listening.listen(128)
        except OSError as error:
            listening.close()
            return {"port": port, "error": str(error), "in_use": error.errno == errno.EADDRINUSE}
        self.sockets.append(listening)
        start(self.accept, listening)
        return {"port": port, "error": "", "in_use": False}

    def accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = listening.accept()
            except OSError:
                return  # closed: the probe is ending
            start(self.serve, connection, address)

    def serve(self, connection: socket.socket, address: Tuple[Any, ...]) -> None:
        # The dialler is to give up first, or it would take the end of its time for a broken connection.
        line = Line(connection, 2 * self.config["stall"], 2 * self.config["transfer"])
        try:
            header = line.receive_header()
            if header.get("token") != self.config["token"]:
                return
            with self.lock:
                self.serving += 1
            try:
                self.answer(line, address, str(header.get("kind")))
            finally:
                with self.lock:
                    self.serving -= 1
        except (Stopped, Closed, Stranger):
            return  # the dialler tells what went wrong
        finally:
            connection.close()
            self.changed.set()
        with self.lock:
            self.served.add((str(header.get("from")), str(header.get("kind"))))
        self.changed.set()

    def answer(self, line: Line, address: Tuple[Any, ...], kind: str) -> None:
        line.send_header({"token": self.config["token"], "name": self.config["name"], "seen": address[0]})
        for _ in range(PINGS):
            line.send(line.receive(1))
        if kind not in self.config["loaded"]:
            return
        turn = None
        while turn is None:
            patience = max(self.turns.end - time.monotonic(), 0) + 2 * self.config["transfer"]
            line.allow(patience, patience)
            asked, enough = struct.unpack("!cd", line.receive(9))
            if asked != ASK:
                raise Stranger("asked for something else")
            enough = enough if 0 <= enough <= MOST_SECONDS else MOST_SECONDS
            turn = self.turns.take(hold(enough), wait=False)
            line.send(NO if turn is None else YES)
        try:
            line.allow(2 * self.config["stall"], 2 * self.config["transfer"])
            line.pull()
            line.push(self.config["payload"], enough)
        finally:
            self.turns.give_back(turn)

    def wait(self, until: float, grace: float) -> None:
        """Wait until everybody expected was served, or nobody is being served any more after ``until``."""
        expected = {(name, kind) for name, kind in self.config["expect"]}
        while True:
            self.changed.clear()
            with self.lock:
                if expected <= self.served:
                    return
                left = until - time.monotonic() + (grace if self.serving else 0.0)
            if left <= 0:
                return
            self.changed.wait(left)

    def close(self) -> None:
        for listening in self.sockets:
            listening.close()


class Dialler:
    """Dials one peer until it answers or the time is over."""

    def __init__(self, config: Dict[str, Any], peer: Dict[str, Any], until: float, turns: Turns) -> None:
        self.config = config
        self.turns = turns
        self.peer = peer
        self.until = until
        self.attempts: Dict[str, Dict[str, Any]] = {}
        self.done = threading.Event()

    def run(self) -> None:
        try:
            while not self.attempt_all() and time.monotonic() < self.until:
                time.sleep(RETRY_SECONDS)
        finally:
            self.done.set()

    def attempt_all(self) -> bool:
        for port in self.peer["ports"]:
            started, at = time.monotonic(), time.time()
            outcome = self.attempt(port)
            outcome["at"] = at
            outcome["seconds"] = time.monotonic() - started
            # Systems limit how often they reject by ICMP, so a rejecting host looks silent in between; a dropping host
            # never answers.
            before = self.attempts.get(str(port), {})
            if outcome.get("error") == "timeout" and before.get("error") in ("refused", "unreachable"):
                before["at"] = at
            else:
                self.attempts[str(port)] = outcome
            if "error" not in outcome:
                return True
        return False

    def attempt(self, port: int) -> Dict[str, Any]:
        try:
            connection = socket.create_connection((self.peer["address"], port), timeout=self.config["connect"])
        except socket.gaierror as error:
            return {"error": "name", "detail": str(error)}
        except socket.timeout:
            if is_silent_neighbour(self.peer["address"]):
                return {"error": "unreachable", "detail": "nobody on this network answers to that address"}
            return {"error": "timeout", "detail": "no answer within {:g} s".format(self.config["connect"])}
        except ConnectionRefusedError as error:
            return {"error": "refused", "detail": str(error)}
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                return {"error": "timeout", "detail": str(error)}
            return {"error": "unreachable", "detail": str(error)}
        try:
            return self.exchange(Line(connection, self.config["stall"], self.config["transfer"]))
        finally:
            connection.close()

    def exchange(self, line: Line) -> Dict[str, Any]:
        try:
            line.send_header({"token": self.config["token"], "from": self.config["name"], "kind": self.peer["kind"]})
            answer = line.receive_header()
        except (Stopped, Closed, Stranger) as error:
            return {"error": "stranger", "detail": f"connected, but no probe answered: {error}"}
        if answer.get("token") != self.config["token"] or answer.get("name") != self.peer["name"]:
            return {"error": "stranger", "detail": "the probe of {} answered".format(answer.get("name"))}
        outcome = {"seen": answer.get("seen")}  # type: Dict[str, Any]
        try:
            outcome["round_trip"] = min(self.ping(line) for _ in range(PINGS))
            if self.peer["kind"] in self.config["loaded"]:
                self.load(line, outcome)
        except Stopped as error:
            outcome.update({"error": "stalled", "detail": str(error)})
        except Closed as error:
            outcome.update({"error": "closed", "detail": str(error)})
        return outcome

    def load(self, line: Line, outcome: Dict[str, Any]) -> None:
        """Send data there and have as much sent back, when both hosts have time for it."""
        # A rate is known only when a connection has had the round trips it takes to come up to speed.
        enough = max(self.config["enough"], min(ROUND_TRIPS * outcome["round_trip"], MOST_SECONDS))
        turn = self.own_and_other_turn(line, enough)
        try:
            line.allow(self.config["stall"], self.config["transfer"])
            outcome["sent"], there, is_complete = self.rate(lambda: line.push(self.config["payload"], enough))
            if is_complete:
                outcome["received"], back, _ = self.rate(line.pull)
                outcome["moved"] = min(there, back)
        finally:
            self.turns.give_back(turn)

    def own_and_other_turn(self, line: Line, enough: float) -> object:
        pause = RETRY_SECONDS / 8
        while True:
            turn = self.turns.take(hold(enough), wait=True)
            try:
                line.allow(self.config["stall"], self.config["transfer"])
                line.send(struct.pack("!cd", ASK, enough))
                if line.receive(1) == YES:
                    mine, turn = turn, None
                    return mine
            finally:
                if turn is not None:
                    self.turns.give_back(turn)
            time.sleep(pause * (0.5 + random.random()))  # noqa: S311  only so that two do not ask in step
            pause = min(pause * 1.5, 2 * RETRY_SECONDS)

    def ping(self, line: Line) -> float:
        began = time.perf_counter()
        line.send(b"p")
        line.receive(1)
        return time.perf_counter() - began

    def rate(self, move: Callable[[], int]) -> Tuple[float, int, bool]:
        """Return bytes a second, how many arrived, and whether the other end is ready for more.

        A slow or lossy path moves a part of it; one that swallows full-size packets moves nothing, ever.
        """
        began = time.perf_counter()
        try:
            count, is_complete = move(), True
        except Stopped as stopped:
            if not stopped.count:
                raise
            count, is_complete = stopped.count, False
        return count / max(time.perf_counter() - began, 1e-9), count, is_complete


class Timed:
    """Runs a call that may block for long and keeps its result and its duration."""

    def __init__(self, call: Callable[[], List[Any]]) -> None:
        self.call = call
        self.result: Optional[List[Any]] = None
        self.seconds: Optional[float] = None
        self.done = threading.Event()
        start(self.run)

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.result = self.call()
        except OSError:
            self.result = []  # "does not resolve" is an answer too, and quick or slow like any other
        self.seconds = time.monotonic() - began
        self.done.set()


def start(function: Callable[..., None], *args: Any) -> None:
    """Run a function in a thread that does not keep the process alive."""
    thread = threading.Thread(target=function, args=args)
    thread.daemon = True
    thread.start()


def interface_addresses(name: str) -> Optional[List[str]]:
    """Return the IPv4 addresses of an interface, or None when there is no such interface."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return None
    request = SIOCGIFADDR.get(platform.system())
    if request is None:
        return []
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            packed = fcntl.ioctl(any_socket.fileno(), request, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return []
    return [socket.inet_ntoa(packed[20:24])]


def is_silent_neighbour(address: str) -> bool:
    """Return whether Linux has asked this network for an address and got no answer (/proc/net/arp, flags 0).

    The kernel itself says so after three seconds only, which is longer than an attempt lasts.
    """
    try:
        with open("/proc/net/arp") as table:  # noqa: PTH123  as elsewhere here, only what Python 3.6 has had for long
            rows = [line.split() for line in table]
    except OSError:
        return False
    return any(row[0] == address and row[2] == "0x0" for row in rows[1:] if len(row) > 2)


def own_addresses() -> List[Any]:
    """Return what the own host name resolves to."""
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
    return sorted({each[4][0] for each in found})


def disturbing_environment() -> Dict[str, str]:
    """Return variables that would change what the ranks do."""
    found = {}
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") and name.lower() != "no_proxy":
            found[name] = "set"  # never the value: it may hold a password
        elif name in DISTURBING or name.startswith(DISTURBING_PREFIXES):
            found[name] = value[:200]
    return found


def shared_memory() -> int:
    """Return the bytes of /dev/shm."""
    try:
        stat = os.statvfs("/dev/shm")  # noqa: S108  the place torch's data loader uses
    except OSError:
        return 0
    return stat.f_blocks * stat.f_frsize


def open_files() -> int:
    """Return the soft limit on open files."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> None:
    """Listen, dial, and print one line."""
    config = json.loads(sys.argv[1])
    started = time.time()
    window = config["dial"]
    if config.get("until"):
        window = min(max(config["until"] - started, config["least"]), MAX_WINDOW)
    until = time.monotonic() + window
    turns = Turns(until + config["load"])
    listener = Listener(config, turns)
    binds = []
    for port in config["ports"]:
        binds.append(listener.bind(port))
        if not binds[-1]["error"]:
            break
    master_bind = listener.bind(config["master_port"]) if config["master_port"] else None
    membership_bind = listener.bind(config["membership_port"]) if config["membership_port"] else None

    reverse = Timed(lambda: list(socket.gethostbyaddr(config["reverse"]))) if config["reverse"] else None
    names = Timed(own_addresses)
    diallers = [Dialler(config, peer, until, turns) for peer in config["peers"]]
    for dialler in diallers:
        start(dialler.run)
    grace = config["connect"] + config["load"] + config["transfer"]
    for dialler in diallers:
        dialler.done.wait(max(until + grace - time.monotonic(), 0))
    listener.wait(until + config["linger"], config["load"] + config["transfer"])
    for timed in (reverse, names):
        if timed is not None:
            timed.done.wait(config["patience"])
    listener.close()

    result = {
        "hetero_probe": 1,
        "name": config["name"],
        "token": config["token"],
        "python": platform.python_version(),
        "started": started,
        "ended": time.time(),
        "binds": binds,
        "master_bind": master_bind,
        "membership_bind": membership_bind,
        "interface_addresses": interface_addresses(config["interface"]) if config["interface"] else None,
        "hostname": socket.gethostname(),
        "hostname_addresses": names.result,
        "reverse_seconds": reverse.seconds if reverse is not None else None,
        "shared_memory": shared_memory(),
        "open_files": open_files(),
        "environment": disturbing_environment(),
        "links": [
            {"to": dialler.peer["name"], "kind": dialler.peer["kind"], "attempts": dict(dialler.attempts)}
            for dialler in diallers
        ],
    }
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a look-up that hangs in the resolver must not keep the process


if __name__ == "__main__":
    main()

"""Runs on a host: starts, watches and ends one host's part of a run as plain processes.

It is sent there by ``remote.process_runtime`` and needs nothing but Python 3.8 on Linux or macOS. A POSIX shell alone
will not do: macOS has no setsid(1), and dash has no job control without a terminal.

The folder of a run on a host::

    plan.json   command line, environment and names; ``plan.pending`` until the run has claimed the host
    pid         the agent's and this supervisor's process id, each with its start, which tells a reused id apart
    exit        exit code, written once when the agent has ended
    log         output of the agent
    control/    messages to the ranks
    output/     checkpoints
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
FOLLOW_MILLISECONDS = 100
LIVENESS_SECONDS = 1.0
KILL_SECONDS = 10.0
CHUNK = 1 << 16
LAUNCH_SECONDS = 600.0
"""A run that was created longer ago and never started was given up: its launcher is gone."""
CHECKPOINT = re.compile(r"step-([0-9]{8,18})\.pt")


class Refused(Exception):
    """The request cannot be carried out; the message is for a person."""


def main(arguments: list[str]) -> int:
    """Run one command, such as ``start`` or ``stop``, on the folder of a run."""
    command, *rest = arguments
    try:
        if command == "claim":
            claim(Path(rest[0]))
        elif command == "receive":
            receive(Path(rest[0]), rest[1], int(rest[2]), sys.stdin.buffer.read())
        elif command == "received":
            received(Path(rest[0]), rest[1], rest[2])
        elif command == "send":
            send(Path(rest[0]), everything=rest[1] == "1")
        elif command == "end":
            end(Path(rest[0]), float(rest[1]))
        elif command == "start":
            start(Path(rest[0]))
        elif command == "state":
            print(json.dumps(state(Path(rest[0]))))
        elif command == "states":
            print(json.dumps(states(Path(rest[0]), host=rest[1], cluster=rest[2])))
        elif command == "logs":
            logs(Path(rest[0]), int(rest[1]), follow=rest[2] == "1")
        elif command == "control":
            control(Path(rest[0]), rest[1], sys.stdin.buffer.read())
        elif command == "stop":
            stop(Path(rest[0]), float(rest[1]))
        else:
            raise Refused(f"unknown command {command!r}")
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def claim(folder: Path) -> None:
    """Make the run known, unless another run of its cluster lives on this host: of two at once, one is refused."""
    pending = folder / "plan.pending"
    plan = _read_json(pending)
    if plan is None:
        raise Refused(f"there is no run in {folder}")
    root = folder.parent.parent
    lock = os.open(str(root), os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems lock no folders. Only two launches in the same millisecond could then meet.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        now = _clocks()
        for other in states(root, plan["host"], plan["cluster"]):
            if other["state"] == "running" or (
                other["state"] == "created" and _is_being_launched(other["clocks"], now)
            ):
                raise Refused(f"busy {json.dumps(other)}")
        # In place, because the file is private to this account: the environment may hold secrets.
        pending.write_text(json.dumps({**plan, "clocks": now}))
        pending.rename(folder / "plan.json")
    finally:
        os.close(lock)


def _clocks() -> dict[str, Any]:
    """Return the moment by the clock on the wall, which people and time servers set, and by the time since the boot."""
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    return {"wall": time.time(), "boot": _boot(), "since_boot": since_boot}


def _is_being_launched(created: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a run that was created and not started may still be on its way, wherever the clock was set meanwhile.

    No launch survives a restart of the machine: its connection does not.
    """
    if created.get("boot") and now["boot"]:
        age = now["since_boot"] - created["since_boot"]
        return bool(created["boot"] == now["boot"] and age < LAUNCH_SECONDS)
    # Only the clock on the wall is left: what lies far ahead of it is as old as what lies far behind.
    return bool(abs(now["wall"] - created.get("wall", 0.0)) < LAUNCH_SECONDS)


def receive(folder: Path, name: str, offset: int, data: bytes) -> None:
    """Write a piece of a file that is being put into the output folder."""
    part = _output_path(folder, name, ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)


def received(folder: Path, name: str, digest: str) -> None:
    """Let a file that is complete appear, when its content is what was sent."""
    part = _output_path(folder, name, ".part")
    found = hashlib.sha256()
    with part.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            found.update(chunk)
    if found.hexdigest() != digest:
        raise Refused(f"{name} did not arrive as it was sent")
    part.rename(_output_path(folder, name))


def _output_path(folder: Path, name: str, suffix: str = "") -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise Refused(f"not a plain file name: {name!r}")
    return folder / "output" / "checkpoints" / (name + suffix)


def send(folder: Path, *, everything: bool) -> None:
    """Write the output folder to standard output as a tar archive; without ``everything``, no older checkpoints."""
    output = folder / "output"
    checkpoints = output / "checkpoints"
    names = {path.name for path in checkpoints.glob("step-*")}
    complete = [name for name in names if CHECKPOINT.fullmatch(name) and f"{name}.sha256" in names]
    newest = max(complete, key=lambda name: int(name[5:-3]), default="")
    left_out = set() if everything else {checkpoints / name for name in names - {newest, f"{newest}.sha256"}}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in sorted(output.rglob("*")):
            if path not in left_out:
                archive.add(str(path), arcname=str(path.relative_to(output)), recursive=False)


def start(folder: Path) -> None:
    """Start the agent under a supervisor in a session of its own, and return once it runs."""
    plan = _plan(folder)
    if (folder / "pid").exists():
        raise Refused("this run was started before")
    answer, tell = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(answer)
            os.setsid()
            _supervise(folder, plan, tell)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(answer, "rb") as said:
        text = said.read().decode(errors="replace")
    if text != "started":
        raise Refused(text or "the supervisor ended before it could start the command")


def _supervise(folder: Path, plan: dict[str, Any], tell: int) -> None:
    """Run the agent to its end and write down how it ended."""
    log = os.open(str(folder / "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    # Whoever started us waits until nobody holds its pipes any more.
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kills_before = _out_of_memory_kills()
    program, *rest = plan["argv"]
    argv = [str(Path(program).expanduser()) if program.startswith("~") else program, *rest]
    try:
        there = plan.get("working_dir") or None
        agent = subprocess.Popen(argv, env={**os.environ, **plan["env"]}, cwd=there, start_new_session=True)
    except OSError as error:
        code = 126 if isinstance(error, PermissionError) else 127
        reason = f"{error.filename or argv[0]}: {error.strerror}"
        _write_json(folder / "exit", {"code": code, "out_of_memory": False, "detail": reason})
        os.write(tell, reason.encode())
        return
    signal.signal(signal.SIGTERM, lambda *_: agent.terminate())
    record = {"agent": [agent.pid, _birth(agent.pid)], "supervisor": [os.getpid(), _birth(os.getpid())]}
    _write_json(folder / "pid", {**record, "started_at": time.time()})
    os.write(tell, b"started")
    os.close(tell)
    code = agent.wait()
    _kill_rest(agent.pid, plan)
    code = 128 - code if code < 0 else code
    starved = code == 128 + signal.SIGKILL and _out_of_memory_kills() > kills_before
    _write_json(folder / "exit", {"code": code, "out_of_memory": starved, "detail": ""})


def state(folder: Path) -> dict[str, Any]:
    """Return where the run in this folder stands."""
    try:
        plan = _plan(folder)
    except Refused:
        return {"state": "missing"}
    found: dict[str, Any] = {"run_id": plan["run_id"], "ranks": plan["ranks"], "state": "created"}
    found.update(clocks=plan.get("clocks", {}), by=plan.get("by", ""))
    pid = _read_json(folder / "pid")
    if pid is not None:
        found["started_at"] = pid["started_at"]
    lives = pid is not None and (_lives(pid["agent"]) or _lives(pid["supervisor"]))
    # Read only now: the supervisor writes it before it goes.
    ended = _read_json(folder / "exit")
    if ended is not None:
        return {**found, "state": "exited", **ended}
    if lives:
        return {**found, "state": "running"}
    if pid is not None:
        return {**found, "state": "exited", "detail": "it ended without a trace: killed, or the machine was restarted"}
    return found


def states(root: Path, host: str, cluster: str) -> list[dict[str, Any]]:
    """Return the state of every run of a cluster on this host."""
    found = []
    for folder in sorted(root.glob("*")):
        plan = _read_json(folder / host / "plan.json")
        if plan is not None and plan["cluster"] == cluster:
            found.append(state(folder / host))
    return found


def logs(folder: Path, offset: int, *, follow: bool) -> None:
    """Write the log from a byte offset to standard output, and follow it until the run has ended or nobody reads."""
    listener = select.poll()
    listener.register(1, 0)
    log = None
    alive_at = time.monotonic()
    while True:
        ended = not follow or not folder.exists() or (folder / "exit").exists()
        if not ended and time.monotonic() - alive_at > LIVENESS_SECONDS:
            alive_at = time.monotonic()
            ended = state(folder)["state"] in ("exited", "missing")
        if log is None and (folder / "log").exists():
            log = (folder / "log").open("rb")
            log.seek(offset)
        if log is not None:
            while True:
                chunk = log.read(CHUNK)
                if not chunk:
                    break
                _write_all(1, chunk)
        # Asked before the last read, so nothing can have been written after it.
        if ended or listener.poll(FOLLOW_MILLISECONDS):
            return


def control(folder: Path, name: str, data: bytes) -> None:
    """Drop a message into the control folder; it appears all at once."""
    if (folder / "exit").exists() or not (folder / "plan.json").exists():
        raise Refused("the run has ended")
    part = folder / "control" / f".{name}.part"
    part.write_bytes(data)
    part.rename(folder / "control" / name)


def end(folder: Path, grace: float) -> None:
    """Tell the ranks to stop, ask the agent to end, and kill what is left after the grace. The folder stays."""
    plan = _read_json(folder / "plan.json")
    pid = _read_json(folder / "pid")
    if plan is not None and pid is not None:
        number = int(pid["agent"][0])
        # The run may have ended, or the disk be full: by the signal alone each host leaves the run for itself.
        with contextlib.suppress(Refused, OSError):
            control(folder, f"{time.time_ns():020d}-stop.json", b'{"command": "stop"}')
        # The agent alone gets SIGTERM and passes it on, as with the init of a container.
        _end(pid, signal.SIGTERM, grace)
        if _lives(pid["agent"]):
            os.killpg(number, signal.SIGKILL)
        _wait_until_gone(pid, KILL_SECONDS)
        _kill_rest(0, plan)
        if _lives(pid["agent"]):
            raise Refused(f"process {number} does not end even by SIGKILL: it hangs in the kernel or a driver")


def stop(folder: Path, grace: float) -> None:
    """End the run and remove its folder."""
    end(folder, grace)
    if folder.exists():
        shutil.rmtree(str(folder))
    try:
        folder.parent.rmdir()
    except OSError:
        return  # another host of this inventory runs on this machine, or there was nothing


def _end(pid: dict[str, Any], number: int, seconds: float) -> None:
    if _lives(pid["agent"]):
        os.kill(int(pid["agent"][0]), number)
        _wait_until_gone(pid, seconds)


def _wait_until_gone(pid: dict[str, Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (_lives(pid["agent"]) or _lives(pid["supervisor"])) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _kill_rest(group: int, plan: dict[str, Any]) -> None:
    """Kill what the agent left behind: its group, and on Linux whatever carries the run's environment."""
    if group:
        # Nothing may be left in it; macOS says EPERM when only zombies are.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    marks = {f"{name}={plan['env'][name]}".encode() for name in ("HETERO_RUN_ID", "HETERO_HOST")}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if int(entry.parent.name) != os.getpid() and marks <= set(entry.read_bytes().split(b"\0")):
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # ended meanwhile, or another user's


def _lives(record: list[Any]) -> bool:
    number, birth = record
    return bool(birth) and _birth(int(number)) == birth


def _birth(number: int) -> str:
    """Return what tells this process from a later one with the same id; empty when it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(number)]
        said = subprocess.run(
            command, stdout=subprocess.PIPE, check=False, env={"LC_ALL": "C", "PATH": "/bin:/usr/bin"}
        )
        status, _, started = said.stdout.decode(errors="replace").strip().partition(" ")
        return "" if status.startswith("Z") else started.strip()
    # Fields of proc(5) from the third on: 0 is the state, 19 the start in clock ticks since boot.
    return "" if fields[0] in "ZX" else f"{fields[19]}@{_boot()}"


def _boot() -> str:
    """Return what tells this boot of the machine from any other; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):  # macOS
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        return said.stdout.decode(errors="replace").strip()
    return ""


def _out_of_memory_kills() -> int:
    """Return how many processes the kernel has killed for want of memory; 0 where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0


def _plan(folder: Path) -> dict[str, Any]:
    plan = _read_json(folder / "plan.json")
    if plan is None:
        raise Refused(f"there is no run in {folder}")
    return plan


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def _write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value))
    part.rename(path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

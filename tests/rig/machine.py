"""One machine made of Linux namespaces: its own network, mounts, host name, IPC and processes."""

from __future__ import annotations

import os
import select
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.rig.places import REPOSITORY, RigError

DOCKER = "/usr/bin/docker"
"""Debian's client, which drives the BuildKit of Debian's engine; a newer one in the PATH may lack its plugin."""
LOGIN_USER = "trainer"
RIG_VARIABLE = "HETERO_RIG_ID"
"""Every process the rig starts carries this variable, so that leftovers can be told from everything else."""
_UMASK = 0o022
# The sbin folders are not in every user's PATH; the rig runs as root.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def call(
    *argv: str, check: bool = True, timeout: float = 60.0, input: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on the machine the tests run on.

    Raises:
        RigError: it failed, with what it said.
    """
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=timeout,
        input=input,
        check=False,
        env=env or {"PATH": _PATH},
        umask=_UMASK,
    )
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise RigError(f"`{' '.join(argv)}` exited {done.returncode} and said: {said}")
    return done


@contextmanager
def _usual_umask() -> Iterator[None]:
    """Make files as a machine has them, whatever the caller's umask: who is not root there must read its passwd."""
    previous = os.umask(_UMASK)
    try:
        yield
    finally:
        os.umask(previous)


def wait_for(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout: float = 60.0,
    interval: float = 0.02,
    detail: Callable[[], str] = str,
) -> None:
    """Wait until a condition holds, asking every ``interval`` seconds.

    Raises:
        RigError: it did not come true within ``timeout`` seconds; the message ends with ``detail``.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RigError(f"{what}: not within {timeout:g} s. {detail()}")
        time.sleep(interval)


def hold_namespaces(rig_id: str, *argv: str) -> subprocess.Popen[bytes]:
    """Start ``unshare …`` so that it, and with it the namespaces, end when this process ends for any reason.

    Raises:
        RigError: called outside the main thread, with which the kernel would end the namespaces.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RigError("a rig is started from the main thread: its processes end with the thread that started them")
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": _PATH, RIG_VARIABLE: rig_id},
        start_new_session=True,
        umask=_UMASK,
    )


def wait_ready(process: subprocess.Popen[bytes], what: str, *, timeout: float = 60.0) -> None:
    """Read the process's output up to its line ``ready``.

    Raises:
        RigError: it ended or fell silent first.
    """
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + timeout
    while b"ready\n" not in said:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
        if not chunk:
            raise RigError(f"{what} did not come up; it said: {said.decode(errors='replace') or 'nothing'}")
        said += chunk


def _ping(path: Path) -> bool:
    """Send ``GET /_ping`` to a Docker socket."""
    try:
        folder = os.open(path.parent, os.O_PATH)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2.0)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # a unix address holds 107 bytes
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False
    finally:
        os.close(folder)


class Machine:
    """A host without network and services yet. Everything it writes is below ``folder``."""

    def __init__(
        self, rig_id: str, name: str, folder: Path, *, data_root: Path | None = None, layers: Path | None = None
    ) -> None:
        self.rig_id = rig_id
        self.name = name
        self.folder = folder
        self.data_root = data_root or folder / "docker"
        """Docker's data root, seen as /var/lib/docker inside."""
        self._layers = layers  # another data root, seen read-only as /var/lib/docker/shared
        self._holder: subprocess.Popen[bytes] | None = None
        self._init: psutil.Process | None = None

    @property
    def cgroup(self) -> str:
        """Parent cgroup of the machine's containers."""
        return f"{self.rig_id}-{self.name}"

    @property
    def socket(self) -> Path:
        """The engine's socket as seen from outside."""
        return self.folder / "run/docker.sock"

    @property
    def running(self) -> bool:
        return self._init is not None

    @property
    def holder(self) -> int:
        """Process id, outside, of a process in the machine's network namespace."""
        if self._holder is None:
            raise RigError(f"{self.name} is off")
        return self._holder.pid

    def prepare(self) -> None:
        """Lay out the machine's own files, once."""
        with _usual_umask():
            self._lay_out()

    def _lay_out(self) -> None:
        for part in ("srv", "tmp", "run"):
            (self.folder / part).mkdir(parents=True)
        self.data_root.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)
        etc = self.folder / "etc"  # laid over the machine's own
        (etc / "ssh").mkdir(parents=True)
        (self.folder / "etc-work").mkdir()
        # An overlay's way to say that a name is not there: key.json in it would make every engine the same one.
        os.mknod(etc / "docker", stat.S_IFCHR, os.makedev(0, 0))
        (etc / "machine-id").write_text(os.urandom(16).hex() + "\n")
        # Refuses at once, as a resolver that is up does: a dead one makes every rendezvous wait 20 s.
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        # The line Debian's installer writes, which leads Gloo astray unless it is told its interface.
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "hostname").write_text(self.name + "\n")
        self._write_users(etc)

    def _write_users(self, etc: Path) -> None:
        """Give root and one unprivileged member of group docker a home and a key login, in this machine only."""
        taken = {int(line.split(":")[2]) for line in Path("/etc/passwd").read_text().splitlines()}
        uid = next(number for number in range(20000, 30000) if number not in taken)
        accounts = {
            "passwd": [
                "root:x:0:0:root:/srv/root:/bin/bash",
                f"{LOGIN_USER}:x:{uid}:{uid}::/srv/{LOGIN_USER}:/bin/bash",
            ],
            "group": [f"docker:x:{uid + 1}:{LOGIN_USER}", f"{LOGIN_USER}:x:{uid}:"],
            # A star is no password; an exclamation mark would lock the account and sshd would refuse its key too.
            "shadow": ["root:*:19000:0:99999:7:::", f"{LOGIN_USER}:*:19000:0:99999:7:::"],
        }
        for file, own in accounts.items():
            names = {line.split(":")[0] for line in own}
            others = [line for line in Path("/etc", file).read_text().splitlines() if line.split(":")[0] not in names]
            (etc / file).touch(mode=0o600 if file == "shadow" else 0o644)
            (etc / file).write_text("\n".join([*others, *own]) + "\n")
        for user, owner in (("root", 0), (LOGIN_USER, uid)):
            home = self.folder / "srv" / user
            home.mkdir(mode=0o700)
            os.chown(home, owner, owner)

    def power_on(self) -> None:
        """Make the namespaces; ``wait_on`` tells when they are ready."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)  # a stale docker.pid keeps dockerd from starting
        with _usual_umask():
            (self.folder / "run/sshd").mkdir(parents=True)
            (self.folder / "run/lock").mkdir()
        init = Path(__file__).with_name("init.sh")
        self._holder = hold_namespaces(
            self.rig_id,
            *("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--"),
            *(
                "bash",
                str(init),
                self.name,
                str(self.folder),
                str(self.data_root),
                str(self._layers or ""),
                str(REPOSITORY),
            ),
        )

    def wait_on(self) -> None:
        """Return when the machine has its own file system.

        Raises:
            RigError: it did not come up.
        """
        assert self._holder is not None
        wait_ready(self._holder, self.name)
        (self._init,) = psutil.Process(self._holder.pid).children()

    def power_off(self) -> None:
        """Cut the power: every process of the machine is gone when this returns."""
        if self._holder is None:
            return
        # unshare waits for its child, and a dead PID 1 is only reported once its whole namespace is empty.
        children = psutil.Process(self._holder.pid).children() if self._holder.poll() is None else []
        for process in children or []:
            process.kill()
        if not children:
            self._holder.kill()
        self._holder.wait(timeout=120)
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        self._holder = None
        self._init = None

    def enter(self, *argv: str) -> tuple[str, ...]:
        """Return the command line that runs ``argv`` inside the machine as root.

        Raises:
            RigError: the machine is off.
        """
        if self._init is None:
            raise RigError(f"{self.name} is off")
        # All but the cgroup namespace, which the machine shares, and the user namespace.
        return ("nsenter", f"--target={self._init.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--", *argv)

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60.0, input: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root.

        Raises:
            RigError: it failed, with what it said.
        """
        env = {"PATH": _PATH, "HOME": "/srv/root", RIG_VARIABLE: self.rig_id, "DOCKER_BUILDKIT": "1"}
        return call(*self.enter(*argv), check=check, timeout=timeout, input=input, env=env)

    def start_daemon(self, argv: Sequence[str], log: str) -> None:
        """Start a daemon inside, adopted by the machine's PID 1, that writes to ``/run/LOG``."""
        # "$@" keeps the arguments out of the shell's hands.
        self.run("setsid", "--fork", "sh", "-c", f'exec "$@" >>/run/{log} 2>&1 </dev/null', "sh", *argv)

    def log(self, name: str) -> str:
        """Return the end of a daemon's log, for messages."""
        path = self.folder / "run" / name
        return path.read_text(errors="replace")[-2000:] if path.exists() else f"no {name}"

    def start_engine(self, *options: str) -> None:
        """Start dockerd; ``wait_engine`` tells when it answers."""
        pid_file = self.folder / "run/docker.pid"
        pid_file.unlink(missing_ok=True)
        self.start_daemon(self.engine_command(*options), "dockerd.log")

    def engine_command(self, *options: str) -> tuple[str, ...]:
        """Return the command line of the machine's dockerd."""
        return (
            *("dockerd", "--host=unix:///run/docker.sock", "--group=docker", "--data-root=/var/lib/docker"),
            *("--exec-root=/run/docker", "--pidfile=/run/docker.pid", "--storage-driver=overlay2"),
            *("--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.cgroup}", *options),
        )

    def wait_engine(self) -> None:
        """Return when the engine answers.

        Raises:
            RigError: it does not, with the end of its log.
        """
        wait_for(self.engine_answers, f"dockerd of {self.name}", detail=lambda: self.log("dockerd.log"))

    def engine_answers(self) -> bool:
        """Ask the engine's socket for a ping."""
        return _ping(self.socket)

    def stop_engine(self) -> None:
        """End dockerd the orderly way and wait for it."""
        self._signal_engine("TERM")

    def kill_engine(self) -> None:
        """Kill dockerd and its containerd: containers go on, nobody answers."""
        self._signal_engine("KILL")

    def _signal_engine(self, signal: str) -> None:
        pids = self.run("pgrep", "-x", "dockerd|containerd", check=False).stdout.split()
        if not pids:
            return
        # containerd ends with the dockerd that started it, but not when that one is killed.
        chosen = pids if signal == "KILL" else self.run("pgrep", "-x", "dockerd").stdout.split()
        self.run("kill", f"-{signal}", *chosen, check=False)
        wait_for(
            lambda: self.run("pgrep", "-x", "dockerd|containerd", check=False).returncode != 0,
            f"end of dockerd of {self.name}",
        )

    def docker(self, *argv: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run the docker client inside and return its output.

        Raises:
            RigError: it failed, with what it said.
        """
        return self.run(DOCKER, *argv, check=check, timeout=timeout).stdout.strip()

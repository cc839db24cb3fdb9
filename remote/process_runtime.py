"""One host's part of a run as plain processes: hosts without Docker, Apple GPUs, the demo.

The same small program, ``scripts/host_process.py``, is sent along with every run and does on the host what the engine
does for a container: it keeps the ranks alive without us, writes down how they ended, and follows their log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from remote.answers import understood
from remote.checkpoints import DIGEST_SUFFIX
from remote.claim import WAYS_OUT, occupied_by
from remote.decode_errors import decode
from remote.errors import CommandFailed, HostBusy, PositionLost
from remote.plan_contract import LABEL_BY, LABEL_CLUSTER, OUTPUT_FOLDER
from remote.plan_model import HostPlan
from remote.progress import LaunchProgress
from remote.results import Archive, fetch_output
from remote.runner import Completed, Runner
from remote.runtime import (
    DETAIL_LENGTH,
    ControlFiles,
    FetchReport,
    HostRunState,
    LogLine,
    State,
    StoredCheckpoint,
    checked_run_id,
    checked_time,
    closing,
)
from remote.text import printable
from trainer.errors import UNFIT

MAX_LINE: Final = 1 << 20
"""Bytes of one line; a longer one is handed on in pieces."""
REQUEST_TIMEOUT: Final = 30.0
PIECE: Final = 8 << 20
"""Bytes of a checkpoint that are sent at once."""
PIECE_TIMEOUT: Final = 600.0
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OFFSET: Final = re.compile(r"[0-9]{1,18}")


@dataclass(slots=True)
class ProcessRuntime:
    """Runs the ranks of one host as processes under ``${XDG_CACHE_HOME:-~/.cache}/hetero-tui/runs/RUN/HOST/``."""

    host: str
    runner: Runner
    python: str = "python3"
    """Python on the host with the trainer installed; may begin with ``~/``."""
    _root: str = ""
    _control_files: ControlFiles = field(default_factory=ControlFiles)

    async def create(self, plan: HostPlan, run_id: str) -> None:
        folder = await self._folder(run_id)
        env = dict(plan.env) | {
            "HETERO_RUN_ID": run_id,
            "HETERO_HOST": self.host,
            "HETERO_CONTROL": f"{folder}/control",
        }
        if _goes_with_the_run(env.get("HETERO_OUTPUT", ""), plan.run_folder):
            env["HETERO_OUTPUT"] = f"{folder}/output"
        record = {
            "run_id": run_id,
            "host": self.host,
            "cluster": dict(plan.labels).get(LABEL_CLUSTER, ""),
            "by": dict(plan.labels).get(LABEL_BY, ""),
            "ranks": [each.rank for each in plan.ranks],
            "argv": list(plan.argv),
            "env": env,
            "working_dir": plan.working_dir,
        }
        quoted = shlex.quote(folder)
        made = await self.runner.run(
            f"umask 077 && mkdir -p {shlex.quote(folder.rpartition('/')[0])} && mkdir {quoted}"
            f" && mkdir {quoted}/control {quoted}/output",
            timeout=REQUEST_TIMEOUT,
        )
        self._check(made, f"making {folder}", f"run {run_id} may have been created before: end it first")
        # Variables may hold secrets: a file only this user can read, never a command line.
        await self.runner.put(_script(), f"{folder}/host_process.py")
        await self.runner.put(json.dumps(record).encode(), f"{folder}/plan.pending")
        claimed = await self._call(run_id, "claim")
        if claimed.exit_status != 0 and (said := claimed.stderr.strip().splitlines()[-1:]):
            _raise_if_busy(self.host, said[0])
        self._check(claimed, f"claiming the host for run {run_id}")

    async def start(self, run_id: str) -> None:
        self._check(await self._call(run_id, "start"), f"starting run {run_id}")

    async def control(self, run_id: str, message: Mapping[str, object]) -> None:
        name, data = self._control_files.next(message)
        done = await self._call(run_id, "control", name, input=data)
        self._check(done, f"sending {message.get('command')} to run {run_id}")

    async def inspect(self, run_id: str) -> HostRunState:
        folder = await self._folder(run_id)
        done = await self._run_script(f"state {shlex.quote(folder)}")
        self._check(done, f"asking for run {run_id}")
        with understood(self.host, f"state of run {run_id}"):
            return _state_of(self.host, run_id, json.loads(done.stdout))

    async def logs(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncGenerator[list[LogLine], None]:
        if after and not _OFFSET.fullmatch(after):
            raise PositionLost(after, host=self.host)
        offset = int(after or "0")
        folder = shlex.quote(await self._folder(run_id))
        command = f"exec {self._python()} -I {folder}/host_process.py logs {folder} {offset} {int(follow)}"
        pending = b""
        async with closing(self.runner.stream(command)) as chunks:
            async for chunk in chunks:
                *complete, pending = (pending + chunk).split(b"\n")
                lines = []
                for line in complete:
                    offset += len(line) + 1
                    lines.append(LogLine(line.decode(errors="replace"), str(offset)))
                if len(pending) > MAX_LINE:
                    offset += len(pending)
                    lines.append(LogLine(pending.decode(errors="replace"), str(offset)))
                    pending = b""
                if lines:
                    yield lines
        if pending:
            yield [LogLine(pending.decode(errors="replace"), str(offset + len(pending)))]

    async def place(self, run_id: str, checkpoint: StoredCheckpoint, report: Callable[[LaunchProgress], None]) -> None:
        name = checkpoint.path.name
        with checkpoint.path.open("rb") as file:
            offset = 0
            while piece := await asyncio.to_thread(file.read, PIECE):
                report(LaunchProgress(self.host, "created", f"sending {name}, {offset >> 20} MB sent"))
                done = await self._call(run_id, "receive", name, str(offset), input=piece, timeout=PIECE_TIMEOUT)
                self._check(done, f"sending {name}")
                offset += len(piece)
        note = f"{checkpoint.sha256}  {name}\n".encode()
        done = await self._call(run_id, "receive", name + DIGEST_SUFFIX, "0", input=note)
        self._check(done, f"sending the digest of {name}")
        digests = {name: checkpoint.sha256, name + DIGEST_SUFFIX: hashlib.sha256(note).hexdigest()}
        for each, digest in digests.items():
            done = await self._call(run_id, "received", each, digest, timeout=PIECE_TIMEOUT)
            self._check(done, f"checking {each}")

    async def end(self, run_id: str, *, grace: float = 10.0) -> None:
        folder = await self._folder(run_id)
        done = await self._run_script(f"end {shlex.quote(folder)} {grace:g}", timeout=grace + REQUEST_TIMEOUT)
        self._check(done, f"ending run {run_id}")

    async def fetch(
        self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
    ) -> FetchReport:
        there = shlex.quote(await self._folder(run_id))
        command = f"exec {self._python()} -I {there}/host_process.py send {there}"

        async def archives(whole: bool) -> AsyncGenerator[Archive, None]:
            async with closing(self.runner.stream(f"{command} {int(whole)}")) as chunks:
                yield Archive(chunks)

        return await fetch_output(archives, self.host, folder, report, everything=everything)

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        folder = await self._folder(run_id)
        done = await self._run_script(f"stop {shlex.quote(folder)} {grace:g}", timeout=grace + REQUEST_TIMEOUT)
        self._check(done, f"stopping run {run_id}")

    async def runs(self, cluster: str) -> tuple[HostRunState, ...]:
        root = await self._runs_root()
        done = await self._run_script(f"states {shlex.quote(root)} {shlex.quote(self.host)} {shlex.quote(cluster)}")
        self._check(done, "listing the runs")
        with understood(self.host, "states of the runs"):
            states = [_state_of(self.host, str(each["run_id"]), each) for each in json.loads(done.stdout)]
        return tuple(sorted(states, key=lambda state: state.started_at))

    async def _call(
        self, run_id: str, command: str, *arguments: str, input: bytes = b"", timeout: float = REQUEST_TIMEOUT
    ) -> Completed:
        """Run the program that was sent along with the run; its standard input is free for data."""
        folder = shlex.quote(await self._folder(run_id))
        line = f"{self._python()} -I {folder}/host_process.py {command} {folder} {shlex.join(arguments)}"
        return await self.runner.run(line, input=input, timeout=timeout)

    async def _run_script(self, arguments: str, timeout: float = REQUEST_TIMEOUT) -> Completed:
        """Run the program from standard input: works where no run has left one."""
        return await self.runner.run(f"{self._python()} -I - {arguments}", input=_script(), timeout=timeout)

    async def _folder(self, run_id: str) -> str:
        for name in (run_id, self.host):
            if not _SAFE_NAME.fullmatch(name):
                raise ValueError(f"not a name of a run or host: {name!r}")
        return f"{await self._runs_root()}/{run_id}/{self.host}"

    async def _runs_root(self) -> str:
        if not self._root:
            done = await self.runner.run('printf %s "${XDG_CACHE_HOME:-$HOME/.cache}"', timeout=REQUEST_TIMEOUT)
            cache = done.check().stdout.rstrip("/")
            if not cache.startswith("/"):
                raise CommandFailed(f"the cache folder {cache!r} is no absolute path", host=self.host)
            self._root = f"{cache}/hetero-tui/runs"
        return self._root

    def _python(self) -> str:
        if self.python.startswith("~/"):
            return f'"$HOME"/{shlex.quote(self.python[2:])}'
        return shlex.quote(self.python)

    def _check(self, done: Completed, what: str, next_step: str = "") -> None:
        """Raise when a command failed, with what it said.

        Raises:
            CommandFailed: always when the exit status is not 0.
        """
        if done.exit_status == 0:
            return
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.exit_status}").splitlines()[-1][:400]
        if done.exit_status in {126, 127}:
            next_step = "set python of this host in cluster.toml to a Python that has the trainer"
        elif (decoded := decode(said)) is not None:
            next_step = decoded.next_step
            said = f"{decoded.cause} ({said})"
        raise CommandFailed(f"{what} failed: {said}", host=self.host, next_step=next_step)


def _goes_with_the_run(output: str, run_folder: str) -> bool:
    """Tell checkpoints that end with the run from those the user wants in a lasting folder."""
    return output in {"", OUTPUT_FOLDER} or bool(run_folder and output.startswith(f"{run_folder}/"))


def _script() -> bytes:
    return (resources.files("remote") / "scripts" / "host_process.py").read_bytes()


def _state_of(host: str, run_id: str, found: Mapping[str, Any]) -> HostRunState:
    code = found.get("code")
    return HostRunState(
        host=host,
        run_id=checked_run_id(run_id),
        state=State(found["state"]),
        exit_code=None if code is None else int(code),
        out_of_memory=bool(found.get("out_of_memory")),
        detail=printable(str(found.get("detail", "")), DETAIL_LENGTH),
        ranks=tuple(int(rank) for rank in found.get("ranks", ())),
        started_at=checked_time(float(found.get("started_at", 0.0))),
        started_by=printable(str(found.get("by", ""))),
    )


def _raise_if_busy(host: str, said: str) -> None:
    word, _, rest = said.partition(" ")
    if word != "busy":
        return
    try:
        found = json.loads(rest)
        other = _state_of(host, str(found["run_id"]), found)
    except UNFIT:
        return  # not what the program writes: told as it came
    raise HostBusy(occupied_by(other), host=host, next_step=WAYS_OUT)

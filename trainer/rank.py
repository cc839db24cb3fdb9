"""The process of one rank: says hello, waits for the go, trains. Started by the agent."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import launch
from trainer.control import Command, ControlFolder
from trainer.environment import RankEnvironment, read_rank
from trainer.errors import StartError, TrainerError
from trainer.events import Done, Emitter, Failed, Hello, Notice
from trainer.observe import run_script, torchrun_environment
from trainer.options import Options, parse
from trainer.telemetry import Telemetry, gpu_uuid

if TYPE_CHECKING:
    from trainer.link import Link
    from trainer.training import Training


def main(arguments: Sequence[str]) -> int:
    """Run one rank to its end and return its exit code."""
    place = read_rank()
    options = parse(arguments)
    emitter = Emitter(place.rank, _event_writer(), first_seq=place.first_seq)
    _die_with_agent()
    run = RankRun(place, options, emitter)
    try:
        return run.run()
    except TrainerError as error:
        return run.fail(error, error.exit_code, "")
    except Exception as error:  # noqa: BLE001 - whatever ends a rank must reach the person as an event
        return run.fail(error, 1, traceback.format_exc())


class RankRun:
    """One rank from hello to done."""

    def __init__(self, place: RankEnvironment, options: Options, emitter: Emitter) -> None:
        self._place = place
        self._options = options
        self._emitter = emitter
        self._control = ControlFolder(place.host.control, self._on_bad_message)
        self._told_to_end = threading.Event()
        self._training: Training | None = None
        self._link: Link | None = None

    def run(self) -> int:
        """Train, and return the exit code.

        Raises:
            TrainerError: anything that ends this rank before the end of the run.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: self._told_to_end.set())
        device = self._hello()
        if self._options.script:
            return self._run_script(device)
        from trainer.training import Training, workload_subject
        from trainer.workloads import build

        workload = build(self._options, lambda text: self._emitter.emit(Notice, text=text))
        commands = self._commands_with_the_go()
        if commands is None:
            self._emitter.emit(Done, state="stopped")
            return 0
        self._training = Training(
            self._place,
            self._options,
            self._emitter,
            self._control,
            lambda: "leave" if self._told_to_end.is_set() else "",
            workload_subject(workload, self._options, self._place, device),
            device,
        )
        with Telemetry(self._emitter, uuid=gpu_uuid(device)):
            self._training.run(commands)
        return 0

    def _run_script(self, device: str) -> int:
        """Run the user's script. A rank that is lost ends the others too: their collectives would wait for ever."""
        from trainer.training import connect

        host, script = self._place.host, self._options.script
        commands = self._commands_with_the_go()
        if commands is None:
            self._emitter.emit(Done, state="stopped")
            return 0
        os.environ.update(torchrun_environment(os.environ, host.run_id))
        link = self._link = connect(self._place, self._emitter)
        link.on_break = self._on_script_break
        launched = launch.current = launch.Launched(
            self._place, self._options, self._emitter, self._control, commands, device, link
        )
        with Telemetry(self._emitter, uuid=gpu_uuid(device)):
            exit_code = run_script(Path(script[0]), script[1:], self._emitter, host.world_size)
        if launched.is_over:
            return exit_code
        link.on_break = lambda _generation, _reason: None
        if exit_code == 0 and not launched.is_prepared:
            link.finished()
            return 0
        link.failed(f"its script ended with exit code {exit_code}{' before its training' if exit_code == 0 else ''}")
        if exit_code == 0:
            self._emitter.emit(Done, state="stopped", steps=launched.steps())
        return exit_code

    def _commands_with_the_go(self) -> list[Command] | None:
        """Wait for the go and return what else came with it; None when the run was stopped before it began."""
        commands = self._control.wait_for_go(self._told_to_end.is_set)
        if self._place.is_restart:
            # What was commanded before this process began has been applied by the others; they tell the result.
            return [command for command in commands if command.name == "simulate"]
        if self._told_to_end.is_set() or any(command.name == "stop" for command in commands):
            return None
        return commands

    def _on_script_break(self, _generation: int, reason: str) -> None:
        self._emitter.emit(Failed, error=f"RunAborted: {reason}", exit_code=1)
        os._exit(1)

    def fail(self, error: BaseException, exit_code: int, trace: str) -> int:
        """Tell the person and the other ranks why this rank ends."""
        step = self._training.step if self._training else None
        text = f"{type(error).__name__}: {error}"
        self._emitter.emit(Failed, error=text, traceback=trace, exit_code=exit_code, step=step)
        if self._training is not None:
            self._training.failed(text)
        if self._link is not None:
            self._link.failed(text)
        return exit_code

    def _hello(self) -> str:
        import torch

        device = _open_device(self._place)
        host = self._place.host
        simulated = math.isfinite(host.simulated_samples_per_second)
        self._emitter.emit(
            Hello,
            host=host.host,
            local_rank=self._place.local_rank,
            world_size=host.world_size,
            device=device,
            device_name=_device_name(device),
            torch_version=torch.__version__,
            backend=host.backend,
            process_id=os.getpid(),
            interface=host.interface,
            simulated=simulated,
        )
        if simulated:
            speed = host.simulated_samples_per_second
            self._emitter.emit(Notice, text=f"simulated: held down to {speed:g} samples/s by sleeping")
        return device

    def _on_bad_message(self, text: str) -> None:
        self._emitter.emit(Notice, level="warning", text=text)


def _event_writer() -> Callable[[str], None]:
    """Return a function that writes one event line to the agent's pipe, or to standard output without an agent."""
    descriptor = int(os.environ.get("HETERO_EVENTS_FD", "1"))

    def write(line: str) -> None:
        content = line.encode()
        while content:
            content = content[os.write(descriptor, content) :]

    return write


def _die_with_agent() -> None:
    """End this process when the agent is gone: its end of a pipe closes, however it died."""
    descriptor = os.environ.get("HETERO_AGENT_FD")
    if descriptor is None:
        return

    def watch(number: int) -> None:
        os.read(number, 1)
        os._exit(1)

    threading.Thread(target=watch, args=(int(descriptor),), name="agent-watch", daemon=True).start()


def _open_device(place: RankEnvironment) -> str:
    """Make the rank's device current and return its name.

    Raises:
        StartError: torch cannot use the device.
    """
    import torch

    device = place.device
    if device == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        device = f"cuda:{place.local_rank}" if torch.cuda.is_available() else mps
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise StartError(
            f"rank {place.rank} on {place.host.host} cannot use device {device}: {first_line}",
            next_step="see whether the container was given the GPU and whether this torch was built for it",
        ) from error
    return device


def _device_name(device: str) -> str:
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Threads of torch must not hold up, or crash, the end of a rank that is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""What the machine of a rank is doing: a background thread that emits a `Hardware` event every two seconds.

No step ever waits for a sensor. Whatever a machine does not have is ``None``; that GPU sensors were expected and
cannot be read is said once, as a notice, and training goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from trainer.events import Emitter, Hardware, Notice

INTERVAL: Final = 2.0
"""Seconds between two events."""

THROTTLE_REASONS: Final = {
    0x002: "application clocks",
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "GPU hot (driver slows down)",
    0x040: "GPU too hot (hardware slows down)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability voltage",
}
"""Bits of NVML's clocks event reasons (``nvmlClocksEventReasons*`` and ``nvmlClocksThrottleReason*`` in nvml.h)."""

_NOT_THROTTLED: Final = 0x001
"""The GPU idle bit: clocks are low because there is nothing to do."""


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Return in words why a GPU's clocks are held down, from NVML's bit mask. An idle GPU is not held down."""
    known = tuple(word for bit, word in THROTTLE_REASONS.items() if bits & bit)
    rest = bits & ~_NOT_THROTTLED & ~sum(THROTTLE_REASONS)
    return (*known, f"unknown reason {rest:#x}") if rest else known


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at a GPU; ``None`` where it has no such sensor."""

    gpu_percent: float | None = None
    gpu_memory_used: int | None = None
    """Bytes used by all processes on the GPU."""
    gpu_memory_total: int | None = None
    gpu_temperature: float | None = None
    """Degrees Celsius."""
    gpu_power: float | None = None
    """Watts."""
    throttle_reasons: tuple[str, ...] = ()


class GpuUnavailable(Exception):
    """The sensors of this GPU cannot be read; the message says why."""


class GpuSensors:
    """The sensors of one NVIDIA GPU, through NVML."""

    def __init__(self, uuid: str, nvml: Any = None) -> None:
        """Open the GPU with this UUID. An index would not do: NVML ignores ``CUDA_VISIBLE_DEVICES``.

        Args:
            uuid: With or without the leading ``GPU-``.
            nvml: The ``pynvml`` module, or something that behaves like it.

        Raises:
            GpuUnavailable: no driver, no permission, or no such GPU.
        """
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        except nvml.NVMLError as error:
            raise GpuUnavailable(f"NVML: {error}") from error

    def read(self) -> GpuReading:
        """Look at every sensor.

        Raises:
            GpuUnavailable: the GPU has gone away (fallen off the bus, driver unloaded).
        """
        nvml, handle = self._nvml, self._handle
        used = self._read(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        memory = self._read(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        temperature = self._read(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        milliwatts = self._read(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        reasons = self._read(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return GpuReading(
            gpu_percent=None if used is None else float(used),
            gpu_memory_used=None if memory is None else int(memory.used),
            gpu_memory_total=None if memory is None else int(memory.total),
            gpu_temperature=None if temperature is None else float(temperature),
            gpu_power=None if milliwatts is None else milliwatts / 1000,
            throttle_reasons=() if reasons is None else throttle_reasons(int(reasons)),
        )

    def _read(self, sensor: Callable[[], Any]) -> Any:
        """Return a sensor's value, or None where this GPU has no such sensor or does not let us read it."""
        nvml = self._nvml
        try:
            return sensor()
        except nvml.NVMLError as error:
            if error.value in _absent(nvml):
                return None
            raise GpuUnavailable(f"NVML: {error}") from error


def _absent(nvml: Any) -> tuple[int, ...]:
    """Return the errors that mean "no such sensor here": others mean that the GPU is in trouble."""
    return (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)


class CpuQuota:
    """Notices when the CPU quota of this process's control group held it back since the last look."""

    def __init__(self, statistics: Path | None) -> None:
        """``statistics`` is the group's ``cpu.stat``; None where there are no control groups."""
        self._statistics = statistics
        self._throttled = self._read()

    def reasons(self) -> tuple[str, ...]:
        """Return ``("CPU quota",)`` when the group was throttled since the last call."""
        before, self._throttled = self._throttled, self._read()
        return ("CPU quota",) if self._throttled > before else ()

    def _read(self) -> int:
        if self._statistics is None:
            return 0
        try:
            lines = self._statistics.read_text(encoding="ascii").splitlines()
        except OSError:
            # The group of a process can be removed or hidden while it runs; then there is nothing to notice.
            self._statistics = None
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("nr_throttled ")), 0)


def control_group_file(
    name: str,
    *,
    controller: str = "cpu",
    membership: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
) -> Path | None:
    """Return a file of this process's control group (version 1 or 2), or None where there is none.

    In a container the path in ``/proc/self/cgroup`` can be that of the host, which is not mounted; the group's
    files are then found at the mount's root.
    """
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root
        for folder in (mount / path.lstrip("/"), mount):
            if (folder / name).is_file():
                return folder / name
    return None


def gpu_uuid(device: str) -> str:
    """Return the UUID of a CUDA device such as ``cuda:0`` as torch numbers them; empty for other devices.

    Call it in a process that has opened the device: it imports torch.
    """
    if not device.startswith("cuda"):
        return ""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


NO_GPU: Final = "GPU use, memory, temperature and power of this rank are not shown"


class Telemetry:
    """Emits `Hardware` events from a background thread until it is stopped.

    Usage in a rank, after its device is open::

        with Telemetry(emitter, uuid=gpu_uuid(device)):
            train()
    """

    def __init__(self, emitter: Emitter, *, uuid: str = "", interval: float = INTERVAL, nvml: Any = None) -> None:
        """``uuid`` names the rank's NVIDIA GPU, empty for a rank on another device."""
        self._emitter = emitter
        self._interval = interval
        self._stopping = threading.Event()
        self._told: set[str] = set()
        self._process = psutil.Process()
        self._quota = CpuQuota(control_group_file("cpu.stat"))
        self._memory_total = _memory_total()
        self._gpu = self._open(uuid, nvml) if uuid else None
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; the first event comes after one interval, because CPU use is measured between two looks."""
        psutil.cpu_percent()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended, at most one reading later."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self.emit()
            except (psutil.Error, OSError) as error:
                # The next look may succeed (a sensor that was busy, a file that came back), so the thread goes on.
                self._tell_once("hardware readings fail", error)

    def emit(self) -> None:
        """Look at all sensors and emit one event."""
        gpu = self._read_gpu()
        values = asdict(gpu)
        values["throttle_reasons"] = (*gpu.throttle_reasons, *self._quota.reasons(), *_battery())
        self._emitter.emit(
            Hardware,
            source="psutil+nvml" if self._gpu is not None else "psutil",
            cpu_percent=psutil.cpu_percent(),
            memory_used=self._process.memory_info().rss,
            memory_total=self._memory_total,
            **values,
        )

    def _open(self, uuid: str, nvml: Any) -> GpuSensors | None:
        try:
            return GpuSensors(uuid, nvml)
        except GpuUnavailable as error:
            self._tell_once(NO_GPU, error)
            return None

    def _read_gpu(self) -> GpuReading:
        if self._gpu is None:
            return GpuReading()
        try:
            return self._gpu.read()
        except GpuUnavailable as error:
            self._gpu = None
            self._tell_once(NO_GPU, error)
            return GpuReading()

    def _tell_once(self, what: str, error: Exception) -> None:
        if what not in self._told:
            self._told.add(what)
            self._emitter.emit(Notice, level="warning", text=f"{what}: {error}")


def _memory_total() -> int:
    """Return the memory this process may use: the machine's, or less in a container with a limit."""
    total = psutil.virtual_memory().total
    for name, controller in (("memory.max", "memory"), ("memory.limit_in_bytes", "memory")):
        file = control_group_file(name, controller=controller)
        if file is None:
            continue
        text = file.read_text(encoding="ascii").strip()
        if text.isdigit():
            return min(total, int(text))
    return total


def _battery() -> tuple[str, ...]:
    """Return ``("on battery",)`` on a laptop without its charger: most of them halve their clocks then."""
    battery = psutil.sensors_battery()
    return ("on battery",) if battery is not None and battery.power_plugged is False else ()

"""Hardware readings: real psutil here; a stand-in for NVML only where its values are decoded."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from trainer.events import Emitter, Event, Hardware, Notice, decode
from trainer.telemetry import (
    THROTTLE_REASONS,
    CpuQuota,
    GpuSensors,
    GpuUnavailable,
    Telemetry,
    control_group_file,
    gpu_uuid,
    throttle_reasons,
)

WAIT = 20.0


class Lines:
    """Collects emitted lines and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Condition()

    def write(self, line: str) -> None:
        event = decode(line)
        assert event is not None
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def wait_for(self, kind: type[Event], count: int) -> list[Event]:
        def found() -> list[Event]:
            return [event for event in self.events if isinstance(event, kind)]

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, timeout=WAIT)
            return found()


class FakeNvml:
    """One GPU with settable sensors; errors are those of the real module."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
    NVML_ERROR_FUNCTION_NOT_FOUND = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, uuid: str = "GPU-1234", **broken: int) -> None:
        self.uuid = uuid
        self.broken = broken
        self.reasons = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        self._check("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 - NVML's name
        if uuid != self.uuid:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, _: str) -> Any:  # noqa: N802 - NVML's name
        self._check("use")
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetMemoryInfo(self, _: str) -> Any:  # noqa: N802 - NVML's name
        self._check("memory")
        return SimpleNamespace(used=3 << 30, total=8 << 30, free=5 << 30)

    def nvmlDeviceGetTemperature(self, _: str, sensor: int) -> int:  # noqa: N802 - NVML's name
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        self._check("temperature")
        return 84

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:  # noqa: N802 - NVML's name
        self._check("power")
        return 215_500

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:  # noqa: N802 - NVML's name
        self._check("reasons")
        return self.reasons

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise pynvml.NVMLError(self.broken[name])


def test_throttle_reasons_are_those_of_the_header() -> None:
    names = [name for name in vars(pynvml) if name.startswith("nvmlClocksThrottleReason")]
    bits = {getattr(pynvml, name) for name in names} - {0, pynvml.nvmlClocksThrottleReasonAll}
    assert bits == set(THROTTLE_REASONS) | {pynvml.nvmlClocksThrottleReasonGpuIdle}


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (pynvml.nvmlClocksThrottleReasonGpuIdle, ()),
        (pynvml.nvmlClocksThrottleReasonSwPowerCap, ("power limit",)),
        (
            pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            ("hardware slowdown", "GPU too hot (hardware slows down)"),
        ),
        (0x10000 | pynvml.nvmlClocksThrottleReasonGpuIdle, ("unknown reason 0x10000",)),
    ],
)
def test_throttle_bits_become_words(bits: int, words: tuple[str, ...]) -> None:
    assert throttle_reasons(bits) == words


def test_gpu_readings_carry_their_units() -> None:
    nvml = FakeNvml()
    nvml.reasons = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    reading = GpuSensors("1234", nvml).read()
    assert reading.gpu_percent == 87.0
    assert reading.gpu_memory_used == 3 << 30
    assert reading.gpu_memory_total == 8 << 30
    assert reading.gpu_temperature == 84.0
    assert reading.gpu_power == 215.5
    assert reading.throttle_reasons == ("GPU hot (driver slows down)",)


def test_a_sensor_that_is_missing_or_forbidden_is_none() -> None:
    nvml = FakeNvml(power=pynvml.NVML_ERROR_NOT_SUPPORTED, use=pynvml.NVML_ERROR_NO_PERMISSION)
    reading = GpuSensors("GPU-1234", nvml).read()
    assert reading.gpu_power is None
    assert reading.gpu_percent is None
    assert reading.gpu_temperature == 84.0


@pytest.mark.parametrize(
    ("nvml", "told"),
    [
        (FakeNvml(nvmlInit=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), "Library Not Found"),
        (FakeNvml(nvmlInit=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "Driver Not Loaded"),
        (FakeNvml(nvmlInit=pynvml.NVML_ERROR_NO_PERMISSION), "Insufficient Permissions"),
        (FakeNvml(uuid="GPU-other"), "Not Found"),
    ],
)
def test_without_a_usable_gpu_it_says_why(nvml: FakeNvml, told: str) -> None:
    with pytest.raises(GpuUnavailable, match=told):
        GpuSensors("1234", nvml)


def test_cpu_rank_reports_the_real_machine_in_the_background() -> None:
    lines = Lines()
    with Telemetry(Emitter(3, lines.write), interval=0.01):
        events = lines.wait_for(Hardware, 3)
    for event in events:
        assert isinstance(event, Hardware)
        assert event.rank == 3
        assert event.source == "psutil"
        assert event.cpu_percent is not None
        assert 0 <= event.cpu_percent <= 100
        assert event.memory_used is not None
        assert event.memory_total is not None
        assert 1 << 20 < event.memory_used < event.memory_total <= psutil.virtual_memory().total
        assert event.gpu_percent is None
    assert "telemetry" not in [thread.name for thread in threading.enumerate()]
    assert [event.seq for event in lines.events] == list(range(len(lines.events)))
    assert not any(isinstance(event, Notice) for event in lines.events)


def test_busy_processor_shows() -> None:
    lines = Lines()
    telemetry = Telemetry(Emitter(0, lines.write), interval=0.05)
    stop = threading.Event()
    with telemetry:
        burner = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
        burner.start()
        events = lines.wait_for(Hardware, 4)
        stop.set()
        burner.join()
    share_of_one_cpu = 100 / (os.cpu_count() or 1)
    assert max(event.cpu_percent or 0 for event in events if isinstance(event, Hardware)) > share_of_one_cpu / 3


def test_missing_nvml_is_said_once_and_readings_go_on() -> None:
    lines = Lines()
    nvml = FakeNvml(nvmlInit=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    with Telemetry(Emitter(0, lines.write), uuid="1234", interval=0.01, nvml=nvml):
        lines.wait_for(Hardware, 3)
    notices = [event for event in lines.events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "Library Not Found" in notices[0].text
    assert notices[0].level == "warning"


def test_a_gpu_that_falls_off_the_bus_is_said_once_and_readings_go_on() -> None:
    lines = Lines()
    nvml = FakeNvml()
    with Telemetry(Emitter(0, lines.write), uuid="1234", interval=0.01, nvml=nvml):
        first = lines.wait_for(Hardware, 1)[0]
        nvml.broken["temperature"] = pynvml.NVML_ERROR_GPU_IS_LOST
        lines.wait_for(Notice, 1)
        lines.wait_for(Hardware, len(lines.events) + 2)
    assert isinstance(first, Hardware)
    assert first.source == "psutil+nvml"
    assert first.gpu_power == 215.5
    assert sum(isinstance(event, Notice) for event in lines.events) == 1
    last = lines.events[-1]
    assert isinstance(last, Hardware)
    assert last.source == "psutil"
    assert last.gpu_power is None


def test_failing_main_sensors_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: psutil.Process) -> None:
        raise psutil.AccessDenied

    lines = Lines()
    with Telemetry(Emitter(0, lines.write), interval=0.01):
        lines.wait_for(Hardware, 1)
        with monkeypatch.context() as patched:
            patched.setattr(psutil.Process, "memory_info", fail)
            lines.wait_for(Notice, 1)
        lines.wait_for(Hardware, len(lines.events) + 2)
    assert sum(isinstance(event, Notice) for event in lines.events) == 1


def test_stopping_does_not_wait_for_the_interval() -> None:
    telemetry = Telemetry(Emitter(0, Lines().write), interval=3600)
    telemetry.start()
    telemetry.stop()
    assert "telemetry" not in [thread.name for thread in threading.enumerate()]
    Telemetry(Emitter(0, Lines().write)).stop()


def test_cpu_quota_is_noticed_between_two_looks(tmp_path: Path) -> None:
    statistics = tmp_path / "cpu.stat"
    statistics.write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 100\n")
    quota = CpuQuota(statistics)
    assert quota.reasons() == ()
    statistics.write_text("usage_usec 1\nnr_periods 20\nnr_throttled 5\n")
    assert quota.reasons() == ("CPU quota",)
    assert quota.reasons() == ()
    statistics.unlink()
    assert quota.reasons() == ()
    assert CpuQuota(None).reasons() == ()


def test_control_group_files_of_both_versions_are_found(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    root = tmp_path / "fs"
    (root / "cpu" / "job").mkdir(parents=True)
    (root / "cpu" / "job" / "cpu.stat").touch()
    membership.write_text("4:memory:/m\n2:cpu,cpuacct:/job\n0::/\n")
    assert control_group_file("cpu.stat", membership=membership, root=root) == root / "cpu" / "job" / "cpu.stat"
    (root / "unified.slice").mkdir()
    (root / "cpu.stat").touch()
    membership.write_text("0::/not/mounted/in/a/container\n")
    assert control_group_file("cpu.stat", membership=membership, root=root) == root / "cpu.stat"
    assert control_group_file("absent", membership=membership, root=root) is None
    assert control_group_file("cpu.stat", membership=tmp_path / "none", root=root) is None


def test_devices_other_than_cuda_have_no_uuid() -> None:
    assert gpu_uuid("cpu") == ""
    assert gpu_uuid("mps") == ""


def test_sensors_of_a_real_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.ones(1 << 20, device="cuda:0")
    reading = GpuSensors(gpu_uuid("cuda:0")).read()
    assert reading.gpu_memory_used is not None
    assert reading.gpu_memory_total == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.1)
    assert reading.gpu_percent is not None

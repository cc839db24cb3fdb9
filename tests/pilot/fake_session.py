"""A session that plays a script: the screens are real, the cluster is not. The store is fed by real event lines."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hetero_tui.ingest import Ingest
from hetero_tui.session import CheckInfo, ConfirmHostKey, HostStatus, LaunchPhase, LaunchProgress
from hetero_tui.store import Store
from remote.checks.model import CheckProgress, CheckResult, CheckStarted, Finding, Fix, Verdict
from remote.errors import HostKeyUnknown, HostUnreachable, LaunchError, PlanError
from remote.inventory import Cluster, Host, Inventory
from remote.plan import HostPlan, LaunchPlan, RankPlan
from remote.runtime import HostRunState, State
from tests.pilot.fake_preflight import FakePreflight
from trainer.events import (
    Calibrated,
    Done,
    Emitter,
    Failed,
    Hardware,
    Hello,
    Joined,
    Notice,
    Output,
    Shares,
    Step,
    encode,
)

START = 1_760_000_000.0
RUN_ID = "20251009-085320-k3f9"


@dataclass
class FrozenClock:
    """Time that moves only when told to."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return START + self.seconds - 1000.0


@dataclass
class FakeHost:
    name: str
    speed: float
    device: str = "cuda:0"
    device_name: str = "NVIDIA RTX 3090"
    memory: int = 24 << 30


HOSTS = (
    FakeHost("gaming-pc", 256.0),
    FakeHost("workstation", 180.0, device_name="NVIDIA RTX 2080 Ti", memory=11 << 30),
    FakeHost("laptop", 45.0, "cpu", "Intel i7-1185G7", 16 << 30),
    FakeHost("old-server", 40.0, "cpu", "Xeon E5-2620 v2", 64 << 30),
)

CHECKS = (
    CheckInfo("ssh", "SSH login", "blocks", "host", group="Hosts"),
    CheckInfo("system", "Operating system", "warns", "host", ("ssh",), group="Hosts"),
    CheckInfo("disk", "Disk space", "blocks", "host", ("ssh",), group="Resources"),
    CheckInfo("engine", "Docker Engine", "blocks", "host", ("ssh",), group="Docker"),
    CheckInfo("gpu", "GPU and driver", "warns", "host", ("ssh",), group="GPU"),
    CheckInfo("gpu-container", "GPU inside a container", "blocks", "host", ("gpu", "engine"), group="GPU"),
    CheckInfo("image", "Image present", "blocks", "host", ("engine",), group="Image and software"),
    CheckInfo("clock", "Clock agreement", "warns", "host", ("ssh",), group="Hosts"),
    CheckInfo("interface", "Network interface", "blocks", "host", ("ssh",), group="Network"),
    CheckInfo("ports", "Every pair can connect", "blocks", "host", ("interface",), group="Network"),
    CheckInfo("mtu", "Large packets pass", "blocks", "host", ("ports",), group="Network"),
    CheckInfo("versions", "Same torch everywhere", "blocks", "cluster", ("image",), group="Image and software"),
    CheckInfo("port-free", "Rendezvous port is free", "blocks", "cluster", ("ssh",), group="Network"),
)


def finding_for(check_id: str, host: str, *, failing: bool) -> Finding:
    """Return a scripted answer."""
    match check_id, host:
        case "gpu" | "gpu-container", "laptop" | "old-server":
            return Finding(Verdict.SKIP, "no GPU: runs on the CPU")
        case "gpu", _:
            return Finding(Verdict.OK, "1 GPU, driver 550.54", "nvidia-smi -L\nGPU 0: NVIDIA RTX 3090")
        case "clock", "old-server":
            fix = Fix(
                "Start time synchronisation.",
                ("sudo timedatectl set-ntp true",),
                "old-server",
                needs_root=True,
                safe=True,
            )
            return Finding(Verdict.WARN, "2.4 s ahead of the master", "date +%s.%N\n1760000002.4", fix)
        case "mtu", "laptop":
            return Finding(Verdict.UNKNOWN, "ping did not answer in 5 s", "ping -M do -s 1472 10.0.0.1\n(no output)")
        case "engine", "laptop" if failing:
            fix = Fix(
                "Let the user talk to the Docker Engine, then log in again.",
                ("sudo usermod -aG docker anna",),
                "laptop",
                needs_root=True,
                safe=True,
                new_login=True,
            )
            evidence = "docker version\npermission denied while trying to connect to the socket /var/run/docker.sock"
            return Finding(Verdict.FAIL, "permission denied on /var/run/docker.sock", evidence, fix)
        case "versions", _:
            return Finding(Verdict.OK, "torch 2.13.0 on 4 hosts")
        case _:
            return Finding(Verdict.OK, "as it should be", f"checked {check_id} on {host or 'all hosts'}")


@dataclass
class FakeSession:
    """Implements ``SessionProtocol``. ``pace`` is the real time between scripted things, in seconds."""

    fake_hosts: Sequence[FakeHost] = HOSTS
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    simulated: bool = False
    failing: bool = False
    pace: float = 0.0
    unreachable: frozenset[str] = frozenset()
    unknown_key: str = ""
    earlier: tuple[HostRunState, ...] = ()
    launch_fails: str = ""
    plan_fails: str = ""
    global_batch: int = 192
    steps_total: int = 2000
    run_id: str = ""
    store: Store = field(init=False)
    hosts: dict[str, HostStatus] = field(init=False)
    controls: list[tuple[dict[str, object], frozenset[str] | None]] = field(default_factory=list)
    connects: int = 0
    closed: bool = False
    key_accepted: bool | None = None
    checked: list[tuple[frozenset[str] | None, frozenset[str] | None]] = field(default_factory=list)
    preflight: FakePreflight = field(init=False)
    mended: set[tuple[str, str]] = field(default_factory=set)
    """(check, host) whose fix has been run."""

    def __post_init__(self) -> None:
        self.preflight = FakePreflight(self)
        self.store = Store(clock=self.clock, wall_clock=self.wall_clock)
        self.ingest = Ingest(self.store)
        self.hosts = {host.name: HostStatus(host.name, "waiting") for host in self.fake_hosts}
        self.ended = asyncio.Event()
        self.stop_asked = False
        self.step = 0
        self.random = random.Random(7)
        self.speeds = [host.speed for host in self.fake_hosts]
        self.shares = self.even_shares()
        self.emitters = [Emitter(rank, self._writer(rank), self._event_time) for rank in range(len(self.fake_hosts))]
        self.paused = False
        self.excluded: frozenset[int] = frozenset()
        self.event_seconds = START

    @property
    def inventory(self) -> Inventory:
        hosts = tuple(
            Host(name=host.name, simulated_samples_per_second=host.speed if self.simulated else None)
            for host in self.fake_hosts
        )
        return Inventory(cluster=Cluster(name="home-lab"), hosts=hosts)

    @property
    def checks(self) -> tuple[CheckInfo, ...]:
        return CHECKS

    def _event_time(self) -> float:
        return self.event_seconds

    def _writer(self, rank: int) -> Callable[[str], object]:
        host = self.fake_hosts[rank].name
        return lambda line: self.ingest.feed_line(host, line.rstrip("\n"))

    async def _rest(self) -> None:
        await asyncio.sleep(self.pace)

    async def connect(self, confirm: ConfirmHostKey) -> None:
        self.connects += 1
        for host in self.fake_hosts:
            self.hosts[host.name] = HostStatus(host.name, "connecting")
        await self._rest()
        await asyncio.gather(*(self._connect(host.name, confirm) for host in self.fake_hosts))

    async def _connect(self, name: str, confirm: Callable[[HostKeyUnknown], Awaitable[bool]]) -> None:
        if name in self.unreachable:
            error = HostUnreachable("no answer on port 22 within 5 s", host=name, next_step=f"is {name} switched on?")
            self.hosts[name] = HostStatus(name, "failed", str(error))
            return
        if name == self.unknown_key and self.key_accepted is None:
            unknown = HostKeyUnknown(
                host=name,
                fingerprint="SHA256:p5xKz0o4mJ7T0P2rXx2q9mC1m0yZ6QJ3h1q3S0Q2k9E",
                key_type="ssh-ed25519",
                known_hosts_line=f"{name} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0x",
            )
            self.key_accepted = await confirm(unknown)
            if not self.key_accepted:
                self.hosts[name] = HostStatus(name, "failed", "the host key was not accepted")
                return
        self.hosts[name] = HostStatus(name, "connected")

    async def run_checks(
        self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None
    ) -> AsyncIterator[CheckProgress]:
        self.checked.append((only, hosts))
        for check in CHECKS:
            if only is not None and check.id not in only:
                continue
            places = [""] if check.scope == "cluster" else [host.name for host in self.fake_hosts]
            places = [place for place in places if hosts is None or place in hosts or not place]
            for place in places:
                yield CheckStarted(check.id, place)
            await self._rest()
            for place in places:
                finding = finding_for(check.id, place, failing=self.failing)
                if (check.id, place) in self.mended:
                    finding = Finding(Verdict.OK, "mended")
                if place and self.hosts[place].phase != "connected":
                    finding = Finding(Verdict.UNKNOWN, "not connected", self.hosts[place].detail)
                yield CheckResult(check.id, place, finding, 0.12)

    def plan(self) -> LaunchPlan:
        if self.plan_fails:
            raise PlanError(self.plan_fails, next_step="mend cluster.toml")
        hosts = tuple(self._host_plan(rank, host) for rank, host in enumerate(self.fake_hosts))
        return LaunchPlan(
            run_id=RUN_ID,
            cluster="home-lab",
            master=self.fake_hosts[0].name,
            master_address="10.0.0.1",
            master_port=29500,
            backend="gloo",
            world_size=len(hosts),
            hosts=hosts,
            global_batch=self.global_batch,
            policy="dynamic",
            notes=("gloo, because laptop has no CUDA device",),
        )

    def _host_plan(self, rank: int, host: FakeHost) -> HostPlan:
        return HostPlan(
            host=host.name,
            runtime="docker",
            ranks=(RankPlan(rank, 0, host.device),),
            container_name=f"hetero-{RUN_ID}-{host.name}",
            image="ghcr.io/example/trainer:cuda",
            argv=("python3", "-m", "trainer", "--workload", "simple_cnn", "--global-batch", str(self.global_batch)),
            env=(("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500"), ("RANK", str(rank))),
            labels=(("hetero-tui.run", RUN_ID),),
            mounts=(("/data/cifar", "/data", "ro"),),
            simulated=self.simulated,
        )

    async def launch(self, report: Callable[[LaunchProgress], None]) -> None:
        self.run_id = RUN_ID
        for rank, host in enumerate(self.fake_hosts):
            self.store.expect(host.name, {rank: host.device})
        first: tuple[LaunchPhase, ...] = ("creating", "created", "starting", "importing")
        last: tuple[LaunchPhase, ...] = ("go", "training")
        for phase in first:
            for host in self.fake_hosts:
                self.store.note_launch(host.name, phase)
                report(LaunchProgress(host.name, phase))
            await self._rest()
        for rank, host in enumerate(self.fake_hosts):
            if host.name == self.launch_fails:
                report(LaunchProgress(host.name, "failed", "could not select device driver with capabilities: [[gpu]]"))
                raise LaunchError(
                    "could not select device driver with capabilities: [[gpu]]",
                    host=host.name,
                    next_step="install the NVIDIA container toolkit there",
                )
            self.hello(rank)
            report(LaunchProgress(host.name, "ready"))
            await self._rest()
        for phase in last:
            for host in self.fake_hosts:
                self.store.note_launch(host.name, phase)
                report(LaunchProgress(host.name, phase))
            await self._rest()

    def hello(self, rank: int) -> None:
        host = self.fake_hosts[rank]
        self.emitters[rank].emit(
            Hello, host=host.name, world_size=len(self.fake_hosts), device=host.device, device_name=host.device_name,
            torch_version="2.13.0", backend="gloo", process_id=4000 + rank, simulated=self.simulated,
        )  # fmt: skip

    def join(self) -> None:
        for rank in range(len(self.fake_hosts)):
            self.emitters[rank].emit(Calibrated, samples_per_second=self.speeds[rank])
            self.emitters[rank].emit(Joined, seconds=0.4, world_size=len(self.fake_hosts))
        self.tell_shares("equal shares until speeds are known")

    def tell_shares(self, reason: str) -> None:
        self.emitters[0].emit(
            Shares, step=self.step, shares=tuple(self.shares), policy="dynamic", reason=reason,
            predicted_samples_per_second=0.95 * sum(self.speeds), speeds=tuple(self.speeds),
            excluded=tuple(sorted(self.excluded)),
        )  # fmt: skip

    def exclude(self, host: str, *, admit: bool, by: str) -> None:
        """Share out by speed without the excluded hosts."""
        rank = [each.name for each in self.fake_hosts].index(host)
        self.excluded = self.excluded - {rank} if admit else self.excluded | {rank}
        self.balance(f"{host} {'admitted again' if admit else 'excluded'} by {by}")

    def even_shares(self) -> list[int]:
        world = len(self.fake_hosts)
        return [self.global_batch // world + (rank < self.global_batch % world) for rank in range(world)]

    def balance(self, reason: str) -> None:
        """Share out by speed."""
        sharing = [rank for rank in range(len(self.speeds)) if rank not in self.excluded]
        total = sum(self.speeds[rank] for rank in sharing)
        self.shares = [0] * len(self.speeds)
        for rank in sharing:
            self.shares[rank] = math.floor(self.global_batch * self.speeds[rank] / total)
        for rank in sharing[: self.global_batch - sum(self.shares)]:
            self.shares[rank] += 1
        self.tell_shares(reason)

    def steps(self, count: int) -> None:
        """Let every rank tell ``count`` steps."""
        for _ in range(count):
            self.one_step()

    def one_step(self) -> None:
        compute = [
            share / speed * self.random.uniform(0.97, 1.03)
            for share, speed in zip(self.shares, self.speeds, strict=True)
        ]
        communication, rest = 0.02, 0.006
        duration = max(compute) + communication + rest
        self.event_seconds += duration
        loss = 2.3 * math.exp(-self.step / 250) + 0.35 + self.random.uniform(-0.03, 0.03)
        for rank, mine in enumerate(compute):
            self.emitters[rank].emit(
                Step, step=self.step, epoch=self.step // 500, steps_total=self.steps_total, share=self.shares[rank],
                global_batch=self.global_batch, loss=loss, learning_rate=0.05, compute=mine * 0.97, data=mine * 0.03,
                wait=max(compute) - mine, communication=communication, duration=duration,
            )  # fmt: skip
            if self.step % 5 == 0:
                self.hardware(rank)
        if self.step % 10 == 0:
            self.output(0, f"step {self.step} loss {loss:.4f}")
        self.step += 1

    def hardware(self, rank: int) -> None:
        host = self.fake_hosts[rank]
        gpu = host.device.startswith("cuda")
        self.emitters[rank].emit(
            Hardware, source="psutil+nvml" if gpu else "psutil", cpu_percent=35.0 if gpu else 390.0,
            memory_used=int(1.4 * 2**30), memory_total=32 << 30, gpu_percent=93.0 if gpu else None,
            gpu_memory_used=int(host.memory * 0.31) if gpu else None, gpu_memory_total=host.memory if gpu else None,
            gpu_temperature=71.0 if gpu else None, gpu_power=280.0 if gpu else None,
        )  # fmt: skip

    def output(self, rank: int, text: str, stream: str = "stdout") -> None:
        """A line of ordinary output, as the agent relays it."""
        event = Output(
            rank=-1, seq=self._next_output(rank), time=self.event_seconds, text=text, source_rank=rank,
            stream="stderr" if stream == "stderr" else "stdout",
        )  # fmt: skip
        self.ingest.feed_line(self.fake_hosts[rank].name, encode(event))

    def _next_output(self, rank: int) -> int:
        counters = self.__dict__.setdefault("_outputs", {})
        counters[rank] = counters.get(rank, -1) + 1
        return int(counters[rank])

    def fail(self, rank: int, error: str, traceback: str = "") -> None:
        self.emitters[rank].emit(Failed, error=error, traceback=traceback, exit_code=1, step=self.step)

    def finish(self, state: str = "finished") -> None:
        for emitter in self.emitters:
            emitter.emit(Done, steps=self.step, samples=self.step * self.global_batch, seconds=60.0, state=state)
        self.ended.set()

    async def find_runs(self) -> tuple[HostRunState, ...]:
        return self.earlier

    async def attach(self, run_id: str) -> None:
        self.run_id = run_id
        for rank in range(len(self.fake_hosts)):
            self.hello(rank)
        self.join()
        self.steps(40)

    async def follow(self) -> None:
        if self.pace == 0:
            await self.ended.wait()
            return
        self.join()
        while not self.ended.is_set() and self.step < self.steps_total:
            if not self.paused:
                before = self.event_seconds
                self.one_step()
                if self.step in (12, 400):
                    self.balance("measured speeds differ by a factor of 6.4")
                await asyncio.sleep((self.event_seconds - before) / 3)
            else:
                await asyncio.sleep(0.1)
        self.finish("stopped" if self.stop_asked else "finished")

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        self.controls.append((dict(message), hosts))
        match message.get("command"):
            case "pause" | "resume" as command:
                self.paused = command == "pause"
                self.emitters[0].emit(Notice, text="paused" if self.paused else "resumed", step=self.step)
            case "exclude" | "admit" as command:
                self.exclude(str(message["host"]), admit=command == "admit", by=str(message["by"]))
            case "simulate" if hosts:
                for rank, host in enumerate(self.fake_hosts):
                    if host.name in hosts:
                        self.speeds[rank] = float(str(message["samples_per_second"]))
                if self.pace:
                    asyncio.get_running_loop().call_later(3, self.balance, "a rank has changed its speed")

    async def stop(self, report: Callable[[LaunchProgress], None]) -> None:
        for host in self.fake_hosts:
            report(LaunchProgress(host.name, "stopped"))
        self.stop_asked = True
        if self.pace == 0:
            self.finish("stopped")
        self.ended.set()

    async def close(self) -> None:
        self.closed = True


def earlier_run() -> tuple[HostRunState, ...]:
    """What an earlier instance left running."""
    return tuple(
        HostRunState(host=host.name, run_id=RUN_ID, state=State.RUNNING, ranks=(rank,))
        for rank, host in enumerate(HOSTS)
    )

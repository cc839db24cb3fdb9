"""What must hold of every plan, whatever the inventory and whatever the hosts claim to be."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from remote.errors import PlanError
from remote.facts import Facts, Gpu
from remote.inventory import Cluster, Host, Image, Inventory, Network, Training
from remote.plan import LaunchPlan, make_plan, plan_from_json, plan_to_json, render_plan
from remote.plan_contract import CONTRACT_VARIABLES
from trainer.environment import read_host
from trainer.options import parse

RUN_ID = "20261123-034500-ab12"
NAMES = ("a", "b", "c", "d")
ADDRESSES = [
    "",
    "127.0.0.1",
    "127.0.1.1",
    "::1",
    "192.168.1.1",
    "192.168.1.2",
    "10.0.0.1",
    "172.17.0.1",
    "fe80::1",
    "x",
]
INTERFACES = ["", "lo", "lo0", "eth0", "wlan0", "docker0", "-x", "a b", "\x1b"]

hosts: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    address=st.sampled_from(["", "local", "localhost", "127.0.0.1", "192.168.1.1", "tower.lan"]),
    devices=st.sampled_from(["auto", "auto", "cpu", "mps", (0,), (1, 0), ("GPU-a",), ()]),
    runtime=st.sampled_from(["docker", "process"]),
    interface=st.sampled_from(["", "", "eth0", "auto"]),
    train_address=st.sampled_from(["", "", "192.168.1.9", "127.0.0.1", "x"]),
    image=st.sampled_from(["", "own"]),
    python=st.sampled_from(["python3", "~/venv/bin/python"]),
    env=st.dictionaries(st.sampled_from(["A", "OMP_NUM_THREADS", "NCCL_DEBUG"]), st.text(), max_size=2),
    simulated_samples_per_second=st.sampled_from([None, 0.5, 100.0]),
)
gpus = st.lists(
    st.builds(
        Gpu,
        index=st.integers(0, 3),
        name=st.text(max_size=5),
        uuid=st.one_of(
            st.sampled_from(["GPU-a", "GPU-b", "GPU-ab", "", "GPU-1,GPU-2"]), st.uuids().map(lambda u: f"GPU-{u}")
        ),
        memory=st.just(1 << 33),
        driver=st.just("550"),
        compute_capability=st.just("8.6"),
        vendor=st.sampled_from(["nvidia", "nvidia", "nvidia", "amd"]),
    ),
    max_size=3,
).map(tuple)
facts: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    system=st.sampled_from(["Linux", "Linux", "Linux", "Darwin", "Windows", ""]),
    hostname=st.sampled_from(["", "h1", "h2"]),
    machine_id=st.sampled_from(["", "m1"]),
    home=st.sampled_from(["/home/ml", "/home/ml", "/home/ml", "", "\x1b[2J", "/a\nb"]),
    cpu_count=st.integers(-1, 64),
    cpu_quota=st.sampled_from([None, 0.0, 0.5, 3.9, -1.0]),
    interface=st.sampled_from(INTERFACES),
    address=st.sampled_from(ADDRESSES),
    addresses=st.lists(st.tuples(st.sampled_from(INTERFACES), st.sampled_from(ADDRESSES)), max_size=4).map(tuple),
    gpus=gpus,
    gpu_error=st.sampled_from(["", "\x1b[31m"]),
)
clusters = st.builds(
    Cluster,
    name=st.just("home"),
    master=st.sampled_from(["", "a", "b"]),
    master_address=st.sampled_from(["", "", "", "192.168.1.1", "127.0.0.1"]),
    backend=st.sampled_from(["auto", "auto", "gloo", "nccl"]),
)
images = st.sampled_from(
    [Image(ref="i"), Image(variants={"cuda": "c", "cpu": "p"}), Image(ref="i", variants={"cuda": "c"})]
)
trainings = st.sampled_from(
    [
        Training(workload="simple_cnn"),
        Training(
            workload="bert_small", dataset="text", data_dir="~/d", checkpoint_dir="/c", resume=True, elastic=False
        ),
        Training(script="~/t.py", args=("--lr", "1"), policy="equal", learning_rate=1e-7),
        Training(workload="resnet18", global_batch=2, samples=10, communication="powersgd"),
    ]
)


@st.composite
def wild_situations(draw: st.DrawFn) -> tuple[Inventory, dict[str, Facts]]:
    """Hosts that claim anything; hardly ever a plan."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    inventory = Inventory(
        cluster=draw(clusters.filter(lambda cluster: cluster.master in ("", *names))),
        image=draw(images),
        training=draw(trainings),
        network=Network(interface=draw(st.sampled_from(["auto", "auto", "eth0"]))),
        hosts=tuple(Host(name=name, **draw(hosts)) for name in names),
    )
    known: dict[str, Any] = {name: Facts(host=name, **draw(facts)) for name in names}
    return inventory, known


@st.composite
def sane_situations(draw: st.DrawFn) -> tuple[Inventory, dict[str, Facts]]:
    """Machines as people own them; nearly always a plan."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    entries: list[Host] = []
    known: dict[str, Facts] = {}
    for number, name in enumerate(names, 1):
        is_mac = draw(st.integers(0, 4)) == 0
        count = 0 if is_mac else draw(st.integers(0, 3))
        choices: list[Any] = [
            "auto",
            "cpu",
            *([tuple(reversed(range(count)))] if count else []),
            *(["mps"] if is_mac else []),
        ]
        values = draw(hosts) | {
            "address": f"192.168.1.{number}",
            "devices": draw(st.sampled_from(choices)),
            "interface": "",
            "train_address": "",
        }
        entries.append(Host(name=name, **(values | ({"runtime": "process"} if is_mac else {}))))
        interface = draw(st.sampled_from(["eth0", "wlan0", "enp3s0"]))
        known[name] = Facts(
            host=name,
            system="Darwin" if is_mac else "Linux",
            hostname=name,
            machine_id=draw(st.sampled_from(["", "clone"])),
            home=f"/home/{name}",
            cpu_count=draw(st.integers(1, 64)),
            cpu_quota=draw(st.sampled_from([None, 0.5, 3.9])),
            interface=interface,
            address=f"192.168.1.{number}",
            addresses=(("docker0", "172.17.0.1"), (interface, f"192.168.1.{number}"), ("lo", "127.0.0.1")),
            gpus=tuple(Gpu(index, "RTX", f"GPU-{name}-{index}", 1 << 33, "550", "8.6") for index in range(count)),
        )
    inventory = Inventory(
        cluster=Cluster(
            name="home",
            master=draw(st.sampled_from(["", *names])),
            backend=draw(st.sampled_from(["auto", "auto", "gloo", "nccl"])),
        ),
        image=draw(images),
        training=draw(trainings),
        hosts=tuple(entries),
    )
    return inventory, known


situations = st.one_of(sane_situations(), sane_situations(), wild_situations())


def _plan(inventory: Inventory, known: dict[str, Facts]) -> LaunchPlan | None:
    try:
        return make_plan(inventory, known, RUN_ID)
    except PlanError as error:
        message = str(error)
    assert message
    assert "\x1b" not in message
    return None


@settings(deadline=None)
@given(situations)
def test_a_plan_is_refused_with_reasons_or_holds_together(situation: tuple[Inventory, dict[str, Facts]]) -> None:
    inventory, known = situation
    plan = _plan(inventory, known)
    if plan is None:
        return
    ranks = [rank for host in plan.hosts for rank in host.ranks]
    assert [rank.rank for rank in ranks] == list(range(plan.world_size))
    assert {host.host for host in plan.hosts} == {host.name for host in inventory.hosts}
    assert plan.hosts[0].host == plan.master == inventory.master.name
    uuids = [rank.gpu_uuid for rank in ranks if rank.gpu_uuid]
    assert len(uuids) == len(set(uuids))
    if plan.backend == "nccl":
        assert all(rank.device.startswith("cuda:") for rank in ranks)
    address = ipaddress.ip_address(plan.master_address)
    if len(plan.hosts) > 1 and not all(host.is_loopback for host in inventory.hosts):
        assert not address.is_loopback
    assert plan_from_json(plan_to_json(plan)) == plan
    assert "\x1b" not in "".join(plan.notes)
    assert render_plan(plan)


@settings(deadline=None)
@given(situations)
def test_every_host_is_told_the_same_job_and_its_own_place(situation: tuple[Inventory, dict[str, Facts]]) -> None:
    plan = _plan(*situation)
    if plan is None:
        return
    for node_rank, host in enumerate(plan.hosts):
        told = read_host(dict(host.env))
        assert told.host == host.host
        assert told.run_id == RUN_ID
        assert told.ranks == tuple(rank.rank for rank in host.ranks)
        assert told.devices == tuple(rank.device for rank in host.ranks)
        assert told.world_size == plan.world_size
        assert told.node_rank == node_rank
        assert told.is_master == (node_rank == 0)
        assert (told.master_address, told.master_port) == (plan.master_address, plan.master_port)
        assert told.backend == plan.backend
        assert told.control is not None
        own_optional = {"HETERO_SIMULATED_SAMPLES_PER_SECOND", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"}
        own_optional |= {"NVIDIA_VISIBLE_DEVICES", "LOCAL_RANK", "GROUP_RANK"}
        assert set(dict(host.env)) >= CONTRACT_VARIABLES - own_optional
        assert host.gpu_uuids == (
            tuple(r.gpu_uuid for r in host.ranks if r.gpu_uuid) if host.runtime == "docker" else ()
        )
        assert bool(host.image) == (host.runtime == "docker")
        assert parse(host.argv[4:]).global_batch == plan.global_batch


def test_most_sane_situations_give_a_plan() -> None:
    """Without this the properties below could hold of nothing."""
    outcomes: list[bool] = []

    @settings(max_examples=100, database=None, derandomize=True, deadline=None)
    @given(sane_situations())
    def collect(situation: tuple[Inventory, dict[str, Facts]]) -> None:
        outcomes.append(_plan(*situation) is not None)

    collect()
    assert sum(outcomes) > len(outcomes) / 2


@settings(deadline=None)
@given(situations)
def test_the_same_situation_gives_the_same_plan(situation: tuple[Inventory, dict[str, Facts]]) -> None:
    assert _plan(*situation) == _plan(*situation)


@settings(deadline=None)
@given(situations)
def test_nothing_waits_for_a_terminal_and_shared_memory_is_enough(
    situation: tuple[Inventory, dict[str, Facts]],
) -> None:
    plan = _plan(*situation)
    if plan is None:
        return
    for host in plan.hosts:
        assert host.shm_size >= 1 << 30
        assert host.network_mode == "host"
    assert not any(each in render_plan(plan).split() for each in ("-t", "-it", "--tty", "--interactive", "--rm"))

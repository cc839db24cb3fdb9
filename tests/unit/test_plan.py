"""Decisions of the planner that the golden files do not show: refusals, preferences, hostile facts."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.errors import PlanError
from remote.facts import Facts, Gpu
from remote.inventory import Cluster, Host, Image, Inventory, Network, Training
from remote.plan import (
    HostPlan,
    LaunchPlan,
    RankPlan,
    container_name,
    equivalent_command,
    equivalent_docker_command,
    make_plan,
    plan_from_json,
    render_plan,
)
from remote.plan_contract import CONTRACT_VARIABLES

RUN_ID = "20261123-034500-ab12"


def _inventory(*hosts: Host, **tables: Any) -> Inventory:
    values: dict[str, Any] = {
        "cluster": Cluster(name="home"),
        "image": Image(ref="hetero:1"),
        "training": Training(workload="simple_cnn"),
    }
    return Inventory(hosts=hosts, **(values | tables))


def _host(name: str, last: int, **values: Any) -> Host:
    return Host(name=name, address=f"192.168.1.{last}", **values)


def _gpu(index: int, owner: str, vendor: str = "nvidia") -> Gpu:
    return Gpu(index, "RTX", f"GPU-{owner}-{index}", 8 << 30, "550", "8.6", vendor)


def _facts(name: str, last: int, **values: Any) -> Facts:
    address = f"192.168.1.{last}"
    usual: dict[str, Any] = {
        "host": name,
        "system": "Linux",
        "hostname": name,
        "home": "/home/ml",
        "cpu_count": 8,
        "interface": "eth0",
        "address": address,
        "addresses": (("lo", "127.0.0.1"), ("eth0", address)),
    }
    return Facts(**(usual | values))


A, B = _host("a", 1), _host("b", 2)


def _plan(inventory: Inventory, *facts: Facts) -> LaunchPlan:
    return make_plan(inventory, {each.host: each for each in facts}, RUN_ID)


def _refused(inventory: Inventory, *facts: Facts) -> str:
    with pytest.raises(PlanError) as caught:
        _plan(inventory, *facts)
    return str(caught.value)


def test_a_host_without_facts_is_named() -> None:
    assert "nothing is known of b" in _refused(_inventory(A, B), _facts("a", 1))


def test_every_obstacle_is_told_at_once() -> None:
    inventory = _inventory(
        _host("a", 1, devices=(3,)), _host("b", 2, devices=("GPU-x",)), cluster=Cluster(name="home", backend="nccl")
    )
    told = _refused(inventory, _facts("a", 1, gpus=(_gpu(0, "a"),)), _facts("b", 2))
    assert "a: GPU 3 is not there; this host has: 0 = 'RTX' ('GPU-a-0')" in told
    assert "b: GPU 'GPU-x' is not there; this host has: no GPU" in told


def test_devices_by_index_uuid_and_unique_beginning_keep_their_order() -> None:
    gpus = (_gpu(0, "a"), _gpu(1, "a"), _gpu(5, "b"))
    plan = _plan(_inventory(_host("a", 1, devices=("GPU-b", 1, "GPU-a-0"))), _facts("a", 1, gpus=gpus))
    (host,) = plan.hosts
    assert host.gpu_uuids == ("GPU-b-5", "GPU-a-1", "GPU-a-0")
    assert [rank.gpu_uuid for rank in host.ranks] == list(host.gpu_uuids)
    assert [rank.device for rank in host.ranks] == ["cuda:0", "cuda:1", "cuda:2"]
    assert host.variable("CUDA_VISIBLE_DEVICES") == "GPU-b-5,GPU-a-1,GPU-a-0"


@pytest.mark.parametrize("devices", [("GPU-",), (0, "GPU-a-0")])
def test_ambiguous_and_repeated_devices_are_refused(devices: tuple[int | str, ...]) -> None:
    told = _refused(_inventory(_host("a", 1, devices=devices)), _facts("a", 1, gpus=(_gpu(0, "a"), _gpu(1, "a"))))
    assert "is ambiguous" in told or "is listed twice" in told


def test_one_gpu_claimed_by_two_entries_is_refused() -> None:
    told = _refused(_inventory(A, B), _facts("a", 1, gpus=(_gpu(0, "x"),)), _facts("b", 2, gpus=(_gpu(0, "x"),)))
    assert "b: GPU GPU-x-0 belongs to a too" in told


def test_mps_needs_a_mac_and_a_process() -> None:
    mac = _host("a", 1, devices="mps", runtime="process")
    assert _plan(_inventory(mac), _facts("a", 1, system="Darwin")).hosts[0].ranks[0].device == "mps"
    assert "this is Linux" in _refused(_inventory(mac), _facts("a", 1))
    told = _refused(_inventory(_host("a", 1, devices="mps")), _facts("a", 1, system="Darwin"))
    assert "not visible in containers" in told


def test_amd_gpus_run_as_processes_only() -> None:
    gpus = (_gpu(1, "a", "amd"),)
    plan = _plan(_inventory(_host("a", 1, runtime="process")), _facts("a", 1, gpus=gpus))
    assert plan.backend == "gloo"
    assert "a has a GPU of amd" in plan.notes[0]
    assert plan.hosts[0].variable("HIP_VISIBLE_DEVICES") == "1"
    assert "amd GPUs cannot be given to a container" in _refused(_inventory(A), _facts("a", 1, gpus=gpus))


def test_auto_takes_the_nvidia_gpus_of_a_mixed_host() -> None:
    plan = _plan(_inventory(A), _facts("a", 1, gpus=(_gpu(0, "a", "amd"), _gpu(1, "a"))))
    assert plan.hosts[0].gpu_uuids == ("GPU-a-1",)
    assert any("one vendor" in note for note in plan.notes)


def test_gpus_of_two_vendors_cannot_be_listed_together() -> None:
    host = _host("a", 1, devices=(0, 1), runtime="process")
    assert "amd and nvidia together" in _refused(
        _inventory(host), _facts("a", 1, gpus=(_gpu(0, "a", "amd"), _gpu(1, "a")))
    )


def test_a_broken_driver_is_told_where_the_cpu_is_used() -> None:
    plan = _plan(_inventory(A), _facts("a", 1, gpu_error="\x1b[31mNVML mismatch"))
    assert any("a computes on its CPU: nvidia-smi fails there" in note for note in plan.notes)
    assert "\x1b" not in "".join(plan.notes)


@pytest.mark.parametrize(
    ("choice", "gpus", "backend"),
    [("auto", 2, "nccl"), ("auto", 1, "gloo"), ("auto", 0, "gloo"), ("gloo", 2, "gloo"), ("nccl", 2, "nccl")],
)
def test_the_backend_is_one_for_all(choice: Any, gpus: int, backend: str) -> None:
    inventory = _inventory(A, B, cluster=Cluster(name="home", backend=choice))
    has = {"a": (_gpu(0, "a"),) if gpus >= 1 else (), "b": (_gpu(0, "b"),) if gpus >= 2 else ()}
    plan = _plan(inventory, _facts("a", 1, gpus=has["a"]), _facts("b", 2, gpus=has["b"]))
    assert plan.backend == backend
    assert {host.variable("HETERO_BACKEND") for host in plan.hosts} == {backend}


def test_nccl_with_a_cpu_rank_names_the_host() -> None:
    inventory = _inventory(A, B, cluster=Cluster(name="home", backend="nccl"))
    told = _refused(inventory, _facts("a", 1, gpus=(_gpu(0, "a"),)), _facts("b", 2))
    assert told.startswith("NCCL was asked for, but b computes on its CPU")


def test_cpu_ranks_see_no_gpu() -> None:
    gpus = (_gpu(0, "a"),)
    in_container = _plan(_inventory(_host("a", 1, devices="cpu")), _facts("a", 1, gpus=gpus)).hosts[0]
    assert in_container.gpu_uuids == ()
    assert dict(in_container.env)["CUDA_VISIBLE_DEVICES"] == ""
    assert in_container.variable("NVIDIA_VISIBLE_DEVICES") == "void"


@pytest.mark.parametrize("hosts", list(permutations("abc")))
def test_rank_0_is_on_the_master_whatever_the_order(hosts: tuple[str, ...]) -> None:
    entries = [_host(name, ord(name) - 96) for name in hosts]
    inventory = _inventory(*entries, cluster=Cluster(name="home", master="b"))
    plan = _plan(inventory, *(_facts(name, ord(name) - 96, gpus=(_gpu(0, name), _gpu(1, name))) for name in hosts))
    assert [host.host for host in plan.hosts] == ["b", *(name for name in hosts if name != "b")]
    assert [rank.rank for host in plan.hosts for rank in host.ranks] == list(range(6))
    assert [host.variable("HETERO_MASTER") for host in plan.hosts] == ["1", "0", "0"]
    assert plan.master_address == "192.168.1.2"


def test_the_address_of_the_inventory_comes_first() -> None:
    facts = (_facts("a", 1), _facts("b", 2))
    given_address = _inventory(A, B, cluster=Cluster(name="home", master_address="10.0.0.9"))
    assert _plan(given_address, *facts).master_address == "10.0.0.9"
    given_host = _inventory(_host("a", 1, train_address="10.0.0.8"), B)
    assert _plan(given_host, *facts).master_address == "10.0.0.8"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "0.0.0.0", "169.254.1.1", "tower.lan"])
def test_an_address_others_cannot_dial_is_refused(address: str) -> None:
    inventory = _inventory(A, B, cluster=Cluster(name="home", master_address=address))
    assert "cluster.master_address" in _refused(inventory, _facts("a", 1), _facts("b", 2))


@pytest.mark.parametrize(
    ("address", "addresses", "chosen"),
    [
        ("172.17.0.1", (("docker0", "172.17.0.1"), ("eth0", "192.168.1.1")), "192.168.1.1"),
        ("127.0.0.1", (("lo", "127.0.0.1"), ("wlan0", "192.168.1.1"), ("tailscale0", "100.64.0.1")), "192.168.1.1"),
        ("", (("br-0123456789ab", "172.18.0.1"), ("eno1", "10.1.1.1")), "10.1.1.1"),
        ("127.0.1.1", (("virbr0", "192.168.122.1"), ("eth0", "192.168.1.1"), ("eth1", "10.0.0.1")), "192.168.1.1"),
    ],
)
def test_loopback_and_bridges_are_never_the_rendezvous(
    address: str, addresses: tuple[tuple[str, str], ...], chosen: str
) -> None:
    master = _facts("a", 1, address=address, addresses=addresses, interface="lo")
    plan = _plan(_inventory(A, B), master, _facts("b", 2))
    assert plan.master_address == chosen
    assert plan.hosts[0].variable("GLOO_SOCKET_IFNAME") == next(name for name, own in addresses if own == chosen)


@pytest.mark.parametrize("addresses", [(), (("eth0", "10.0.0.1"), ("eth1", "10.1.0.1")), (("docker0", "172.17.0.1"),)])
def test_a_rendezvous_nobody_can_tell_is_asked_for(addresses: tuple[tuple[str, str], ...]) -> None:
    told = _refused(_inventory(A, B), _facts("a", 1, address="", addresses=addresses), _facts("b", 2))
    assert "a: cannot tell which address" in told
    assert "set cluster.master_address" in told


def test_hosts_that_are_all_loopback_meet_on_loopback() -> None:
    here = [
        Host(name=name, address=address, runtime="process") for name, address in (("a", "local"), ("b", "127.0.0.1"))
    ]
    plan = _plan(_inventory(*here), _facts("a", 1), _facts("b", 2, addresses=()))
    assert plan.master_address == "127.0.0.1"
    assert [host.variable("GLOO_SOCKET_IFNAME") for host in plan.hosts] == ["lo", "lo"]


def test_a_mac_calls_loopback_lo0() -> None:
    host = Host(name="a", address="local", runtime="process", devices="cpu")
    plan = _plan(_inventory(host), _facts("a", 1, system="Darwin", addresses=()))
    assert plan.hosts[0].variable("GLOO_SOCKET_IFNAME") == "lo0"


@pytest.mark.parametrize(
    ("host", "network", "facts", "interface"),
    [
        ({}, {}, {}, "eth0"),
        (
            {"interface": "eth1"},
            {"interface": "eth0"},
            {"addresses": (("eth0", "1.2.3.4"), ("eth1", "1.2.3.5"))},
            "eth1",
        ),
        ({}, {"interface": "eth2"}, {"addresses": ()}, "eth2"),
        ({"train_address": "10.0.0.2"}, {}, {"addresses": (("eth0", "1.2.3.4"), ("wg0", "10.0.0.2"))}, "wg0"),
        ({}, {}, {"interface": ""}, "eth0"),
    ],
)
def test_the_interface_of_a_worker(
    host: dict[str, Any], network: dict[str, Any], facts: dict[str, Any], interface: str
) -> None:
    inventory = _inventory(_host("a", 1, interface="eth9"), _host("b", 2, **host), network=Network(**network))
    plan = _plan(inventory, _facts("a", 1, addresses=()), _facts("b", 2, **facts))
    assert plan.host("b").variable("GLOO_SOCKET_IFNAME") == interface
    assert plan.host("b").variable("NCCL_SOCKET_IFNAME") == f"={interface}"


def test_an_interface_that_is_not_there_is_refused_with_those_that_are() -> None:
    told = _refused(_inventory(A, B, network=Network(interface="eth1")), _facts("a", 1), _facts("b", 2))
    assert "a: there is no interface 'eth1' with an IPv4 address; this host has: eth0, lo" in told
    assert "b: there is no interface 'eth1'" in told


@pytest.mark.parametrize("interface", ["", "lo"])
def test_gloo_between_hosts_needs_an_interface(interface: str) -> None:
    told = _refused(_inventory(A, B), _facts("a", 1), _facts("b", 2, interface=interface, addresses=()))
    assert told.startswith("b: cannot tell which interface")


def test_nccl_finds_its_interface_itself() -> None:
    facts = _facts("b", 2, interface="", addresses=(), gpus=(_gpu(0, "b"),))
    plan = _plan(_inventory(A, B), _facts("a", 1, gpus=(_gpu(0, "a"),)), facts)
    assert dict(plan.host("b").env)["NCCL_SOCKET_IFNAME"] == ""


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_containers_in_a_virtual_machine_cannot_join_others(system: str) -> None:
    told = _refused(_inventory(A, B), _facts("a", 1), _facts("b", 2, system=system))
    assert f"b: containers on {system} run in a virtual machine" in told
    assert _plan(_inventory(A), _facts("a", 1, system=system)).world_size == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("interface", {"interface": "eth0; rm -rf /"}),
        ("interface", {"interface": "-x"}),
        ("UUID", {"gpus": (Gpu(0, "x", "GPU-1,GPU-2", 1, "", ""),)}),
        ("home folder", {"home": "/home/\x1b[2J"}),
        ("home folder", {"home": "relative"}),
        ("home folder", {"home": ""}),
    ],
)
def test_facts_that_cannot_be_true_are_refused(name: str, values: dict[str, Any]) -> None:
    told = _refused(_inventory(A, _host("b", 2, runtime="process")), _facts("a", 1), _facts("b", 2, **values))
    assert told.startswith("b: ")
    assert name in told
    assert "\x1b" not in told


@pytest.mark.parametrize("name", sorted(CONTRACT_VARIABLES))
@pytest.mark.parametrize("place", ["host", "training"])
def test_the_inventory_cannot_override_the_contract(name: str, place: str) -> None:
    host = _host("a", 1, env={name: "1"} if place == "host" else {})
    training = Training(workload="simple_cnn", env={name: "1"} if place == "training" else {})
    assert f"env sets {name}" in _refused(_inventory(host, training=training), _facts("a", 1))


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_impossible_variables_are_refused(name: str) -> None:
    assert "cannot be an environment variable" in _refused(_inventory(_host("a", 1, env={name: "1"})), _facts("a", 1))


def test_the_host_overrides_the_training_and_both_override_defaults() -> None:
    training = Training(workload="simple_cnn", env={"A": "training", "B": "training", "OMP_NUM_THREADS": "7"})
    plan = _plan(_inventory(_host("a", 1, env={"A": "host"}), training=training), _facts("a", 1))
    assert [plan.hosts[0].variable(name) for name in ("A", "B", "OMP_NUM_THREADS")] == ["host", "training", "7"]


@pytest.mark.parametrize(
    ("facts", "threads"),
    [
        ({"cpu_count": 8}, "8"),
        ({"cpu_count": 8, "cpu_quota": 2.5}, "2"),
        ({"cpu_count": 8, "cpu_quota": 0.5}, "1"),
        ({"cpu_count": 0}, ""),
        ({"cpu_count": 7, "gpus": (_gpu(0, "a"), _gpu(1, "a"))}, "3"),
    ],
)
def test_threads_follow_the_cpus_and_the_ranks(facts: dict[str, Any], threads: str) -> None:
    assert _plan(_inventory(A), _facts("a", 1, **facts)).hosts[0].variable("OMP_NUM_THREADS") == threads


def test_entries_that_are_one_machine_share_its_threads() -> None:
    def threads(**values: Any) -> list[str]:
        first = _facts("a", 1, machine_id="m", hostname="box")
        plan = _plan(_inventory(A, B), first, replace(_facts("b", 2, machine_id="m", hostname="box"), **values))
        return [host.variable("OMP_NUM_THREADS") for host in plan.hosts]

    assert threads() == ["4", "4"]
    assert threads(hostname="clone") == ["8", "8"]
    assert threads(machine_id="") == ["8", "8"]


def test_cpu_ranks_keep_their_memory_and_gpu_ranks_do_not() -> None:
    plan = _plan(_inventory(A, B), _facts("a", 1, gpus=(_gpu(0, "a"),)), _facts("b", 2))
    assert plan.host("a").variable("MALLOC_MMAP_THRESHOLD_") == ""
    assert plan.host("b").variable("MALLOC_MMAP_THRESHOLD_") == "2000000000"
    assert plan.host("b").variable("MALLOC_TRIM_THRESHOLD_") == "4000000000"


def test_more_ranks_than_samples_are_refused() -> None:
    inventory = _inventory(A, training=Training(workload="simple_cnn", global_batch=1))
    assert "2 ranks cannot share a global batch of 1" in _refused(
        inventory, _facts("a", 1, gpus=(_gpu(0, "a"), _gpu(1, "a")))
    )


def test_images_follow_the_class_of_device() -> None:
    image = Image(variants={"cuda": "c", "cpu": "p"})
    hosts = (A, B, _host("c", 3, image="own"), _host("d", 4, runtime="process"))
    facts = [_facts(host.name, number) for number, host in enumerate(hosts, 1)]
    facts[0] = _facts("a", 1, gpus=(_gpu(0, "a"),))
    plan = _plan(_inventory(*hosts, image=image), *facts)
    assert [host.image for host in plan.hosts] == ["c", "p", "own", ""]


def test_a_missing_variant_is_told() -> None:
    told = _refused(_inventory(A, B, image=Image(variants={"cuda": "c"})), _facts("a", 1), _facts("b", 2))
    assert "a: no image for cpu ranks" in told
    assert "b: no image for cpu ranks" in told


def test_a_run_id_is_checked() -> None:
    with pytest.raises(PlanError, match="cannot be a run id"):
        make_plan(_inventory(A), {"a": _facts("a", 1)}, "../x")


def test_folders_of_a_process_host() -> None:
    training = Training(workload="simple_cnn", dataset="cifar10", data_dir="~/data", checkpoint_dir="~/check")
    host = _host("a", 1, runtime="process", python="~/venv/bin/python")
    plan = _plan(_inventory(host, training=training), _facts("a", 1, home="/home/ml/")).hosts[0]
    assert plan.run_folder == f"/home/ml/.cache/hetero-tui/runs/{RUN_ID}/a"
    assert plan.variable("HETERO_CONTROL") == f"{plan.run_folder}/control"
    assert plan.variable("HETERO_OUTPUT") == "/home/ml/check"
    assert plan.argv[0] == "/home/ml/venv/bin/python"
    assert plan.argv[-2:] == ("--data-dir", "/home/ml/data")
    assert (plan.mounts, plan.gpu_uuids, plan.image) == ((), (), "")


def test_mounts_of_a_container() -> None:
    training = Training(workload="simple_cnn", dataset="cifar10", data_dir="/srv/d", checkpoint_dir="~/check")
    plan = _plan(_inventory(A, training=training), _facts("a", 1)).hosts[0]
    assert plan.mounts == (("/srv/d", "/hetero/data", "ro"), ("/home/ml/check", "/hetero/output", "rw"))
    assert plan.variable("HETERO_CONTROL") == "/hetero/control"
    assert plan.run_folder == ""


def test_container_names_stay_apart_when_characters_are_replaced() -> None:
    assert container_name("home", RUN_ID, "tower") == f"hetero-home-{RUN_ID}-tower"
    assert container_name("home", RUN_ID, "a b") != container_name("home", RUN_ID, "a-b")
    assert container_name("home", RUN_ID, "a b") != container_name("home", RUN_ID, "a/b")


@settings(deadline=None)
@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_container_names_are_legal_and_distinct(one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = (container_name(cluster, RUN_ID, host) for cluster, host in (one, other))
    for name in (first, second):
        assert name.isascii()
        assert all(each.isalnum() or each in "_.-" for each in name)
    if f"{one[0]}-{RUN_ID}-{one[1]}" != f"{other[0]}-{RUN_ID}-{other[1]}":
        assert first != second


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_the_command_line_means_what_the_plan_says(value: str, path: str, image: str) -> None:
    plan = HostPlan(
        host="a",
        runtime="docker",
        ranks=(RankPlan(0, 0, "cpu"),),
        container_name="n",
        image=image,
        argv=("python3", "-m", "trainer", value),
        env=(("A", value),),
        labels=(("l", value),),
        mounts=((path, "/hetero/data", "ro"),),
    )
    words = shlex.split(equivalent_docker_command(plan))
    assert words[words.index("--env") + 1] == f"A={value}"
    assert words[words.index("--label") + 1] == f"l={value}"
    assert words[-4:] == [image, "-m", "trainer", value]
    process = replace(plan, runtime="process")
    assert shlex.split(equivalent_command(process)) == ["env", f"A={value}", "python3", "-m", "trainer", value]


def test_a_mount_with_a_comma_is_one_field() -> None:
    plan = HostPlan("a", "docker", (), "n", "i", ("python3",), (), (), mounts=(('/d,"x', "/t", "rw"),))
    words = shlex.split(equivalent_docker_command(plan))
    assert words[words.index("--mount") + 1] == 'type=bind,"source=/d,""x",target=/t'


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
@pytest.mark.parametrize("is_broken", [False, True])
def test_the_docker_command_takes_the_command_line(is_broken: bool) -> None:
    plan = HostPlan(
        host="a",
        runtime="docker",
        ranks=(),
        container_name="hetero-home-a",
        image="hetero:1",
        argv=("python3", "-m", "trainer", "--samples", "1"),
        env=(("A", "b c"), ("EMPTY", "")),
        labels=(("hetero-tui.ranks", "0,1"),),
        gpu_uuids=("GPU-1", "GPU-2"),
        mounts=(('/d,"x y', "/hetero/data", "ro"), ("/srv", "/hetero/output", "rw")),
        user="1000",
    )
    words = shlex.split(equivalent_docker_command(plan))
    if is_broken:
        words[words.index("--gpus") + 1] = "device=GPU-1,GPU-2"
    ran = subprocess.run(
        [words[0], "--host", "unix:///nonexistent/docker.sock", *words[1:]], capture_output=True, text=True, check=False
    )
    # The command line is read before the engine is called, and here there is no engine to call.
    assert ("nonexistent/docker.sock" in ran.stderr) != is_broken, ran.stderr


def test_there_is_no_docker_command_for_a_process() -> None:
    plan = HostPlan("a", "process", (), "n", "", ("python3",), (), ())
    with pytest.raises(ValueError, match="a runs processes"):
        equivalent_docker_command(plan)


def test_text_that_is_no_plan() -> None:
    with pytest.raises(ValueError, match="run_id"):
        plan_from_json("{}")


def test_the_text_has_every_rank_and_every_note() -> None:
    plan = _plan(_inventory(A, B), _facts("a", 1, gpus=(_gpu(0, "a"), _gpu(1, "a"))), _facts("b", 2))
    text = render_plan(plan)
    rows = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    assert [row[:4] for row in rows] == [["0", "a", "0", "cuda:0"], ["1", "a", "1", "cuda:1"], ["2", "b", "0", "cpu"]]
    for note in plan.notes:
        assert note in text
    assert "3 ranks on 2 hosts" in text

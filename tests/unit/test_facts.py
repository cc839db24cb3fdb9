from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.errors import CommandFailed, RemoteError
from remote.facts import EngineSocket, Facts, Gpu, gather_facts, parse_facts
from remote.runner import Completed
from tests.unit.scripted import ScriptedRunner

LINUX = """\
Welcome to gpu-box!
clock\t1
@@HTUI1
clock\t1700000010000000000
sudo\tnopass
system\tLinux
kernel\t6.8.0-45-generic
gpu\t0, NVIDIA GeForce RTX 4090, GPU-1111, 24564, 560.35.03, 8.9
gpu\t1, NVIDIA GeForce RTX 3060, GPU-2222, 12288, 560.35.03, 8.6
architecture\tx86_64
hostname\tgpu-box
user\tana
user_id\t1000
groups\tana docker sudo
home\t/home/ana
distribution\tubuntu 24.04
reverse_dns\t1700000010100000000 1700000010350000000
cpu_count\t16
cpu_model\tAMD Ryzen 9 5950X 16-Core Processor
cpu_quota\tmax 100000
memory\tMemTotal 65781000 MemAvailable 60000000
machine_id\t0123456789abcdef
address\tlo 127.0.0.1
mtu\tlo 65536
address\tenp5s0 192.168.1.20
mtu\tenp5s0 1500
address\tdocker0 172.17.0.1
mtu\tdocker0 1500
route\t192.168.1.10 dev enp5s0 src 192.168.1.20 uid 1000
port_listening\t0
ephemeral_ports\t32768 60999
firewall\tufw
disk\t1000000 /var/lib/docker
engine_socket\trw /var/run/docker.sock
engine_socket\tdenied /run/user/1000/docker.sock
path_docker\t/usr/bin/docker
path_python3\t/usr/bin/python3
nvidia_ctk\tNVIDIA Container Toolkit CLI version 1.16.2
clock_end\t1700000010400000000
@@END
Goodbye
sudo\troot
"""


def parse(output: str, sent_at: float = 0.0, received_at: float = 0.0) -> Facts:
    return parse_facts("gpu-box", output, sent_at=sent_at, received_at=received_at)


def changed(**facts: str) -> Facts:
    """Parse the sample with some lines in other words."""
    lines = [line for line in LINUX.splitlines() if line.partition("\t")[0] not in facts]
    end = lines.index("@@END")
    return parse("\n".join([*lines[:end], *(f"{key}\t{value}" for key, value in facts.items()), *lines[end:]]))


def test_every_field_of_a_linux_host_is_filled_and_noise_around_the_facts_is_ignored() -> None:
    facts = parse(LINUX, sent_at=1700000000.0, received_at=1700000000.6)
    assert facts.raw[0] == ("clock", "1700000010000000000")
    assert dataclasses.replace(facts, raw=(), clock_offset=0, round_trip=0, reverse_dns_seconds=0) == Facts(
        host="gpu-box",
        system="Linux",
        distribution="ubuntu 24.04",
        kernel="6.8.0-45-generic",
        architecture="x86_64",
        hostname="gpu-box",
        user="ana",
        user_id=1000,
        groups=("ana", "docker", "sudo"),
        home="/home/ana",
        cpu_count=16,
        cpu_model="AMD Ryzen 9 5950X 16-Core Processor",
        cpu_quota=None,
        memory_total=65781000 * 1024,
        memory_available=60000000 * 1024,
        disk_free=1000000 * 1024,
        disk_path="/var/lib/docker",
        machine_id="0123456789abcdef",
        interface="enp5s0",
        address="192.168.1.20",
        addresses=(("lo", "127.0.0.1"), ("enp5s0", "192.168.1.20"), ("docker0", "172.17.0.1")),
        mtu=1500,
        ephemeral_ports=(32768, 60999),
        firewalls=("ufw",),
        gpus=(
            Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1111", 24564 << 20, "560.35.03", "8.9"),
            Gpu(1, "NVIDIA GeForce RTX 3060", "GPU-2222", 12288 << 20, "560.35.03", "8.6"),
        ),
        nvidia_container_toolkit="NVIDIA Container Toolkit CLI version 1.16.2",
        engine_sockets=(
            EngineSocket("/var/run/docker.sock", writable=True),
            EngineSocket("/run/user/1000/docker.sock", writable=False),
        ),
        docker_cli="/usr/bin/docker",
        python="/usr/bin/python3",
        sudo="nopass",
    )
    assert facts.engine_socket == "/var/run/docker.sock"


def test_the_clock_offset_is_what_remains_after_the_way_and_the_script() -> None:
    facts = parse(LINUX, sent_at=1700000000.0, received_at=1700000000.6)
    # On the host 10.0 … 10.4, here 0.0 … 0.6: ten seconds ahead, less the 0.1 s from the middle of one to the other.
    assert math.isclose(facts.clock_offset, 9.9, abs_tol=1e-6)
    assert math.isclose(facts.round_trip, 0.2, abs_tol=1e-6)
    assert math.isclose(facts.reverse_dns_seconds, 0.25, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("stamps", "offset"),
    [
        (("1700000010.000000", "1700000010.400000"), 10.2),
        (("1700000010", "1700000010"), 10.5),
        (("1700000010", "soon"), 0.0),
        (("9" * 30, "9" * 30), 0.0),
    ],
)
def test_stamps_of_every_precision(stamps: tuple[str, str], offset: float) -> None:
    text = LINUX.replace("1700000010000000000", stamps[0], 1).replace("1700000010400000000", stamps[1])
    assert math.isclose(parse(text, 1700000000.0, 1700000000.0).clock_offset, offset, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("local 192.168.1.20 dev lo src 192.168.1.20 uid 0", ("enp5s0", "192.168.1.20")),
        ("local 127.0.0.1 dev lo src 127.0.0.1", ("lo", "127.0.0.1")),
        ("10.0.0.7 via 192.168.1.1 dev wg0 src 10.9.0.2", ("wg0", "10.9.0.2")),
        ("dev en0 src ", ("en0", "")),
        ("RTNETLINK answers: Network is unreachable", ("", "")),
        ("x dev eth0;reboot src 1.2.3.4", ("", "1.2.3.4")),
        ("x dev eth0 src $(reboot)", ("eth0", "")),
        ("fd00::1 dev eth0 src fe80::1%$(reboot)", ("eth0", "fe80::1")),
    ],
)
def test_interface_and_address_on_the_way_to_the_master(route: str, expected: tuple[str, str]) -> None:
    facts = changed(route=route)
    assert (facts.interface, facts.address) == expected


def test_the_mtu_is_that_of_the_chosen_interface() -> None:
    assert changed(route="local 127.0.0.1 dev lo src 127.0.0.1").mtu == 65536
    assert changed(route="x dev wg0 src 10.9.0.2").mtu == 0


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", None), ("150000 100000", 1.5), ("-1 100000", None), ("1 0", None), ("lots", None)],
)
def test_cpu_quotas(quota: str, cpus: float | None) -> None:
    assert changed(cpu_quota=quota).cpu_quota == cpus


def test_the_tightest_quota_counts() -> None:
    text = LINUX.replace("cpu_quota\tmax 100000", "cpu_quota\t800000 100000\ncpu_quota\t50000 100000")
    assert parse(text).cpu_quota == 0.5


def test_gpus_of_drivers_that_say_less() -> None:
    assert changed(gpu="0, NVIDIA GB10, GPU-3, [N/A], 580.1, 12.1").gpus[0].memory == 0
    assert changed(gpu="0, Tesla K80, GPU-4, 11441, 450.80").gpus[0].compute_capability == ""
    assert changed(gpu="No devices were found").gpus == ()
    assert changed(gpu_error="nvidia-smi exited 9: couldn't communicate with the driver").gpu_error.startswith(
        "nvidia-smi exited 9"
    )


def test_values_that_do_not_look_right_are_left_out() -> None:
    facts = changed(
        user_id="root",
        cpu_count="0x10",
        memory="MemTotal many MemAvailable 5",
        disk="lots of room",
        port_listening="yes",
        ephemeral_ports="60999 32768",
        engine_socket="rw relative/docker.sock",
        path_python3="python3: aliased to oops",
        sudo="maybe",
        address="eth0 300.1.1.1",
        reverse_dns="1700000010100000000",
    )
    assert facts.user_id == -1
    assert facts.cpu_count == 0
    assert (facts.memory_total, facts.memory_available) == (0, 5120)
    assert (facts.disk_free, facts.disk_path) == (0, "")
    assert not facts.port_listening
    assert facts.ephemeral_ports == (32768, 60999)
    assert facts.engine_sockets == ()
    assert facts.python == ""
    assert facts.sudo == ""
    assert facts.addresses == ()
    assert facts.reverse_dns_seconds == 0.0


def test_what_a_terminal_would_act_on_does_not_come_through() -> None:
    facts = changed(hostname="evil\x1b]0;title\x07\x1b[2Jbox\u202e", path_docker="/bin/\x1b[31mdocker")
    assert facts.hostname == "evil\ufffd]0;title\ufffd\ufffd[2Jbox\ufffd"
    assert facts.docker_cli == ""


def test_an_endless_value_is_cut() -> None:
    assert len(changed(cpu_model="x" * 100_000).cpu_model) <= 4000


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("", "holds no facts"),
        ("Welcome\n", "holds no facts"),
        (LINUX[: LINUX.index("clock_end")], "broke off"),
        ("@@HTUI1\n" + "a\tb\n" * 5000 + "@@END\n", "broke off"),
    ],
)
def test_output_that_is_no_complete_set_of_facts(output: str, says: str) -> None:
    with pytest.raises(CommandFailed, match=says):
        parse(output)


KEYS = sorted({line.partition("\t")[0] for line in LINUX.splitlines() if "\t" in line})
WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", " ", ",", ",,,,,,", "dev", "src", "dev dev dev", "-1", "0 0", "1e999", "nan", "٣ ٣", "²"]),
    st.integers().map(str),
)
LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(KEYS), st.lists(WORDS, max_size=6).map(" ".join)).map("\t".join),
        st.text(max_size=60),
        st.sampled_from(["@@HTUI1", "@@END", "\t", "\t\t"]),
    ),
    max_size=40,
)


@given(LINES, st.booleans(), st.floats(), st.floats())
def test_whatever_a_host_prints_there_are_facts_or_a_remote_error(
    lines: list[str], framed: bool, sent_at: float, received_at: float
) -> None:
    output = "\n".join(["@@HTUI1", *lines, "@@END"] if framed else lines)
    refused: RemoteError | None
    try:
        facts = parse_facts("alpha", output, sent_at=sent_at, received_at=received_at)
    except RemoteError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.host == "alpha"
        assert refused.next_step
        return
    assert facts.host == "alpha"
    assert all(letter.isprintable() for _, value in facts.raw for letter in value)
    assert all(character not in facts.interface for character in " ;$`'\"\n")


def test_what_uname_id_df_and_the_list_of_cpus_say_is_read_as_they_print_it() -> None:
    output = """\
@@HTUI1
uname\tLinux gpu-box 6.8.0-45-generic x86_64
id\tuid=1000(ana) gid=1000(ana) groups=1000(ana),27(sudo),5001(domain users) context=unconfined_u:unconfined_r:u_t:s0
cpu_online\t0-3,8-11
df\t/var/lib/docker Filesystem 1024-blocks Used Available Capacity Mounted on /dev/sda1 99 98 1000000 99% /
selinux\t1
@@END
"""
    facts = parse(output)
    assert (facts.system, facts.hostname, facts.architecture) == ("Linux", "gpu-box", "x86_64")
    assert facts.kernel == "6.8.0-45-generic"
    assert (facts.user, facts.user_id, facts.groups) == ("ana", 1000, ("ana", "sudo", "domain users"))
    assert facts.cpu_count == 8
    assert (facts.disk_free, facts.disk_path) == (1000000 * 1024, "/var/lib/docker")
    assert facts.selinux_enforcing


class TestGather:
    """The way the script is sent."""

    async def test_data_is_quoted_and_the_script_goes_over_standard_input(self) -> None:
        runner = ScriptedRunner(Completed("gpu-box", "", 0, LINUX, ""))
        times = iter((1700000000.0, 1700000000.6))
        facts = await gather_facts(runner, master_address="1.2.3.4; reboot", port=29501, clock=lambda: next(times))
        assert runner.asked == ["exec /bin/sh -s -- 29501 '1.2.3.4; reboot'"]
        assert runner.inputs[0].startswith(b"# What this host is.")
        assert math.isclose(facts.clock_offset, 9.9, abs_tol=1e-6)

    async def test_an_account_that_may_not_run_commands_is_quoted(self) -> None:
        with pytest.raises(CommandFailed, match="This account is currently not available"):
            await gather_facts(
                ScriptedRunner(Completed("gpu-box", "", 1, "This account is currently not available.\n", ""))
            )

    async def test_a_host_that_hangs(self) -> None:
        with pytest.raises(CommandFailed, match="did not end within 30 s"):
            await gather_facts(ScriptedRunner(TimeoutError()))

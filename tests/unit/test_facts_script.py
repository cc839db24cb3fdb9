"""The facts script itself, in every shell this machine has, with tools that answer as other machines do."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from remote import facts as facts_module
from remote.facts import Facts, Gpu, parse_facts

SCRIPT = Path(facts_module.__file__).with_name("scripts") / "facts.sh"
SHELLS = {
    name: command
    for name, command in {
        "sh": ["/bin/sh"],
        "dash": ["dash"],
        "bash": ["bash", "--posix"],
        "busybox": ["busybox", "ash"],
        "ksh": ["ksh"],
        "zsh": ["zsh", "--emulate", "sh"],
    }.items()
    if shutil.which(command[0])
}
UNIX = os.environ.get("PATH", os.defpath)

IFCONFIG = """\
lo0: flags=8049<UP> mtu 16384
\tinet 127.0.0.1 netmask 0xff000000
en0: flags=8863<UP> mtu 1500
\tinet6 fe80::1%en0 prefixlen 64
\tinet 192.168.1.30 netmask 0xffffff00"""

MAC = {
    "uname": "echo Darwin studio.local 24.1.0 arm64",
    "sw_vers": "echo 15.1",
    "sysctl": """case $2 in
      hw.ncpu) echo 10 ;;
      hw.memsize) echo 34359738368 ;;
      hw.pagesize) echo 16384 ;;
      machdep.cpu.brand_string) echo Apple M1 Max ;;
      net.inet.ip.portrange.first) echo 49152 ;;
      net.inet.ip.portrange.last) echo 65535 ;;
    esac""",
    "vm_stat": "echo 'Pages free:    65536.'; echo 'Pages inactive:    65536.'; echo 'Pages wired down:    9.'",
    "ioreg": """echo '    "IOPlatformUUID" = "0A1B-2C3D"'""",
    "ifconfig": f"if [ $# = 1 ]; then echo '{IFCONFIG}' | grep -A3 \"^$1\"; else echo '{IFCONFIG}'; fi",
    "route": "printf '   route to: x\\n  interface: en0\\n'",
    "ipconfig": "echo 192.168.1.30",
    "netstat": "echo 'tcp4 0 0 *.29500 *.* LISTEN'",
    "date": "echo 1700000000N",
}


def tool(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def run_script(
    tmp_path: Path, *, shell: list[str] | None = None, master: str = "127.0.0.1", port: int = 1, **env: str
) -> Facts:
    """Run the script as the SSH server would: on standard input, with a bare environment."""
    home = tmp_path / "account"
    home.mkdir(exist_ok=True)
    sent_at = time.time()
    done = subprocess.run(
        [*(shell or ["/bin/sh"]), "-s", "--", str(port), master],
        input=SCRIPT.read_bytes(),
        capture_output=True,
        env={"HOME": str(home), "PATH": f"{tmp_path}/bin:{UNIX}", **env},
        cwd=home,
        timeout=30,
        check=True,
    )
    assert list(home.iterdir()) == [], "the script leaves nothing behind"
    return parse_facts("alpha", done.stdout.decode(), sent_at=sent_at, received_at=time.time())


def test_the_script_is_small_enough_for_one_packet_flight() -> None:
    assert len(SCRIPT.read_bytes()) < 10 * 1400, "ten segments may be under way at once (RFC 6928)"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_tells_the_same(tmp_path: Path, shell: str) -> None:
    facts = run_script(tmp_path, shell=SHELLS[shell])
    assert facts.system == os.uname().sysname
    assert facts.cpu_count == os.cpu_count()
    assert facts.user_id == os.getuid()
    assert facts.memory_total > 0
    assert facts.disk_free > 0
    assert facts.ephemeral_ports[0] < facts.ephemeral_ports[1]
    assert ("lo", "127.0.0.1") in facts.addresses
    assert (facts.interface, facts.address, facts.mtu) == ("lo", "127.0.0.1", 65536)
    assert abs(facts.clock_offset) < 2
    assert facts.sudo in ("root", "nopass", "no")


def test_an_empty_master_address_asks_for_the_default_route(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "ip", '[ "$*" = "route get 192.0.2.1" ] && echo "x via 10.0.0.1 dev eth7 src 10.0.0.9"')
    facts = run_script(tmp_path, master="")
    assert (facts.interface, facts.address) == ("eth7", "10.0.0.9")
    assert facts.reverse_dns_seconds == 0


def test_a_master_given_by_name_is_looked_up_on_the_host(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "getent", '[ "$1 $2" = "ahostsv4 master.lan" ] && echo "10.0.0.1       STREAM master.lan"')
    tool(tmp_path / "bin", "ip", '[ "$*" = "route get 10.0.0.1" ] && echo "10.0.0.1 dev eth7 src 10.0.0.9 uid 0"')
    assert run_script(tmp_path, master="master.lan").interface == "eth7"


def test_a_slow_reverse_lookup_is_measured(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "getent", "case $1 in hosts) sleep 0.3; exit 2 ;; esac")
    assert 0.28 <= run_script(tmp_path, master="10.0.0.1").reverse_dns_seconds < 5


def test_gpus_as_nvidia_smi_lists_them(tmp_path: Path) -> None:
    listing = "0, NVIDIA GeForce RTX 4090, GPU-1, 24564, 560.35, 8.9\\n1, NVIDIA RTX A2000, GPU-2, 6138, 560.35, 8.6"
    tool(tmp_path / "bin", "nvidia-smi", f"printf '{listing}\\n'")
    tool(tmp_path / "bin", "nvidia-ctk", "echo NVIDIA Container Toolkit CLI version 1.16.2; echo commit: abc")
    facts = run_script(tmp_path)
    assert facts.gpus == (
        Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24564 << 20, "560.35", "8.9"),
        Gpu(1, "NVIDIA RTX A2000", "GPU-2", 6138 << 20, "560.35", "8.6"),
    )
    assert facts.gpu_error == ""
    assert facts.nvidia_container_toolkit == "NVIDIA Container Toolkit CLI version 1.16.2"


def test_an_old_driver_that_does_not_know_compute_cap(tmp_path: Path) -> None:
    tool(
        tmp_path / "bin",
        "nvidia-smi",
        "case $* in *compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2 ;; esac\n"
        "echo 0, Tesla K80, GPU-1, 11441, 450.80",
    )
    assert run_script(tmp_path).gpus == (Gpu(0, "Tesla K80", "GPU-1", 11441 << 20, "450.80", ""),)


def test_what_a_failing_nvidia_smi_says_is_kept(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "nvidia-smi", "echo Failed to initialize NVML: Driver/library version mismatch; exit 18")
    facts = run_script(tmp_path)
    assert facts.gpus == ()
    assert facts.gpu_error == "nvidia-smi exited 18: Failed to initialize NVML: Driver/library version mismatch"


def test_a_tool_that_reads_standard_input_cannot_eat_the_script(tmp_path: Path) -> None:
    tool(tmp_path / "bin", "uname", "cat >/dev/null; echo Linux box 6.8 x86_64")
    assert run_script(tmp_path).hostname == "box"


def test_a_docker_host_variable_counts_first(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "d.sock"))
        facts = run_script(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/d.sock")
        assert facts.engine_socket == f"{tmp_path}/d.sock"


def test_a_mac(tmp_path: Path) -> None:
    for name, body in MAC.items():
        tool(tmp_path / "bin", name, body)
    facts = run_script(tmp_path, master="192.168.1.10", port=29500)
    assert (facts.system, facts.architecture, facts.kernel) == ("Darwin", "arm64", "24.1.0")
    assert (facts.distribution, facts.hostname) == ("macOS 15.1", "studio.local")
    assert (facts.cpu_count, facts.cpu_model) == (10, "Apple M1 Max")
    assert facts.memory_total == 32 << 30
    assert facts.memory_available == 2 * 65536 * 16384
    assert facts.machine_id == "0A1B-2C3D"
    assert facts.addresses == (("lo0", "127.0.0.1"), ("en0", "192.168.1.30"))
    assert (facts.interface, facts.address, facts.mtu) == ("en0", "192.168.1.30", 1500)
    assert facts.port_listening
    assert facts.ephemeral_ports == (49152, 65535)
    assert facts.disk_path == str(tmp_path / "account")
    assert facts.gpus == ()

"""The rig itself: hosts that are machines of their own, and nothing left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.rig import leftovers
from tests.rig.hosts import Rig
from tests.rig.image import TrainerImage
from tests.rig.machine import LOGIN_USER, call, wait_for
from tests.rig.places import REPOSITORY, RigError

pytestmark = pytest.mark.rig


def _interfaces() -> set[str]:
    return {str(link["ifname"]) for link in json.loads(call("ip", "-json", "link").stdout)}


@pytest.mark.parametrize("user", ["root", LOGIN_USER])
def test_every_host_answers_over_ssh_and_so_does_its_engine(rig: Rig, user: str) -> None:
    engines = set()
    for host in rig.hosts:
        said = rig.ssh(
            host.name, "hostname; id -un; docker info --format '{{.ID}} {{.Driver}} {{.DockerRootDir}}'", user=user
        )
        hostname, account, engine = said.stdout.splitlines()
        identity, driver, root = engine.split()
        assert (hostname, account, driver, root) == (host.name, user, "overlay2", "/var/lib/docker")
        engines.add(identity)
    assert len(engines) == 3


def test_hosts_differ_where_machines_differ_and_reach_each_other_only(rig: Rig) -> None:
    peers = " ".join(host.address for host in rig.hosts)
    script = (
        "cat /etc/machine-id; ls /sys/class/net | xargs; ip route show default | wc -l; "
        f"for peer in {peers}; do exec 3<>/dev/tcp/$peer/22; head -c 4 <&3; done"
    )
    told = [rig.ssh(host.name, script).stdout.splitlines() for host in rig.hosts]
    assert [lines[1:] for lines in told] == [["eth0 lo", "0", "SSH-SSH-SSH-"]] * 3
    assert len({lines[0] for lines in told}) == 3
    assert len({host.fingerprint for host in rig.hosts}) == 3


def test_an_image_is_there_without_being_loaded(rig: Rig) -> None:
    first = rig.hosts[0]
    script = "import trainer, torch; print(trainer.__file__, torch.__version__)"
    said = first.docker("run", "--rm", "--network=host", rig.image, "python3", "-c", script)
    assert said.startswith("/opt/hetero/trainer/__init__.py 2.13.0")
    assert (
        first.docker(
            "run", "--rm", "--network=host", rig.image, "sh", "-c", "id -un; touch /hetero/control/a /hetero/output/a"
        )
        == "trainer"
    )


def test_a_host_that_removes_the_image_keeps_it_from_nobody(rig: Rig, trainer_image: TrainerImage) -> None:
    with Rig(hosts=1, image=trainer_image) as other:
        (host,) = other.hosts
        assert "Deleted: sha256:" in host.docker("rmi", rig.image)
        assert host.docker("images", "--quiet") == ""
        layers = [path.name for path in (host.data_root / "overlay2").iterdir()]
        assert layers == ["l"], "nothing is left of the layers either"
    for host in rig.hosts:
        assert host.docker("run", "--rm", "--network=host", rig.image, "echo", "still there") == "still there"


def test_faults_can_be_made_and_taken_back(rig: Rig) -> None:
    target, other = rig.hosts[1], rig.hosts[0]
    knock = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{target.address}/22'"

    target.iptables("-A", "INPUT", "-p", "tcp", "--dport", "22", "-s", other.address, "-j", "REJECT")
    assert other.run("sh", "-c", knock, check=False).returncode == 1
    target.iptables("-F", "INPUT")
    assert other.run("sh", "-c", knock).returncode == 0

    target.link_down()
    assert other.run("sh", "-c", knock, check=False).returncode == 124
    target.link_up()
    wait_for(lambda: other.run("sh", "-c", knock, check=False).returncode == 0, "the link coming back")

    target.tbf("8mbit")
    start = time.monotonic()
    rig.ssh(target.name, "head -c 1000000 /dev/zero")
    assert time.monotonic() - start > 0.8
    target.tbf("")

    target.docker("run", "--detach", "--init", "--name=sleeper", "--network=host", rig.image, "sleep", "60")
    target.set_cpu_quota("sleeper", 0.5)
    assert target.docker("inspect", "--format={{.HostConfig.NanoCpus}}", "sleeper") == "500000000"

    target.kill_engine()
    assert not target.engine_answers()
    target.start_engine()
    target.wait_engine()

    target.restart()
    assert target.docker("ps", "--all", "--format={{.Names}} {{.State}}") == "sleeper exited"
    assert rig.ssh(target.name, "hostname").stdout == f"{target.name}\n"


def test_nothing_is_left_of_a_rig(rig_cache: Path) -> None:
    with Rig(hosts=1) as rig:
        name, folder, leg = rig.id, rig.folder, rig.switch.leg
        assert leg in _interfaces()
        assert leftovers.processes(name)
        assert folder.exists()
    assert leftovers.processes(name) == []
    assert leftovers.cgroups(name) == []
    assert name not in Path("/proc/self/mountinfo").read_text()
    assert leg not in _interfaces()
    assert not folder.exists()


def test_two_rigs_at_once_have_networks_of_their_own(rig: Rig) -> None:
    with Rig(hosts=1) as other:
        assert other.hosts[0].address != rig.hosts[0].address
        assert other.ssh("h1", "hostname").stdout == "h1\n"
        with pytest.raises(RigError, match=r"timed out|unreachable"):
            call(*rig.hosts[1].enter("ssh", "-o", "ConnectTimeout=1", other.hosts[0].address, "true"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_rig_is_gone_at_once_or_swept_by_the_next(
    rig_cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = textwrap.dedent("""
        from tests.rig.hosts import Rig
        with Rig(hosts=1) as rig:
            print(rig.id, rig.switch.leg, flush=True)
            input()
    """)
    with (tmp_path / "stderr").open("w") as stderr:
        owner = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    with owner:
        assert owner.stdout is not None
        name, _, leg = owner.stdout.readline().strip().partition(" ")
        assert leftovers.processes(name), (tmp_path / "stderr").read_text()
        owner.send_signal(number)
        assert owner.wait(timeout=120) == -number, (tmp_path / "stderr").read_text()
    folder = rig_cache / "rigs" / name
    if number != signal.SIGKILL:
        assert not folder.exists()
    wait_for(lambda: leftovers.processes(name) == [], f"end of the processes of {name}")
    leftovers.Claim(rig_cache).release()  # as the next rig begins
    assert not folder.exists()
    assert leftovers.cgroups(name) == []
    wait_for(lambda: leg not in _interfaces(), "end of the rig's interface")

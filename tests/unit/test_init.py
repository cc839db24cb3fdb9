"""``init``: which machines ``~/.ssh/config`` names, and a file that the program itself accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_tui.init_file import Candidate, cluster_text
from hetero_tui.init_ssh_config import SshHost, ssh_hosts
from remote.facts import EngineSocket, Facts, Gpu
from remote.inventory import parse_inventory


@pytest.fixture(autouse=True)
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: relative includes are looked for in ``~/.ssh``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ssh"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_hosts_are_those_that_openssh_would_know(ssh: Path) -> None:
    config = write(
        ssh / "config",
        """
# Host comment
Include conf.d/*.conf
Host pc "old server" !not-me *.lan gpu-?
    HostName 10.0.0.5
host=laptop
  user = anna
Host laptop
  Port 2222
  ProxyJump bastion
Host straight
  ProxyJump none
Host github.com
  User git
Host code
  HostName gitlab.com
Match host pc
  User matched
Host *
  User everyone
  ProxyJump everywhere
""",
    )
    write(ssh / "conf.d" / "a.conf", "Host included\n  HostName inc.example\n  Include deeper\n")
    write(ssh / "deeper", "Host deep\n")
    found = {host.alias: host for host in ssh_hosts(config)}
    assert list(found) == ["included", "deep", "pc", "old server", "laptop", "straight"]
    assert found["included"] == SshHost("included", "inc.example", "everyone", 22, "everywhere")
    assert (found["laptop"].user, found["laptop"].port, found["laptop"].jump) == ("anna", 2222, "bastion")
    assert found["pc"].address == "10.0.0.5"
    assert found["straight"].jump == ""
    assert found["laptop"].described == "anna@laptop port 2222 through bastion"


def test_a_config_that_includes_itself_ends(ssh: Path) -> None:
    config = write(ssh / "config", "Include config\nHost a\n")
    with pytest.raises(ValueError, match="includes itself"):
        ssh_hosts(config)


def test_without_a_config_there_are_none(ssh: Path) -> None:
    assert ssh_hosts(ssh / "config") == ()


def test_a_broken_config_is_told(ssh: Path) -> None:
    with pytest.raises(ValueError, match="quotation"):
        ssh_hosts(write(ssh / "config", 'Host "a\n'))


def test_the_file_is_one_the_program_takes() -> None:
    gpu = Gpu(0, "RTX 3070 # \n[x]", "GPU-1", 8 << 30, "550", "8.6")
    pc = Facts("pc", system="Linux", gpus=(gpu,), engine_sockets=(EngineSocket("/var/run/docker.sock", writable=True),))
    taken = [
        Candidate("pc", "local", "this machine", pc),
        Candidate("old", "old.lan", "me@old.lan\n[evil]", Facts("old", system="Linux"), python="/opt/venv/bin/python"),
    ]
    text = cluster_text("home", taken, [Candidate("off", "off.lan", "off.lan", problem="no route\n[[hosts]]")])
    inventory = parse_inventory(text, "cluster.toml")
    assert [(host.name, host.address, host.runtime) for host in inventory.hosts] == [
        ("pc", "local", "docker"),
        ("old", "old.lan", "process"),
    ]
    assert inventory.master.name == "pc"
    assert inventory.hosts[1].python == "/opt/venv/bin/python"
    assert "# off did not answer: no route" in text
    assert '# address = "off.lan"' in text, "to be taken in once it answers"
    assert "hetero-trainer:cuda" in text
    assert all(line.startswith(("#", "[", '"')) or "=" in line or not line for line in text.splitlines())

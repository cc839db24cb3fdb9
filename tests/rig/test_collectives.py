"""Real containers on real hosts add up a tensor."""

from __future__ import annotations

import pytest

from tests.rig.hosts import Rig
from tests.rig.machine import wait_for

pytestmark = pytest.mark.rig

_SCRIPT = """
import datetime, torch, torch.distributed as group
group.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
value = torch.full((1_000_000,), float(group.get_rank() + 1))
group.all_reduce(value)
print(group.get_rank(), value[0].item(), value[-1].item(), flush=True)
group.barrier()
group.destroy_process_group()
"""


def test_three_containers_with_host_networking_all_reduce(rig: Rig) -> None:
    for rank, host in enumerate(rig.hosts):
        environment = {
            "RANK": rank,
            "WORLD_SIZE": len(rig.hosts),
            "MASTER_ADDR": rig.hosts[0].address,
            "MASTER_PORT": 29500,
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": 1,
        }
        settings = [f"--env={name}={value}" for name, value in environment.items()]
        options = ["--detach", "--init", "--network=host", "--name=sum", *settings]
        host.docker("run", *options, rig.image, "python3", "-c", _SCRIPT)

    def ended() -> bool:
        return all(host.docker("inspect", "--format={{.State.Running}}", "sum") == "false" for host in rig.hosts)

    wait_for(ended, "all_reduce in three containers", timeout=90, interval=0.2)
    assert [host.docker("logs", "sum") for host in rig.hosts] == ["0 6.0 6.0", "1 6.0 6.0", "2 6.0 6.0"]

"""Does torchft's DiLoCo work over Gloo on processors? Two replicas train a small model and must end up equal.

``python -m benchmarks.trainer_diloco`` measures; with a replica and a lighthouse it is one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import torch
from torch import nn

from benchmarks.report import Figure, Options, at_most, failed, main
from benchmarks.trainer_cluster import REPOSITORY

ID: Final = "torchft_diloco_difference"
REPLICAS: Final = 2
STEPS: Final = 48
SYNC_EVERY: Final = 8
START_SECONDS: Final = 120


def figures(options: Options) -> Iterator[Figure]:
    """Train both replicas and compare what they end up with."""
    if not options.wants(ID):
        return
    from torchft._torchft import LighthouseServer

    server = LighthouseServer(
        bind="127.0.0.1:0",
        min_replicas=REPLICAS,
        join_timeout_ms=1000,
        quorum_tick_ms=100,
        heartbeat_timeout_ms=2000,
    )
    lighthouse = f"http://127.0.0.1:{server.address().rpartition(':')[2]}"
    command = [sys.executable, "-m", "benchmarks.trainer_diloco"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen([*command, str(replica), lighthouse], env=environment, stdout=subprocess.PIPE, text=True)
        for replica in range(REPLICAS)
    ]
    try:
        answers = [process.communicate(timeout=START_SECONDS)[0] for process in processes]
        told = [json.loads(line) for text in answers for line in text.splitlines() if line.startswith('{"loss"')]
    except subprocess.TimeoutExpired:
        yield failed(ID, f"the replicas were not done within {START_SECONDS} s")
        return
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.shutdown()
    if len(told) != REPLICAS:
        yield failed(ID, "a replica ended before its last step")
        return
    difference = abs(told[0]["checksum"] - told[1]["checksum"])
    note = f"loss {told[0]['first']:.2f} to {told[0]['loss']:.2f} in {STEPS} steps, averaged every {SYNC_EVERY}"
    yield at_most(ID, difference, 0.0, "", anchor="the other replica's parameters", note=note)


def work(replica: int, lighthouse: str) -> None:
    """Be one replica."""
    from torch._C._distributed_c10d import TCPStore
    from torchft import Manager, ProcessGroupGloo
    from torchft.local_sgd import DiLoCo

    patience = timedelta(seconds=10)
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    truth = torch.randn(256, 10)
    inner = torch.optim.AdamW(model.parameters(), lr=1e-3)
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    manager: Manager = Manager(
        pg=ProcessGroupGloo(timeout=patience),
        load_state_dict=model.load_state_dict,
        state_dict=model.state_dict,
        min_replica_size=REPLICAS,
        # DiLoCo asks for it: a replica must not compute with parameters that are being replaced.
        use_async_quorum=False,
        timeout=patience,
        quorum_timeout=timedelta(seconds=60),
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=lighthouse,
        replica_id=f"replica{replica}",
        hostname="127.0.0.1",
    )
    generator = torch.Generator().manual_seed(replica)
    losses = []
    with DiLoCo(manager, [model], inner, outer, sync_every=SYNC_EVERY):
        for _ in range(STEPS):
            inputs = torch.randn(64, 256, generator=generator)
            inner.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), (inputs @ truth).argmax(1))
            torch.autograd.backward(loss)
            inner.step()
            losses.append(loss.item())
    checksum = sum(float(parameter.double().sum()) for parameter in model.parameters())
    print(json.dumps({"loss": losses[-1], "first": losses[0], "checksum": checksum}), flush=True)
    manager.shutdown(wait=False)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].isdigit():
        work(int(sys.argv[1]), sys.argv[2])
    else:
        sys.exit(main("trainer_diloco", figures))

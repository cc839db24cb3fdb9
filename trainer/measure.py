"""``python -m trainer.measure OPTIONS``: how quick this host's devices compute the job, before anything is launched.

Takes the options of ``python -m trainer`` and the agent's environment, does what every rank does of itself before
training, and prints one ``calibrated`` event for each device. Always on synthetic samples: forward and backward cost
the same, and no data set has to be there.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Final

from trainer.environment import read_host
from trainer.errors import TrainerError, UsageError
from trainer.events import Calibrated, encode
from trainer.options import Options, parse

SAMPLES: Final = 4096
"""Size of the synthetic data set; a larger micro-batch takes samples again."""


def main(arguments: Sequence[str]) -> int:
    """Measure and return the exit status: 2 for a mistake in the call, 1 for a device that does not work."""
    try:
        options = parse(arguments)
        if options.script:
            raise UsageError("a script of your own has no speed before it runs: only built-in workloads are measured")
        for position, device in enumerate(read_host().devices):
            print(encode(_measure(options, position, device)), flush=True)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (TrainerError, RuntimeError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: Options, position: int, device: str) -> Calibrated:
    import torch

    from trainer.learner import Learner
    from trainer.speed import calibrate, sizes
    from trainer.workloads import IMAGE_WORKLOADS, build

    synthetic = "synthetic_images" if options.workload in IMAGE_WORKLOADS else "synthetic_text"
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    chosen = dataclasses.replace(options, dataset=synthetic, samples=min(SAMPLES, options.samples))
    simulated = read_host().simulated_samples_per_second
    learner = Learner(build(chosen), chosen, device=device, world_size=1, simulated_samples_per_second=simulated)
    found = calibrate(
        learner.probe,
        sizes(chosen.micro_batch, chosen.global_batch, device),
        device=device,
        simulated_samples_per_second=simulated,
    )
    return Calibrated(
        rank=position,
        samples_per_second=found.samples_per_second,
        table=found.table,
        max_micro_batch=found.max_micro_batch,
        bytes_per_sample=found.bytes_per_sample,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

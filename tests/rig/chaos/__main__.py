"""Many rounds of faults: ``python -m tests.rig.chaos --rounds 200 [--seed 7] [--runtime docker]``.

With ``--offline 300`` the client is off the network for five minutes of one run instead, and with ``--suspended 60`` it
stands still for a minute, as under a closed lid.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.rig.chaos.away import Away
from tests.rig.chaos.driver import chaos
from tests.rig.chaos.world import World, as_json
from tests.rig.hosts import Rig
from tests.rig.image import prepare_image
from tests.rig.places import cache_folder


def main() -> int:
    """Play, print a line a round and a summary, and return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--runtime", choices=("process", "docker"), default="process")
    away = parser.add_mutually_exclusive_group()
    away.add_argument("--offline", type=float, metavar="SECONDS")
    away.add_argument("--suspended", type=float, metavar="SECONDS")
    chosen = parser.parse_args()
    began = time.monotonic()
    image = prepare_image(cache_folder())

    def say(text: str) -> None:
        print(text, flush=True)

    with (
        Rig(hosts=3, image=image) as rig,
        tempfile.TemporaryDirectory(prefix="hetero-chaos-") as folder,
        chaos(World(rig, chosen.runtime), Path(folder), chosen.seed, say) as playing,
    ):
        for way in ("offline", "suspended"):
            if (seconds := getattr(chosen, way)) is not None:
                seen = Away(way, seconds)
                playing.play_away(seen)
                say(as_json(asdict(seen) | {"runtime": chosen.runtime}))
                return 1 if seen.violations else 0
        summary = playing.play(chosen.rounds)
    for each in summary.violations:
        say(f"violation in round {each.round}: {each.faults}: {each.what}")
    result = {
        "runtime": chosen.runtime,
        "seed": summary.seed,
        "rounds": summary.rounds,
        "launches": summary.launches,
        "lines": summary.lines,
        "violations": len(summary.violations),
        "failed_seeds": summary.failed_seeds,
        "slowest_stop_seconds": round(summary.slowest_stop, 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    say(as_json(result))
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.fuzz [--seconds 60] [TARGET ...]``: fuzz some targets, or all, guided by the code they reach.

Needs the extra ``fuzz`` (atheris). The corpus grows in ``.hypothesis/guided``; HOME is a folder of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.guided import targets

CORPUS: Final = Path(".hypothesis/guided")
INPUT_SECONDS: Final = 20
"""An input that takes longer hangs."""
MEMORY_MB: Final = 3000
INPUT_BYTES: Final = 8192
SEEDS: Final = 32


def main() -> int:
    """Return 0 when nothing was found, 1 when something was, 2 for a mistake in the call."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default %(default)s)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names, or parts of names; all when left out")
    given = parser.parse_args()
    known = targets()
    wanted = [name for name in known if not given.targets or any(part in name for part in given.targets)]
    if not wanted:
        print("\n".join(["there are:", *known]), file=sys.stderr)
        return 2
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install -c constraints.txt -e '.[trainer,dev,fuzz]'", file=sys.stderr)
        return 2
    found = [name for name in wanted if not _fuzz(known[name].__module__, name, given.seconds)]
    print(f"{len(wanted)} targets, {given.seconds} s each; found something: {', '.join(found) or 'none'}")
    for name in found:
        print(f"  see it small: python -m pytest tests/fuzz -k test_{name}, and keep it there as an @example")
    return 1 if found else 0


def _fuzz(module: str, name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own, for a crash or a hang ends it; return whether all was well."""
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    _seed(corpus)
    arguments = [
        str(corpus), f"-artifact_prefix={corpus}-", f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}", f"-max_len={INPUT_BYTES}", "-len_control=0", "-print_final_stats=1",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hetero-fuzz-home-") as home:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", module, name, *arguments],
            check=False, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8", errors="replace",
            env={**os.environ, "HOME": home},
        )  # fmt: skip
    told = done.stderr.splitlines()
    print(f"{'ok   ' if done.returncode == 0 else 'FOUND'} {name}: {figures(done.stderr)}", flush=True)
    if done.returncode != 0:
        print("\n".join(told[-60:]), flush=True)
    return done.returncode == 0


def _seed(corpus: Path) -> None:
    """Begin with bytes of many lengths: from none, libFuzzer needs long to grow what draws a whole input."""
    chance = random.Random(0)
    for number in range(SEEDS):
        content = chance.randbytes(8 << number % 8)
        (corpus / f"seed-{number:02}").write_bytes(content)


def figures(told: str) -> str:
    """Return what libFuzzer says at the end: inputs, code reached at the beginning and now, when last anything new."""
    reached = re.findall(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)", told, re.MULTILINE)
    if not reached:
        return "no code reached"
    runs, new = reached[-1][0], [each for each in reached if each[1] == "NEW"]
    last = new[-1][0] if new else reached[0][0]
    edges, features = (f"{reached[0][at]} to {reached[-1][at]}" for at in (2, 3))
    return f"{runs} inputs; edges {edges}; features {features}; last new at input {last}"


if __name__ == "__main__":
    sys.exit(main())

"""``python -m trainer``: the agent of one host, or a whole run of one rank for a person who tries it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainer.agent import run_host
from trainer.environment import read_host
from trainer.errors import TrainerError
from trainer.events import Emitter, Failed
from trainer.options import parse


def main(arguments: Sequence[str]) -> int:
    """Run this host's part and return the exit code."""
    try:
        options = parse(arguments)
        host = read_host()
        return run_host(host, options, arguments)
    except TrainerError as error:
        Emitter(-1, sys.stdout.write).emit(Failed, error=str(error), exit_code=error.exit_code)
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

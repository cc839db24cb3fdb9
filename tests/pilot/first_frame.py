"""Opens the app on a cluster file without a terminal and writes down what it has at first contact, then leaves.

``python -m tests.pilot.first_frame CLUSTER ANSWER``: ANSWER gets a JSON object with the loaded ``modules`` and what is
``painted``. It runs in an interpreter of its own, because the one of the tests has loaded everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import hetero_tui.cli  # noqa: F401 - the command is loaded first, as for a person


def main(cluster: Path, answer: Path) -> None:
    """Open, write, leave."""
    os.environ["TEXTUAL_DRIVER"] = "textual.drivers.headless_driver:HeadlessDriver"
    from hetero_tui import contact, interactive

    def connect(self: contact.Contact, *, look_for_runs: bool) -> None:
        assert look_for_runs
        modules = sorted(sys.modules)
        from tests.pilot.painted import text

        answer.write_text(json.dumps({"modules": modules, "painted": text(self._app)}))
        self._app.exit(0)

    contact.Contact.connect = connect  # type: ignore[method-assign]
    interactive.run(cluster, experiments=cluster.parent, readonly=False, ascii_only=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

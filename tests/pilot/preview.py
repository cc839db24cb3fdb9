"""Look at the screens with a scripted cluster: ``python -m tests.pilot.preview [options]``."""

from __future__ import annotations

import argparse
import time

from hetero_tui.app import HeteroApp
from tests.pilot.fake_session import HOSTS, FakeHost, FakeSession, earlier_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auto", action="store_true", help="launch by itself")
    parser.add_argument("--failing", action="store_true", help="one check fails")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--ascii", action="store_true")
    parser.add_argument("--readonly", action="store_true")
    parser.add_argument("--earlier", action="store_true", help="an earlier run is found")
    parser.add_argument("--hosts", type=int, default=len(HOSTS))
    parser.add_argument("--pace", type=float, default=0.15)
    options = parser.parse_args()
    hosts = [HOSTS[index % len(HOSTS)] for index in range(options.hosts)]
    if options.hosts > len(HOSTS):
        hosts = [
            FakeHost(f"node{index:03}", host.speed, host.device, host.device_name) for index, host in enumerate(hosts)
        ]
    session = FakeSession(
        fake_hosts=hosts, simulated=options.simulated, failing=options.failing, pace=options.pace,
        global_batch=max(192, 16 * options.hosts), earlier=earlier_run() if options.earlier else (),
    )  # fmt: skip
    session.event_seconds = time.time()
    app = HeteroApp(session, auto_launch=options.auto, readonly=options.readonly, ascii_only=options.ascii)
    app.run()
    raise SystemExit(app.return_code)


if __name__ == "__main__":
    main()

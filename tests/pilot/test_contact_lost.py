"""Hosts that cannot be heard while their run is watched."""

from __future__ import annotations

import pytest

from remote.progress import HostStatus
from tests.pilot.painted import shows, text, until
from tests.pilot.test_flow import make, monitoring


@pytest.mark.parametrize("columns", [80, 120])
async def test_lost_hosts_are_named_until_they_are_back_whatever_is_being_tried(columns: int) -> None:
    session = make()
    async with monitoring(session, (columns, 35)) as (app, pilot, _screen):
        for phase in ("lost", "connecting", "failed"):
            session.hosts["laptop"] = HostStatus("laptop", phase, "no answer")
            session.hosts["gaming-pc"] = HostStatus("gaming-pc", phase, "no answer")
            await shows(pilot, "samples/s", "! no connection to gaming-pc, laptop")
        for name in session.hosts:
            session.hosts[name] = HostStatus(name, "lost", "no answer")
        await shows(pilot, "! no connection to 4 of 4 hosts")
        for name in session.hosts:
            session.hosts[name] = HostStatus(name, "connected")
        await until(pilot, lambda: "no connection to" not in text(app))

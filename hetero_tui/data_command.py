"""``hetero-tui data``: the same data set on every host, compared and brought without a screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hetero_tui import data_report, exit_codes, headless
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.image_report import size_text
from hetero_tui.output import print_json, say, show
from remote.errors import RemoteError
from remote.inventory import load_inventory


async def run(cluster: Path, *, bring: bool, contents: bool, as_json: bool) -> int:
    """Print how each host's data set differs from the master's, and bring what is missing when asked to."""
    session = ClusterSession(load_inventory(cluster), experiments=Path("experiments"))
    try:
        await session.connect(headless.ask_host_key)
        session.require_all_connected()
        return await _run(session, bring=bring, contents=contents, as_json=as_json)
    finally:
        await session.close()


async def _run(session: ClusterSession, *, bring: bool, contents: bool, as_json: bool) -> int:
    preflight = session.preflight
    names = (session.inventory.master.name, session.inventory.training.data_dir)
    state = await preflight.look_at_data(contents=contents)
    failures: Mapping[str, RemoteError] = {}
    if bring:
        say(data_report.data_text(*names, state))
        failures = await preflight.bring_data(state, _Ticker())
        for error in failures.values():
            say(str(error))
        state = await preflight.look_at_data(contents=contents)
    if as_json:
        told = {name: error.message for name, error in failures.items()}
        document = data_report.data_document(*names, state, told, brought=bring)
        print_json(document)
    else:
        show(data_report.data_text(*names, state))
        if state.to_bring and not bring:
            print("Nothing was moved. `hetero-tui data --bring` brings what is missing.")
    return exit_codes.OK if state.is_same and not failures else exit_codes.FAILED


class _Ticker:
    """Tells on standard error how far it is: a line a host whenever a tenth has arrived."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def __call__(self, host: str, arrived: int, total: int) -> None:
        tenth = 10 * arrived // total if total else 10
        if self._tenths.get(host) != tenth:
            self._tenths[host] = tenth
            say(f"{host} has {size_text(arrived)} of {size_text(total)}")

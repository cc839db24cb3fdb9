"""``hetero-tui cluster.toml``: the app on the real session."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hetero_tui import exit_codes
from hetero_tui.app import HeteroApp
from hetero_tui.cluster_session import ClusterSession
from remote.inventory import load_inventory


def run(cluster: Path, *, experiments: Path, readonly: bool, ascii_only: bool) -> int:
    """Open the app and return its exit code. Quitting leaves training running.

    Raises:
        InventoryError: ``cluster.toml`` has mistakes.
    """
    session = ClusterSession(
        load_inventory(cluster),
        inventory_text=cluster.read_text("utf-8"),
        experiments=experiments,
        readonly=readonly,
    )
    code = asyncio.run(_open(session, readonly=readonly, ascii_only=ascii_only))
    if session.run_id and not session.store.cluster_view().state.ended:
        print(f"Training goes on. `hetero-tui {cluster}` reattaches; `hetero-tui stop {cluster}` ends it.")
    return code


async def _open(session: ClusterSession, *, readonly: bool, ascii_only: bool) -> int:
    app = HeteroApp(session, readonly=readonly, ascii_only=ascii_only)
    try:
        await app.run_async()
    finally:
        await session.close()
    return exit_codes.FAILED if app.return_code else exit_codes.OK

"""``hetero-tui cluster.toml``: the app on the real session."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

from hetero_tui import exit_codes
from hetero_tui.app import HeteroApp
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.settings import Settings, load_settings
from remote.errors import UserError
from remote.inventory import load_inventory


def run(cluster: Path, *, experiments: Path, readonly: bool, ascii_only: bool, metrics: int | None = None) -> int:
    """Open the app and return its exit code. Quitting leaves training running.

    Raises:
        InventoryError: ``cluster.toml`` has mistakes.
        UserError: the person's settings have mistakes.
    """
    settings = load_settings(os.environ)
    session = ClusterSession(
        load_inventory(cluster),
        inventory_text=cluster.read_text("utf-8"),
        experiments=experiments,
        readonly=readonly,
    )
    code = asyncio.run(_open(session, settings, readonly=readonly, ascii_only=ascii_only, metrics=metrics))
    if session.run_id and not session.store.cluster_view().state.ended:
        print(f"Training goes on. `hetero-tui {cluster}` reattaches; `hetero-tui stop {cluster}` ends it.")
    return code


def require_screen(cluster: Path, lacking: str) -> None:
    """Refuse to draw where nobody sees it; mistakes in the file are told first.

    Raises:
        InventoryError: ``cluster.toml`` has mistakes.
        UserError: ``lacking`` says why there is no screen.
    """
    if not lacking:
        return
    load_inventory(cluster)
    raise UserError(
        f"the app needs a terminal to draw on, and {lacking}",
        next_step="`hetero-tui check`, `up`, `status`, `watch`, `logs` and `stop` do the same without one",
    )


async def _open(
    session: ClusterSession, settings: Settings, *, readonly: bool, ascii_only: bool, metrics: int | None
) -> int:
    app = HeteroApp(session, readonly=readonly, ascii_only=ascii_only, settings=settings)
    try:
        async with AsyncExitStack() as stack:
            if metrics is not None:
                from hetero_tui.metrics import metrics_server

                await stack.enter_async_context(metrics_server(session, metrics, simulated=session.simulated))
            await app.run_async()
    finally:
        await session.close()
    return exit_codes.FAILED if app.return_code else exit_codes.OK

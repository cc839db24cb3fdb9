"""``hetero-tui demo``: the whole path on this machine, with three embedded SSH hosts and simulated speeds.

Nothing of the path is left out: real SSH with keys made on the spot, the real checklist, the real launch, real ranks
training a real model. Only the speeds are simulated, and every screen says so.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from hetero_tui import exit_codes, headless, run_to_end
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.metrics import metrics_server
from remote.embedded import EmbeddedCluster, EmbeddedHost, embedded_hosts
from remote.errors import UserError
from remote.inventory import Inventory, parse_inventory

HEADLESS_SAMPLES: Final = 4000
HEADLESS_EPOCHS: Final = 3
"""About half a minute: enough to see the loss fall and the shares settle. The file's own size is for the screen."""


def run(*, without_screen: bool, as_json: bool, ascii_only: bool, experiments: Path, metrics: int | None = None) -> int:
    """Run the demo and return its exit code. The hosts go with it; the run is kept below ``experiments``.

    Raises:
        UserError: the trainer is not installed in this environment.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the demo trains for real and needs torch in this environment",
            next_step="pip install 'hetero-tui[trainer]', or `make demo` in a clone",
        )
    if without_screen:
        return asyncio.run(_headless(experiments, metrics, as_json=as_json))
    return asyncio.run(_on_screen(experiments, metrics, ascii_only=ascii_only))


async def _headless(experiments: Path, metrics: int | None, *, as_json: bool) -> int:
    async with demo_session(experiments, epochs=HEADLESS_EPOCHS, samples=HEADLESS_SAMPLES) as session:
        try:
            await session.connect(headless.ask_host_key)
            if not await headless.run_checklist(session):
                return headless.refuse(session, as_json=as_json)
        except asyncio.CancelledError:
            run_to_end.print_not_begun(as_json=as_json)
            raise
        async with metrics_server(session, metrics, simulated=True):
            return await run_to_end.launch_and_follow(session, as_json=as_json)


async def _on_screen(experiments: Path, metrics: int | None, *, ascii_only: bool) -> int:
    from hetero_tui.app import HeteroApp
    from hetero_tui.settings import load_settings

    settings = load_settings(os.environ)
    async with demo_session(experiments) as session:
        app = HeteroApp(session, auto_launch=True, run_ends_with_app=True, ascii_only=ascii_only, settings=settings)
        async with metrics_server(session, metrics, simulated=True):
            await app.run_async()
        run_id = session.run_id
    if run_id:
        print(f"`hetero-tui replay {run_id}` plays the run again; `hetero-tui report {run_id}` writes a page about it.")
    return exit_codes.FAILED if app.return_code else exit_codes.OK


@asynccontextmanager
async def demo_session(experiments: Path | None = None, **training: int) -> AsyncIterator[ClusterSession]:
    """Bring up the embedded hosts and a session on them; leaving ends the run and takes the hosts down.

    The run is kept below ``experiments``, and nowhere when that is left out. ``training`` overrides keys of the file's
    ``[training]`` section.
    """
    template = _template()
    hosts = [EmbeddedHost(host.name) for host in template.hosts]
    with tempfile.TemporaryDirectory(prefix="hetero-demo-") as folder:
        async with embedded_hosts(hosts, folder=Path(folder)) as cluster:
            inventory = _on_embedded_hosts(template, cluster, training)
            session = ClusterSession(inventory, experiments=experiments or Path(folder) / "runs")
            try:
                yield session
            finally:
                if session.run_id:
                    await session.stop(lambda _progress: None, discard=True)
                await session.close()


def config_text(name: str) -> str:
    """Return one of the files under ``configs/``, from the wheel or from the source tree."""
    packaged = resources.files("hetero_tui") / "configs" / name
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parent.parent / "configs" / name).read_text("utf-8")


def _template() -> Inventory:
    return parse_inventory(config_text("demo.toml"), "demo.toml")


def _on_embedded_hosts(template: Inventory, cluster: EmbeddedCluster, training: Mapping[str, int]) -> Inventory:
    """Return the template with the addresses, ports and keys that were made on the spot."""
    hosts = tuple(
        host.model_copy(
            update={
                **cluster[host.name]
                .inventory_host()
                .model_dump(include={"address", "port", "user", "identity_file", "host_key", "runtime"}),
                "python": sys.executable,
            }
        )
        for host in template.hosts
    )
    return template.model_copy(
        update={
            "hosts": hosts,
            "training": template.training.model_copy(update=training),
            "cluster": template.cluster.model_copy(update={"port": _free_port()}),
        }
    )


def _free_port() -> int:
    """Return a free port outside the range the system hands out, so that nothing can take it meanwhile."""
    for port in range(29500, 29600):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # in use, perhaps by another demo
            return port
    raise UserError("ports 29500 to 29599 are all in use", next_step="end what holds them: ss -ltnp")

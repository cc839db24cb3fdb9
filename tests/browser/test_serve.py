"""``hetero-tui serve`` as a person uses it: in a browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from hetero_tui.serve_command import is_loopback
from tests.browser.chromium import browser, chromium
from tests.ssh.checking import free_port
from tests.ssh.waiting import until

pytestmark = pytest.mark.slow

CLUSTER = """
[cluster]
name = "home"
[training]
workload = "simple_cnn"
global_batch = 64
[[hosts]]
name = "pc"
address = "127.0.0.1"
port = {closed}
user = "anna"
runtime = "process"
"""


@contextmanager
def served(folder: Path, port: int) -> Iterator[psutil.Process]:
    """A server for a cluster of one host where nothing listens."""
    (folder / "cluster.toml").write_text(CLUSTER.format(closed=free_port()), encoding="utf-8")
    command = [sys.executable, "-m", "hetero_tui", "serve", "--port", str(port), "cluster.toml"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def command() -> str:
    """The browser's command; ``tests/rig/install.sh`` installs one in CI."""
    found = browser()
    if found is None:
        assert os.environ.get("CI") != "true", "tests/rig/install.sh installs a Chromium in CI"
        pytest.skip("no Chromium here (on Debian: apt-get install chromium-headless-shell)")
    return found


async def test_the_checklist_in_a_browser(command: str, tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, port) as server:
        async with chromium(command, tmp_path / "browser") as devtools:
            await until(lambda: accepts(port), 60)
            listening = [each for each in server.net_connections() if each.status == psutil.CONN_LISTEN]
            assert listening
            assert all(is_loopback(each.laddr.ip) for each in listening)
            assert server.children(recursive=True) == []

            # By another name than the one the server was given, as through a forwarded port.
            tab = await devtools.tab(f"http://localhost:{port}/")
            await tab.shows("hetero-tui", "SSH login", "refused the")
            assert await tab.picture(tmp_path / "page.png") > 20, "drawn, not only received"
            asked = set(await tab.evaluate("performance.getEntriesByType('resource').map((each) => each.name)"))
            blocked = set(await tab.evaluate("keptBlocked"))
            assert {urlsplit(each).netloc for each in asked - blocked} == {f"localhost:{port}"}
            assert {urlsplit(each).netloc for each in blocked} == {"fonts.googleapis.com"}, "and nothing the page needs"

            # Nobody has clicked on the page yet.
            await tab.press("p")
            shown = await tab.shows("No prediction yet")
            assert "SSH login" not in shown

            apps = server.children(recursive=True)
            assert any("hetero_tui" in app.cmdline() for app in apps)
            await tab.close()
            await until(lambda: not any(app.is_running() for app in apps), 60)
        assert server.is_running(), "it waits for the next tab"

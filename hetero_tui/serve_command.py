"""``hetero-tui serve``: the app in a browser, over textual-serve.

textual-serve asks nobody for a password and starts a program for whoever opens its page. So the address is loopback
unless it is forced, and a request is answered only when it names this server: any web page could otherwise reach it
through the browser of the person who runs it (WebSockets know no same-origin rule).
"""

from __future__ import annotations

import importlib.util
import ipaddress
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hetero_tui import exit_codes
from remote.errors import UserError
from remote.inventory import load_inventory

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def run(command: Sequence[str], *, host: str, port: int, expose: bool) -> int:
    """Serve until interrupted.

    Args:
        command: words of the command line that opens the app.
        host: address to listen on.
        port: port to listen on.
        expose: addresses beyond loopback are meant.

    Raises:
        UserError: textual-serve is not installed, the address is not loopback, there is nothing to open, or the
            cluster.toml has a mistake, which each tab could only end with.
    """
    if importlib.util.find_spec("textual_serve") is None:
        raise UserError("textual-serve is not installed", next_step="pip install 'hetero-tui[serve]'")
    if not command or not (command[0] in ("demo", "replay") or command[0].endswith(".toml")):
        raise UserError(
            f"{' '.join(command) or 'nothing'} cannot be opened in a browser",
            next_step="give your cluster.toml, or demo, or replay RUN",
        )
    if not expose and not is_loopback(host):
        raise UserError(
            f"{host} can be reached by others, who could use your SSH keys through the app: there is no password",
            next_step="ssh -L PORT:localhost:PORT this machine, or --expose where everybody may",
        )
    if command[0].endswith(".toml"):
        load_inventory(Path(command[0]))
    from hetero_tui.serve_page import GuardedServer

    line = shlex.join([sys.executable, "-m", "hetero_tui", *command])
    GuardedServer(line, host=host, port=port, expose=expose).serve()
    return exit_codes.OK


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_ours(host: str, origin: str | None, *, expose: bool) -> bool:
    """Tell whether a request comes from this server's own page.

    Args:
        host: its ``Host`` header.
        origin: its ``Origin`` header, which a browser always sends with a WebSocket.
        expose: names beyond loopback are meant too.
    """
    if not expose and (urlsplit(f"//{host}").hostname or "") not in LOOPBACK_NAMES:
        return False
    return origin is None or urlsplit(origin).netloc == host


def page_policy(host: str) -> str:
    """Return the ``Content-Security-Policy`` that keeps a page to this server, so that it also loads without internet.

    textual-serve's page asks Google for a font and shows nothing until that has failed; its scripts are inline. No
    other page may show it in a frame, where a click or key meant for that page could reach the app.

    Args:
        host: the ``Host`` header of the request for the page.
    """
    return (
        f"default-src 'self'; connect-src 'self' ws://{host}; img-src 'self' data:; font-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
    )

"""textual-serve, answering its own page only. Needs the extra ``serve``."""

from __future__ import annotations

from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server, to_int

from hetero_tui.serve_command import is_ours, page_policy

TAKE_KEYS: Final = """
<script>
  window.addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
</script>
"""
"""xterm.js gets keys once it is clicked; here it gets them at once."""


class GuardedServer(Server):
    """Refuses every request that does not come from this server's own page."""

    def __init__(self, command: str, *, host: str, port: int, expose: bool) -> None:
        super().__init__(command, host=host, port=port, title="hetero-tui")
        self._expose = expose

    async def _make_app(self) -> web.Application:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not is_ours(request.host, request.headers.get("Origin"), expose=self._expose):
                raise web.HTTPForbidden(text="this page is for its own server only")
            return await handler(request)

        app = await super()._make_app()
        app.middlewares.append(guard)
        return app

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """Return the page, which asks for everything where it was itself asked for: also through a forwarded port."""
        context: dict[str, Any] = {
            "font_size": to_int(request.query.get("fontsize", "16"), 16),
            "app_websocket_url": f"ws://{request.host}/ws",
            "config": {"static": {"url": "/static/"}},
            "application": {"name": self.title},
        }
        page = aiohttp_jinja2.render_template("app_index.html", request, context)
        page.text = f"{page.text}{TAKE_KEYS}"
        page.headers["Content-Security-Policy"] = page_policy(request.host)
        return page

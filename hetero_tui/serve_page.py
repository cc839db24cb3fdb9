"""textual-serve, answering its own page only. Needs the extra ``serve``."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

from hetero_tui.serve_command import is_ours


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

"""The command palette: every action, and hosts and ranks as things to go to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.command import DiscoveryHit, Hit, Hits, Provider

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp

MAX_DISCOVERED = 40


class RunCommands(Provider):
    """Entries follow the state of the run."""

    def _entries(self) -> Iterator[tuple[str, str, Callable[[], object]]]:
        from hetero_tui.app import HeteroApp

        app = self.app
        assert isinstance(app, HeteroApp)
        yield from self._actions(app)
        for host in app.session.inventory.hosts:
            yield f"Log of host {host.name}", "Lines of this host", partial(app.show_log, None, host.name)
        for rank in app.session.store.ranks:
            view = app.session.store.rank_view(rank)
            yield f"Log of rank {rank} on {view.host}", "Lines of this rank", partial(app.show_log, rank)

    def _actions(self, app: HeteroApp) -> Iterator[tuple[str, str, Callable[[], object]]]:
        for action, title, about in (
            ("review_plan", "Launch: review the plan", "Nothing is started before you confirm"),
            ("show_monitor", "Monitor", "The live view of the run"),
            ("show_checklist", "Checklist", "The setup checklist"),
            ("pause_run", "Pause or resume training", "All ranks stop at the same step"),
            ("slow_host", "Slow a simulated host", "Changes the simulated speed of a host of the demo"),
            ("policy", "Change the balance policy", "How the global batch is shared out"),
            ("checkpoint", "Write a checkpoint now", "At the end of the current step"),
            ("stop_run", "Stop the run", "Ends training on every host, after a question"),
        ):
            if app.check_action(action, ()):
                yield title, about, partial(app.run_action, action)

    async def discover(self) -> Hits:
        """List the first entries."""
        for index, (title, about, call) in enumerate(self._entries()):
            if index >= MAX_DISCOVERED:
                return
            yield DiscoveryHit(title, call, help=about)

    async def search(self, query: str) -> Hits:
        """List what matches."""
        matcher = self.matcher(query)
        for title, about, call in self._entries():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), call, help=about)

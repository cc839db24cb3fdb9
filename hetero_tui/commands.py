"""The command palette: every action, and hosts and ranks as things to go to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from textual.command import DiscoveryHit, Hit, Hits, Provider

if TYPE_CHECKING:
    from hetero_tui.app import HeteroApp

MAX_DISCOVERED: Final = 40
SCREENS: Final = (
    ("review_plan", "Launch: review the plan", "Nothing is started before you confirm"),
    ("show_monitor", "Monitor", "The live view of the run"),
    ("show_checklist", "Checklist", "The setup checklist"),
    ("jump", "Jump to a pane", "A letter on every pane"),
)
ACTIONS: Final = (
    ("pause_run", "Pause training", "All ranks stop after the same step"),
    ("resume_run", "Resume training", "All ranks go on"),
    ("slow_host", "Slow a simulated host", "Changes the simulated speed of the host under the cursor"),
    ("policy", "Change the balance policy", "How the global batch is shared out"),
    ("checkpoint", "Write a checkpoint now", "After the current step"),
    ("stop_run", "Stop the run", "Ends training on every host, after a question"),
)
HOST_ACTIONS: Final = (
    (
        "exclude_host",
        "Exclude",
        "It computes nothing until it is admitted again, after a question with what that costs",
    ),
    ("admit_host", "Admit", "It gets a share again from the next step on"),
)


class RunCommands(Provider):
    """Entries follow the state of the run; behind them are those of any app.

    One provider for all: Textual asks several of them in the order of a set, another one at every start.
    """

    def _entries(self) -> Iterator[tuple[str, str, Callable[[], object]]]:
        from hetero_tui.app import HeteroApp

        app = self.app
        assert isinstance(app, HeteroApp)
        yield from self._actions(app)
        for host in app.session.inventory.hosts:
            yield f"Ranks of host {host.name}", "The overview with this host only", partial(app.show_host, host.name)
            yield f"Log of host {host.name}", "Lines of this host", partial(app.show_log, None, host.name)
            for action, title, about in HOST_ACTIONS:
                if app.control.offers(action, host.name):
                    yield f"{title} host {host.name}", about, partial(app.control.perform, action, host.name)
        for rank in app.session.store.ranks:
            view = app.session.store.rank_view(rank)
            yield f"Log of rank {rank} on {view.host}", "Lines of this rank", partial(app.show_log, rank)

    def _actions(self, app: HeteroApp) -> Iterator[tuple[str, str, Callable[[], object]]]:
        for action, title, about in SCREENS:
            if app.check_action(action, ()):
                yield title, about, partial(app.run_action, action)
        for action, title, about in ACTIONS:
            if app.control.offers(action):
                yield title, about, partial(app.action_run, action)

    async def discover(self) -> Hits:
        """List the first entries."""
        for title, about, call in islice(self._entries(), MAX_DISCOVERED):
            yield DiscoveryHit(title, call, help=about)
        async for hit in self._of_any_app().discover():
            yield hit

    async def search(self, query: str) -> Hits:
        """List what matches."""
        matcher = self.matcher(query)
        for title, about, call in self._entries():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), call, help=about)
        async for hit in self._of_any_app().search(query):
            yield hit

    def _of_any_app(self) -> Provider:
        from textual.system_commands import SystemCommandsProvider

        return SystemCommandsProvider(self.screen, self.match_style)

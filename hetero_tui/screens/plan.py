"""The launch plan as text, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from hetero_tui.sanitize import clean
from hetero_tui.screens.base import LiveScreen
from hetero_tui.widgets.key_footer import KeyFooter

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol
    from remote.plan import HostPlan, LaunchPlan

Piece = Content | str | tuple[str, str]


def plan_text(plan: LaunchPlan, *, full: bool) -> Content:
    """Return the plan for a person. ``full`` adds every environment variable, label and mount."""
    pieces: list[Piece] = [
        ("Run ", "bold"), (clean(plan.run_id), "bold $text-accent"), f" on cluster {clean(plan.cluster)}\n",
        f"  {plan.world_size} ranks on {len(plan.hosts)} hosts, backend {plan.backend}, ",
        f"global batch {plan.global_batch}, policy {clean(plan.policy)}\n",
        f"  rendezvous at {clean(plan.master_address)}:{plan.master_port} on {clean(plan.master)}\n",
    ]  # fmt: skip
    pieces += [(f"  {clean(note)}\n", "$muted") for note in plan.notes]
    for host in plan.hosts:
        pieces += _host(host, full=full)
    if not full:
        pieces.append(("\ne shows every environment variable, label and mount\n", "$muted"))
    return Content.assemble(*pieces)


def _host(host: HostPlan, *, full: bool) -> list[Piece]:
    devices = ", ".join(f"rank {rank.rank} on {clean(rank.device)}" for rank in host.ranks)
    pieces: list[Piece] = ["\n", (clean(host.host), "bold $text-success"), f"  {devices}"]
    if host.simulated:
        pieces.append(("  simulated speed", "bold $text-warning"))
    what = f"container {clean(host.container_name)}\n  from {clean(host.image)}"
    if host.runtime == "process":
        what = "processes without a container"
    pieces.append(f"\n  {what}, network {clean(host.network_mode)}\n")
    pieces += [("  $ ", "$muted"), f"{clean(' '.join(host.argv))}\n"]
    if full:
        pieces += [(f"    {clean(name)}={clean(value)}\n", "$muted") for name, value in host.env]
        pieces += [(f"    label {clean(name)}={clean(value)}\n", "$muted") for name, value in host.labels]
        pieces += [
            (f"    mount {clean(source)} -> {clean(target)} ({mode})\n", "$muted")
            for source, target, mode in host.mounts
        ]
    return pieces


class PlanScreen(LiveScreen):
    """Shows the plan and asks for the word to go."""

    TITLE = "Launch plan"
    HELP = "What will be started where. Nothing has been changed on any host yet."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "app.launch", "Launch now", id="plan.launch"),
        Binding("e", "toggle_full", "Environment", id="plan.full"),
        Binding("escape,b", "app.back", "Back", id="plan.back"),
    ]

    def __init__(self, session: SessionProtocol, plan: LaunchPlan) -> None:
        super().__init__(session)
        self.plan = plan
        self._full = False

    def compose(self) -> ComposeResult:
        """Header, text, footer."""
        yield self.header()
        with VerticalScroll(id="plan-scroll"):
            yield Static(plan_text(self.plan, full=False), id="plan-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Scroll with the keys at once."""
        super().on_mount()
        self.query_one("#plan-scroll").focus()

    def action_toggle_full(self) -> None:
        """Show or hide environment, labels and mounts."""
        self._full = not self._full
        self.query_one("#plan-text", Static).update(plan_text(self.plan, full=self._full))

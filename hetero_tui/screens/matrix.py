"""The network between the hosts: a cell for every ordered pair, and all that is known of the pair under the cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from hetero_tui.preflight import PreflightProtocol
from hetero_tui.sanitize import clean
from hetero_tui.screens.base import LiveScreen
from hetero_tui.widgets.key_footer import KeyFooter
from hetero_tui.widgets.matrix_grid import SLOW, MatrixGrid, is_translated, mbit, milliseconds
from remote.checks.network_report import LinkError, PairLink, PairMatrix

if TYPE_CHECKING:
    from hetero_tui.session import SessionProtocol

MEANING = {
    LinkError.REFUSED: "refused at once: nothing listens there, or a firewall rejects",
    LinkError.TIMEOUT: "no answer: a firewall drops, or the address is wrong",
    LinkError.UNREACHABLE: "no way there: another network, or a firewall that says so",
    LinkError.NAME: "the name does not resolve",
    LinkError.STALLED: "connects, then data stops: full-size packets are lost on the way (MTU)",
    LinkError.STRANGER: "somebody else answers at that address",
    LinkError.CLOSED: "the other side closed in the middle",
}


class MatrixScreen(LiveScreen):
    """Grid above or beside the detail of a pair."""

    TITLE = "Network between the hosts"
    HELP = "What every host could say to every other when the checklist last asked, where the ranks will run."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,m", "leave", "Checklist", id="matrix.leave"),
        Binding("r", "rerun", "Probe again", id="matrix.rerun"),
        Binding("t", "turn", "Other direction", id="matrix.turn"),
    ]

    def __init__(self, session: SessionProtocol, preflight: PreflightProtocol, rerun: Callable[[], None]) -> None:
        """``rerun`` probes the network again."""
        super().__init__(session)
        self._preflight = preflight
        self._rerun = rerun

    def compose(self) -> ComposeResult:
        """Header, grid and detail, footer."""
        yield self.header()
        with Container(id="matrix-body"):
            yield MatrixGrid(self.session, self._preflight)
            with VerticalScroll(id="detail", can_focus=True):
                yield Static(id="matrix-text")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Start on the grid."""
        super().on_mount()
        grid = self.query_one(MatrixGrid)
        grid.focus()
        grid.pull()
        self.show_pair()

    @on(MatrixGrid.CursorMoved)
    def show_pair(self) -> None:
        """Show what is known of the pair under the cursor."""
        grid = self.query_one(MatrixGrid)
        self.query_one("#matrix-text", Static).update(pair_text(grid))

    def action_leave(self) -> None:
        """Go back to the checklist."""
        self.app.pop_screen()

    def action_turn(self) -> None:
        """Go to the same pair the other way round."""
        grid = self.query_one(MatrixGrid)
        grid.put_cursor(grid.column, grid.row)

    def action_rerun(self) -> None:
        """Let all hosts dial each other again."""
        self._rerun()
        self.notify("The network is probed again: half a minute", markup=False)


def pair_text(grid: MatrixGrid) -> Content:
    """Return all that is known of the pair under the cursor."""
    source, target = grid.pair
    if grid.matrix is None:
        return Content("The network has not been probed yet: the check “Network probe” does it.")
    if source == target:
        return Content(f"{source}: a host is not dialled by itself. The cells show: {grid.metric} (o changes it).")
    pieces: list[str | tuple[str, str]] = [(f"{source} → {target}", "bold"), f"   cells show: {grid.metric}\n"]
    pieces += _link(grid.matrix, grid, source, target)
    pieces += [("\nthe other way: ", "bold"), f"{target} → {source}\n"]
    pieces += _link(grid.matrix, grid, target, source)
    return Content.assemble(*pieces)


def _link(matrix: PairMatrix, grid: MatrixGrid, source: str, target: str) -> list[str | tuple[str, str]]:
    link = matrix.link(source, target)
    if link is None:
        return [("not tried\n", "$text-warning"), "the probe did not run on one of them: see “Network probe”\n"]
    pieces: list[str | tuple[str, str]] = [f"dialled   {clean(link.address)} port {link.port}\n"]
    if link.error is not None:
        pieces += [("failed    ", "bold $text-error"), f"{MEANING[link.error]}\n"]
        if link.detail:
            pieces.append((f"          {clean(link.detail)}\n", "$muted"))
    else:
        pieces += [("connects  ", "$text-success"), f"in {milliseconds(link.seconds)}\n"]
    pieces += _figures(link)
    if link.seen_as:
        expected = grid.addresses.get(source, "")
        seen = clean(link.seen_as)
        if is_translated(link, grid.addresses):
            pieces += [("seen as   ", "bold $text-warning"), f"{seen}, not {clean(expected)}: translated on the way\n"]
        else:
            pieces.append(f"seen as   {seen}{', its own address: no translation' if expected else ''}\n")
    return pieces


def _figures(link: PairLink) -> list[str | tuple[str, str]]:
    if link.round_trip is None and link.sent_bytes_per_second is None:
        return []
    slow = link.sent_bytes_per_second is not None and link.sent_bytes_per_second < SLOW
    there, back = mbit(link.sent_bytes_per_second), mbit(link.received_bytes_per_second)
    return [
        f"round trip {milliseconds(link.round_trip)}\n",
        f"rate      {there} Mbit/s there, {back} back, one pair at a time",
        (" – slow\n", "$text-warning") if slow else "\n",
    ]

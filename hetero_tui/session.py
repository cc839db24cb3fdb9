"""One run from first contact to report: what the screens and the headless commands share. No Textual here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from remote.progress import ConfirmHostKey, HostPhase, HostStatus, LaunchPhase, LaunchProgress

if TYPE_CHECKING:
    from hetero_tui.preflight import PreflightProtocol
    from hetero_tui.store import Store
    from remote.checks.model import CheckProgress
    from remote.errors import RemoteError
    from remote.images.model import ImagePlan, ImageProgress
    from remote.inventory import Inventory
    from remote.plan import LaunchPlan
    from remote.resume import Resume
    from remote.runtime import HostRunState

__all__ = [
    "CheckInfo",
    "ConfirmHostKey",
    "HostPhase",
    "HostStatus",
    "ImageSession",
    "LaunchPhase",
    "LaunchProgress",
    "PastRead",
    "PastSession",
    "PreparingSession",
    "ResumableSession",
    "SessionProtocol",
]


@dataclass(frozen=True, slots=True)
class CheckInfo:
    """What a screen needs of a check before it has run."""

    id: str
    title: str
    severity: str
    scope: Literal["host", "cluster"]
    needs: tuple[str, ...] = ()
    group: str = ""
    """Heading it is shown under."""
    is_source: bool = False
    """Checks that need it read what it finds."""


@runtime_checkable
class ImageSession(Protocol):
    """A session that can bring images to its hosts."""

    @property
    def lacks_only_images(self) -> bool:
        """Whether nothing but missing or differing images stands in the way of a launch."""
        ...

    async def image_plan(self) -> ImagePlan:
        """Decide how each host gets its image. Nothing is changed.

        Raises:
            RemoteError: it cannot be told.
        """
        ...

    async def bring_images(
        self, report: Callable[[ImageProgress], None], hosts: frozenset[str] | None = None
    ) -> Mapping[str, RemoteError]:
        """Bring hosts (all, when left out) their images, and return why some have none.

        Raises:
            RemoteError: nothing could be begun.
        """
        ...

    def cancel_image(self, host: str) -> None:
        """Give up bringing one host its image."""
        ...


@runtime_checkable
class PreparingSession(Protocol):
    """A session that can do more about its hosts than check them."""

    @property
    def preflight(self) -> PreflightProtocol:
        """Fixes, measured speeds and the prediction."""
        ...


@dataclass(frozen=True, slots=True)
class PastRead:
    """How much of a run's past has been read from this machine's folder."""

    lines: int = 0
    fraction: float = 0.0


@runtime_checkable
class PastSession(Protocol):
    """A session that tells how far the taking over of a run is, which takes minutes for millions of lines."""

    @property
    def past(self) -> PastRead:
        """How much has been read so far."""
        ...


@runtime_checkable
class ResumableSession(Protocol):
    """A session whose run can be taken up again after its end."""

    @property
    def kept(self) -> Mapping[str, str]:
        """Hosts where the ended run stays because its results could not be brought home, with the reason."""
        ...

    def resume(self, run_id: str = "") -> Resume:
        """Let the next launch go on from a run's checkpoint; from the newest run that has one when none is named.

        Raises:
            UserError: there is no good checkpoint to go on from.
        """
        ...

    def leave_out(self, hosts: Collection[str]) -> None:
        """Let the next launch do without some hosts.

        Raises:
            UserError: there is no such host, or none would stay.
        """
        ...

    async def stop(self, report: Callable[[LaunchProgress], None], *, discard: bool = False) -> None:
        """End the run everywhere and bring its results home, or give them up."""
        ...


class SessionProtocol(Protocol):
    """What the screens may use."""

    @property
    def inventory(self) -> Inventory: ...

    @property
    def simulated(self) -> bool:
        """True when any rank's speed is held down on purpose; every screen shows it."""
        ...

    @property
    def store(self) -> Store: ...

    @property
    def run_id(self) -> str:
        """The run being watched, or an empty string."""
        ...

    @property
    def checks(self) -> tuple[CheckInfo, ...]:
        """The checklist in the order it is shown."""
        ...

    @property
    def hosts(self) -> Mapping[str, HostStatus]: ...

    async def connect(self, confirm: ConfirmHostKey) -> None:
        """Connect to every host in parallel. A host that fails has its reason in ``hosts``; nothing is raised."""
        ...

    def run_checks(
        self, only: frozenset[str] | None = None, hosts: frozenset[str] | None = None
    ) -> AsyncIterator[CheckProgress]:
        """Run the checklist (or a part of it) and yield what starts and what is found."""
        ...

    def plan(self) -> LaunchPlan:
        """Make the launch plan from the facts read last.

        Raises:
            PlanError: no runnable plan.
        """
        ...

    async def launch(self, report: Callable[[LaunchProgress], None]) -> None:
        """Create, start and release every host's part of the plan.

        Raises:
            LaunchError: somebody is missing; everything started so far has been stopped again.
        """
        ...

    async def find_runs(self) -> tuple[HostRunState, ...]:
        """What this program started on the hosts earlier and has not removed."""
        ...

    async def attach(self, run_id: str) -> None:
        """Take over a run that an earlier instance started."""
        ...

    async def follow(self) -> None:
        """Feed the store from the hosts' logs until the run has ended everywhere; reconnects by itself.

        Then the run's checkpoints come home and it is removed from the hosts. What cannot come home stays there, and
        the store is told why.
        """
        ...

    async def control(self, message: Mapping[str, object], hosts: frozenset[str] | None = None) -> None:
        """Send one control message to the run, for example ``{"command": "pause"}``."""
        ...

    async def stop(self, report: Callable[[LaunchProgress], None]) -> None:
        """End exactly this run on every host, bring its checkpoints home and remove it there.

        Raises:
            ResultsError: its results could not be brought home from some hosts; there it has ended and stays.
            RemoteError: some hosts could not be reached; running it again finishes the job.
        """
        ...

    async def close(self) -> None:
        """Close the connections. Training goes on."""
        ...

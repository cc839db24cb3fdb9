"""Everything before a run: the checklist and what it leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from textual.pilot import Pilot
from textual.widgets import Input

from hetero_tui.app import HeteroApp
from hetero_tui.screens.checklist import ChecklistScreen
from hetero_tui.screens.data import DataScreen
from hetero_tui.screens.dialogs import Choice, Confirm, ErrorDialog
from hetero_tui.screens.images import ImagesScreen
from hetero_tui.screens.launch import LaunchScreen
from hetero_tui.screens.matrix import MatrixScreen
from hetero_tui.screens.password import AskPassword
from hetero_tui.screens.plan import PlanScreen
from hetero_tui.screens.prediction import PredictionScreen
from hetero_tui.screens.taking_over import TakingOver
from hetero_tui.session import LaunchProgress
from hetero_tui.widgets.data_bars import DataBars
from hetero_tui.widgets.image_bars import ImageBars
from hetero_tui.widgets.matrix_grid import MatrixGrid
from remote.checks.model import Fix
from remote.dataset import Difference
from remote.dataset_sync import DatasetState, Told
from remote.errors import ImageError, RemoteError
from remote.facts import Facts
from remote.fixes import FixPlan, plan_fix
from remote.images.model import HostImagePlan, ImagePlan, ImageProgress, LayerProgress
from remote.inventory import Inventory
from tests.pilot.album import Scene
from tests.pilot.fake_preflight import FakePreflight
from tests.pilot.fake_session import HOSTS, FakeSession, earlier_run
from tests.pilot.painted import shows, until
from tests.pilot.scenes import app, at, checked, checklist, in_front, then
from tests.pilot.test_checklist import many
from tests.pilot.test_flow import make
from tests.pilot.test_taking_over import LongPast

NAMES: Final = tuple(host.name for host in HOSTS)
LACKS: Final = DatasetState(
    sizes={"train/part-0001.tar": 1_200_000_000, "labels.csv": 48_000},
    differences={
        "workstation": Difference(),
        "laptop": Difference(("train/part-0001.tar",), bytes_lacking=1_200_000_000),
        "old-server": Difference(differing=("labels.csv",), extra=("notes.txt",)),
    },
    free_bytes=dict.fromkeys(NAMES, 80_000_000_000),
    problems={"old-server": "labels.csv differs: nothing there is overwritten"},
)
IMAGES: Final = ImagePlan(
    (
        HostImagePlan("gaming-pc", "app:1", "present", "the host has it"),
        HostImagePlan("workstation", "app:1", "send", "gaming-pc has it", source="gaming-pc", bytes_to_move=2_000_000),
        HostImagePlan("laptop", "app:1", "registry", "nobody has it yet", bytes_to_move=3_400_000_000),
        HostImagePlan("old-server", "app:1", "impossible", "no space: 2.1 GB free, 6.8 GB needed"),
    )
)


class DataPreflight(FakePreflight):
    """Lacks some files of the data set, and never ends bringing them."""

    async def look_at_data(self, *, contents: bool = False) -> DatasetState:
        del contents
        return LACKS

    async def bring_data(self, state: DatasetState, told: Told) -> Mapping[str, RemoteError]:
        del state
        told("laptop", 420_000_000, 1_200_000_000)
        await asyncio.Event().wait()
        return {}


class Images:
    """One host's image is on its way, another's has failed."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends

    @property
    def lacks_only_images(self) -> bool:
        return False

    async def image_plan(self) -> ImagePlan:
        return IMAGES

    async def bring_images(
        self, report: Callable[[ImageProgress], None], hosts: frozenset[str] | None = None
    ) -> Mapping[str, RemoteError]:
        del hosts
        layers = (LayerProgress("abcdef012345", 500_000, 1_500_000), LayerProgress("0123456789ab", 0, 500_000))
        report(ImageProgress("workstation", "sending", 500_000, 2_000_000, 250_000.0, layers))
        report(ImageProgress("laptop", "failed", detail="the registry refused the login"))
        if not self._ends:
            await asyncio.Event().wait()
        report(ImageProgress("workstation", "done", 2_000_000, 2_000_000))
        failed = ImageError("the registry refused the login", host="laptop", next_step="docker login ghcr.io there")
        return {"laptop": failed}

    def cancel_image(self, host: str) -> None:
        del host


class WithData(FakeSession):
    """Its cluster.toml names a data set."""

    @property
    def inventory(self) -> Inventory:
        inventory = super().inventory
        training = inventory.training.model_copy(update={"data_dir": "/data/cifar"})
        return inventory.model_copy(update={"training": training})


def _with_data() -> HeteroApp:
    session = WithData()
    session.preflight = DataPreflight(session)
    return HeteroApp(session)


class Trusted(FakePreflight):
    """``sudo`` asks for nothing anywhere."""

    def plan_fix(self, fix: Fix) -> FixPlan:
        return plan_fix(fix, Facts(host=fix.host, user="anna", sudo="nopass"))


def _trusted() -> HeteroApp:
    session = make()
    session.preflight = Trusted(session)
    return HeteroApp(session)


async def _data(pilot: Pilot[Any]) -> None:
    await checked(pilot)
    screen = pilot.app.screen
    assert isinstance(screen, ChecklistScreen)
    assert isinstance(screen.session, FakeSession)
    screen.app.push_screen(DataScreen(screen.session, screen.session.preflight, lambda: None))
    await until(pilot, lambda: isinstance(pilot.app.screen, DataScreen) and not pilot.app.screen.running)


async def _bringing_data(pilot: Pilot[Any]) -> None:
    await _data(pilot)
    await pilot.press("b")
    await until(pilot, lambda: bool(pilot.app.screen.query_one(DataBars)._arriving))


def _images(*keys: str, ends: bool = False) -> Any:
    async def drive(pilot: Pilot[Any]) -> None:
        await checked(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, ChecklistScreen)
        screen.app.push_screen(ImagesScreen(screen.session, Images(ends=ends)))
        await in_front(pilot, ImagesScreen)
        bars = pilot.app.screen.query_one(ImageBars)
        await until(pilot, lambda: bars.plan is not None)
        await pilot.press(*keys)
        if keys:
            await until(pilot, lambda: len(bars.progress) == 2)
            images = pilot.app.screen
            assert isinstance(images, ImagesScreen)
            await until(pilot, lambda: images.running is not ends)

    return drive


async def _pair(pilot: Pilot[Any]) -> None:
    await then(checked, "m", opens=MatrixScreen)(pilot)
    pilot.app.screen.query_one(MatrixGrid).put_cursor(1, 3)


async def _failed_launch(pilot: Pilot[Any]) -> None:
    await then(checked, "enter", opens=PlanScreen)(pilot)
    await then(_nothing, "enter", opens=LaunchScreen)(pilot)
    screen = pilot.app.screen
    assert isinstance(screen, LaunchScreen)
    await until(pilot, lambda: screen.error is not None)


async def _launching(pilot: Pilot[Any]) -> None:
    """Shows a launch half way; nothing goes on behind it."""
    await checked(pilot)
    assert isinstance(pilot.app, HeteroApp)
    screen = LaunchScreen(pilot.app.session)
    await pilot.app.push_screen(screen)
    table = screen.query_one("LaunchTable")
    for name, phase, detail in (
        ("gaming-pc", "ready", ""),
        ("workstation", "importing", ""),
        ("laptop", "creating", "pulling ghcr.io/example/trainer:cuda"),
    ):
        table.moved(LaunchProgress(name, phase, detail))  # type: ignore[attr-defined, arg-type]


async def _nothing(pilot: Pilot[Any]) -> None:
    del pilot


async def _half_checked(pilot: Pilot[Any]) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, ChecklistScreen)
    await until(pilot, lambda: bool(screen.state.running) and len(screen.state.results) >= 16)


async def _filtered(pilot: Pilot[Any]) -> None:
    await checked(pilot)
    await pilot.press("slash", *"gpu")
    await until(pilot, lambda: pilot.app.screen.query_one("#checklist-filter", Input).value == "gpu")


async def _no_plan(pilot: Pilot[Any]) -> None:
    await then(checked, "enter", opens=ErrorDialog)(pilot)


async def _fix_failed(pilot: Pilot[Any]) -> None:
    session = pilot.app.session  # type: ignore[attr-defined]
    session.preflight.fails = "usermod: group 'docker' does not exist"
    await then(at("engine", "laptop"), "F", opens=AskPassword)(pilot)
    await pilot.press(*"open sesame", "enter")
    await in_front(pilot, ErrorDialog)


async def _measuring(pilot: Pilot[Any]) -> None:
    await then(checked, "p", opens=PredictionScreen)(pilot)
    await pilot.press("m")
    await shows(pilot, "samples/s")


class Stuck(FakeSession):
    """Its fifth check never answers."""

    async def _rest(self) -> None:
        self.rests = getattr(self, "rests", 0) + 1
        if self.rests > 5:
            await asyncio.Event().wait()
        await super()._rest()


SCENES: Final = (
    Scene("checklist", ChecklistScreen, checklist(failing=True), checked),
    Scene("checklist-ready", ChecklistScreen, checklist(), checked),
    Scene("checklist-running", ChecklistScreen, lambda: HeteroApp(Stuck()), _half_checked),
    Scene("checklist-warning", ChecklistScreen, checklist(), at("clock", "old-server")),
    Scene("checklist-group", ChecklistScreen, checklist(failing=True), then(at("engine", "laptop"), "space")),
    Scene("checklist-filter", ChecklistScreen, checklist(), _filtered),
    Scene("checklist-unreachable", ChecklistScreen, checklist(unreachable=frozenset({"laptop"})), at("ssh", "laptop")),
    Scene("checklist-16-hosts", ChecklistScreen, lambda: HeteroApp(many(16)), checked),
    Scene("checklist-64-hosts", ChecklistScreen, lambda: HeteroApp(many(64)), checked),
    Scene("fix-question", Confirm, _trusted, then(at("clock", "old-server"), "F", opens=Confirm)),
    Scene("fix-password", AskPassword, checklist(failing=True), then(at("engine", "laptop"), "F", opens=AskPassword)),
    Scene("fix-failed", ErrorDialog, checklist(failing=True), _fix_failed),
    Scene("host-key", Confirm, checklist(unknown_key="laptop"), then(_nothing, opens=Confirm)),
    Scene("earlier-run", Choice, checklist(earlier=earlier_run()), then(checked, opens=Choice)),
    Scene("plan", PlanScreen, checklist(simulated=True), then(checked, "enter", opens=PlanScreen)),
    Scene("plan-environment", PlanScreen, checklist(), then(then(checked, "enter", opens=PlanScreen), "e")),
    Scene("plan-impossible", ErrorDialog, checklist(plan_fails="laptop has no usable device"), _no_plan),
    Scene(
        "launch-anyway",
        Confirm,
        checklist(failing=True),
        then(then(checked, "enter", opens=PlanScreen), "enter", opens=Confirm),
    ),
    Scene("launch", LaunchScreen, checklist(), _launching),
    Scene("launch-failed", LaunchScreen, checklist(launch_fails="laptop"), _failed_launch),
    Scene("matrix", MatrixScreen, checklist(), _pair),
    Scene("matrix-rate", MatrixScreen, checklist(), then(_pair, "o", "t")),
    Scene("matrix-64-hosts", MatrixScreen, lambda: HeteroApp(many(64)), then(checked, "m", opens=MatrixScreen)),
    Scene(
        "prediction", PredictionScreen, checklist(simulated=True), then(checked, "p", opens=PredictionScreen)
    ),
    Scene("prediction-unknown", PredictionScreen, checklist(), then(checked, "p", opens=PredictionScreen)),
    Scene("prediction-measured", PredictionScreen, checklist(), _measuring),
    Scene("images", ImagesScreen, checklist(), _images()),
    Scene("images-failed", ImagesScreen, checklist(), _images("b", ends=True)),
    Scene("data", DataScreen, _with_data, _data),
    Scene("data-coming", DataScreen, _with_data, _bringing_data),
    Scene("taking-over", TakingOver, app(LongPast, start="monitor"), then(_nothing, opens=TakingOver)),
)  # fmt: skip

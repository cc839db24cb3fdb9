"""Commands without a screen: the app's session, results on standard output, progress on standard error."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from hetero_tui import exit_codes, image_report, prediction_report, report, restart, run_to_end
from hetero_tui.cluster_session import ClusterSession
from hetero_tui.metrics import metrics_server
from hetero_tui.output import print_json, say, show
from hetero_tui.questions import confirmed
from hetero_tui.run_to_end import say_progress
from hetero_tui.sanitize import clean
from hetero_tui.views import RunState
from remote.checks.model import CheckResult, Verdict
from remote.checks.run import summarize
from remote.errors import HostKeyUnknown, RemoteError, UserError
from remote.images.choose import render_image_plan
from remote.images.model import ImageProgress
from remote.inventory import load_inventory
from remote.plan import plan_to_json, render_plan
from remote.resume import without_hosts
from remote.run_end import stored_run
from remote.runtime import State


async def check(cluster: Path, *, as_json: bool, measure: bool = False) -> int:
    """Run the checklist and print it, and what the cluster is predicted to do; ``measure`` the speeds for that."""
    async with _session(cluster) as session:
        return await _check(session, as_json=as_json, measure=measure)


async def _check(session: ClusterSession, *, as_json: bool, measure: bool = False) -> int:
    passed = await run_checklist(session)
    if measure:
        failures = await session.preflight.measure(lambda host, what: say(f"{host} {what}"))
        passed = passed and not failures
    prediction, missing = await prediction_report.try_predict(session.preflight.predict)
    if as_json:
        document = _checks_document(session)
        document["prediction"] = (
            prediction_report.document(prediction) if prediction else prediction_report.missing_document(missing)
        )
        print_json(document)
    else:
        show(_checklist(session))
        show("")
        show(prediction_report.text(prediction, time.time()) if prediction else f"No prediction: {missing}")
    return exit_codes.OK if passed else exit_codes.FAILED


async def run_checklist(session: ClusterSession) -> bool:
    """Run all checks with progress on standard error and say whether nothing stands in the way of a launch."""
    async for progress in session.run_checks():
        if isinstance(progress, CheckResult) and progress.finding.verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            say(f"{report.MARKS[progress.finding.verdict]} {progress.host or 'cluster'}: {progress.finding.reason}")
    return summarize(session.results).exit_code == 0


def _checks_document(session: ClusterSession) -> dict[str, Any]:
    return report.checks_document(
        session.inventory.cluster.name, session.hosts.values(), session.results, session.checks
    )


def _checklist(session: ClusterSession) -> str:
    return report.checklist_text([host.name for host in session.inventory.hosts], session.results, session.checks)


async def plan(cluster: Path, *, as_json: bool, launcher: str | None = None) -> int:
    """Read the facts and print the launch plan, or the file that makes ``launcher`` carry it out."""
    async with _session(cluster) as session:
        await session.read_facts()
        launch_plan = session.plan()
        if launcher is not None:
            from remote.export import export_plan

            print(export_plan(launch_plan, launcher), end="")
        elif as_json:
            print_json({"schema": report.SCHEMA, "plan": json.loads(plan_to_json(launch_plan))})
        else:
            show(render_plan(launch_plan))
        return exit_codes.OK


async def up(
    cluster: Path,
    *,
    as_json: bool,
    detach: bool,
    skip_checks: bool,
    experiments: Path,
    resume: str | None = None,
    without: Collection[str] = (),
    metrics: int | None = None,
) -> int:
    """Check, launch, follow to the end and print the result; a failed run is tried again as ``limits.restarts`` says.

    ``resume`` names the run to go on from; empty means the newest that has a checkpoint, None a new beginning. Hosts
    in ``without`` are left out. On the port ``metrics``, figures are served to this machine.
    """
    attempt = 0
    is_begun = False
    try:
        while True:
            async with _session(cluster, experiments, without, metrics) as session:
                limits = session.inventory.limits
                if resume is not None:
                    say((await asyncio.to_thread(session.resume, resume)).note)
                if skip_checks:
                    await session.read_facts()
                elif not (await run_checklist(session) or await _bring_and_check(session)):
                    return refuse(session, as_json=as_json)
                is_begun = True  # from here on an interruption is told by who launches
                may_restart = attempt < limits.restarts
                code = await run_to_end.launch_and_follow(
                    session, as_json=as_json, detach=detach, may_restart=may_restart
                )
                has_failed = not detach and session.store.cluster_view().state is RunState.FAILED
                if not has_failed or attempt >= limits.restarts:
                    return code
                without = {*without, *restart.gone(session.hosts.values())}
                resume = "" if session.checkpoints or session.inventory.training.checkpoint_dir else resume
            is_begun = False
            wait = restart.wait_before(limits, attempt)
            attempt, skip_checks = attempt + 1, True
            left_out = f" without {', '.join(sorted(without))}" if without else ""
            say(f"the run failed; restart {attempt} of {limits.restarts}{left_out} in {wait:g} s")
            await asyncio.sleep(wait)
    except asyncio.CancelledError:
        if not is_begun:
            run_to_end.print_not_begun(as_json=as_json)
        raise


async def _bring_and_check(session: ClusterSession) -> bool:
    """Bring the images where they are all that is missing, and say whether a launch is possible now."""
    if not session.lacks_only_images:
        return False
    say(render_image_plan(await session.image_plan()))
    failures = await session.bring_images(ImageTicker())
    for name, error in failures.items():
        say(f"{name}: {error.message}" + (f"\n  → {error.next_step}" if error.next_step else ""))
    return not failures and await run_checklist(session)


async def images(cluster: Path, *, as_json: bool, bring: bool) -> int:
    """Print how each host gets its image, and bring it when asked to."""
    async with _session(cluster) as session:
        session.require_all_connected()
        plan = await session.image_plan()
        failures: Mapping[str, RemoteError] = {}
        if not as_json:
            show(render_image_plan(plan), flush=True)
        if bring:
            failures = await session.bring_images(ImageTicker())
            for name, error in failures.items():
                say(f"{name}: {error.message}" + (f"\n  → {error.next_step}" if error.next_step else ""))
        if as_json:
            print_json(
                image_report.images_document(plan, {name: error.message for name, error in failures.items()}, bring)
            )
        elif plan.missing and not bring:
            print("Nothing was moved. `hetero-tui images --bring` does it; so does `hetero-tui up` before it launches.")
        return exit_codes.FAILED if failures or (plan.impossible and not bring) else exit_codes.OK


async def images_list(cluster: Path, *, as_json: bool) -> int:
    """Print what this program put on the hosts."""
    async with _session(cluster) as session:
        session.require_all_connected()
        placed = await session.placed_images()
        if as_json:
            print_json(image_report.placed_document(placed))
        else:
            show(image_report.placed_text(placed))
        return exit_codes.OK


async def images_remove(cluster: Path, *, as_json: bool) -> int:
    """Remove what this program put on the hosts, and only that."""
    async with _session(cluster) as session:
        session.require_all_connected()
        removed = await session.remove_images()
        if as_json:
            print_json(image_report.removed_document(removed))
        else:
            show(image_report.removed_text(removed))
        return exit_codes.FAILED if any(each.kept for each in removed) else exit_codes.OK


class ImageTicker:
    """Tells on standard error how far the images are: a line a host whenever its phase or a tenth of it changes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, str]] = {}

    def __call__(self, progress: ImageProgress) -> None:
        tenth = 10 * progress.done // progress.total if progress.total else 0
        detail = clean(progress.detail, 300)
        now = (progress.phase, tenth, detail)
        if self._last.get(progress.host) != now:
            self._last[progress.host] = now
            say(image_report.image_line(progress))


def refuse(session: ClusterSession, *, as_json: bool = False) -> int:
    """Say why nothing is launched."""
    say(_checklist(session))
    if as_json:
        print_json(_checks_document(session))
    say("Nothing was started. Mend what is marked ✖, or launch anyway with `hetero-tui up --skip-checks`.")
    return exit_codes.FAILED


async def watch(cluster: Path, *, run: str, as_json: bool, experiments: Path, metrics: int | None = None) -> int:
    """Reattach to a run. Who only looks on has not failed when somebody stops the run: only a failed run exits 1."""
    async with _session(cluster, experiments, metrics=metrics) as session:
        await run_to_end.attach(session, run or await _newest(session))
        say(f"attached to run {session.run_id}")
        return await run_to_end.watch(session, as_json=as_json)


async def status(cluster: Path, *, as_json: bool) -> int:
    """Print what runs on the hosts."""
    async with _session(cluster) as session:
        runs = await session.find_runs()
        if as_json:
            print_json(report.status_document(session.hosts.values(), runs))
        else:
            show(report.status_text(session.hosts.values(), runs))
        unreachable = any(each.phase != "connected" for each in session.hosts.values())
        return exit_codes.FAILED if unreachable else exit_codes.OK


async def logs(
    cluster: Path, *, run: str, rank: int | None, follow: bool, experiments: Path, as_json: bool = False
) -> int:
    """Print the output of all ranks; with ``as_json`` one document a line."""
    async with _session(cluster, experiments) as session:
        run_id = run or await _newest(session)
        ranks: set[int] = set()
        async with aclosing(session.log_lines(run_id, go_on=follow)) as lines:
            async for line in lines:
                ranks.add(line.rank)
                if rank is None or line.rank == rank:
                    text = json.dumps(report.log_document(line)) if as_json else report.log_text(line)
                    show(text, flush=follow)
        stored = stored_run(experiments, session.inventory.cluster.name, run_id)
        if not ranks and stored is None and run_id not in {found.run_id for found in await session.find_runs()}:
            raise _unknown_run(run_id)
        planned = [each.rank for host in stored.read_plan().hosts for each in host.ranks] if stored else []
        _require_rank(run_id, rank, ranks.union(planned))
        return exit_codes.OK


def _unknown_run(run_id: str) -> UserError:
    said = f"no run {run_id!r} was found on these hosts or this machine"
    return UserError(said, next_step="`hetero-tui status` shows those on the hosts, `hetero-tui runs` those kept here")


def _require_rank(run_id: str, rank: int | None, ranks: Collection[int]) -> None:
    """Tell a rank that does not exist from one that has printed nothing.

    Raises:
        UserError: the run has others, and not this one.
    """
    if rank is not None and ranks and rank not in ranks:
        named = ", ".join(str(each) for each in sorted(ranks) if each >= 0)
        raise UserError(f"run {run_id} has no rank {rank}", next_step=f"it has {named}")


async def stop(cluster: Path, *, run: str, as_json: bool, discard: bool, experiments: Path) -> int:
    """End one run everywhere, bring its results home and remove it there; ``discard`` gives the results up."""
    asked_at = time.monotonic()
    async with _session(cluster, experiments, is_ending=True) as session:
        found = () if run else await session.find_runs()
        run_id = run or (found[-1].run_id if found else "")
        checkpoints: list[str] = []
        if run_id:
            is_kept = stored_run(experiments, session.inventory.cluster.name, run_id) is not None
            home = await session.stop_run(run_id, say_progress, discard=discard, asked_at=asked_at)
            if not is_kept and all(state.state is State.MISSING for state in home.states.values()):
                raise _unknown_run(run_id)
            checkpoints = [str(each.path) for found_there in home.fetched.values() for each in found_there.checkpoints]
        else:
            session.require_all_connected()
            await session.clear_overlays()
        if as_json:
            stopped = [run_id] if run_id else []
            print_json({"schema": report.SCHEMA, "stopped": stopped, "checkpoints": checkpoints})
        elif run_id:
            show(f"run {run_id} is stopped; nothing of it is left on {', '.join(session.hosts)}")
            for path in checkpoints:
                show(f"kept  {path}")
        else:
            print("nothing runs on these hosts")
        return exit_codes.OK


async def _newest(session: ClusterSession) -> str:
    found = await session.find_runs()
    alive = [run for run in found if run.state is State.RUNNING]
    if not found and (stored := session.newest_stored_run):
        return stored
    if not found:
        raise UserError("no run was found on these hosts", next_step="start one with hetero-tui up")
    return (alive or list(found))[-1].run_id


@asynccontextmanager
async def _session(
    cluster: Path,
    experiments: Path = Path("experiments"),
    without: Collection[str] = (),
    metrics: int | None = None,
    *,
    is_ending: bool = False,
) -> AsyncIterator[ClusterSession]:
    """Give a connected session. With ``is_ending`` hosts that answer are not kept waiting for those that do not."""
    inventory = without_hosts(load_inventory(cluster), without)
    session = ClusterSession(inventory, inventory_text=cluster.read_text("utf-8"), experiments=experiments)
    try:
        async with metrics_server(session, metrics, simulated=session.simulated):
            await session.connect(ask_host_key, patience=inventory.limits.no_contact_seconds if is_ending else math.inf)
            yield session
    finally:
        await session.close()


async def ask_host_key(unknown: HostKeyUnknown) -> bool:
    """Show the fingerprint and ask. Without a terminal the answer is no, and the checklist says what to do."""
    say(str(unknown))
    return sys.stdin.isatty() and await confirmed("Trust this key from now on?")

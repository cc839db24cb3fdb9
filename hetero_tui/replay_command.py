"""``hetero-tui replay``: a stored run in the monitor, or on standard output."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tui import exit_codes, prediction_report, report
from hetero_tui.output import say, show
from hetero_tui.playback import AS_FAST_AS_POSSIBLE, Playback
from hetero_tui.recording import record_time
from hetero_tui.replay import ReplaySession
from hetero_tui.stored_runs import StoredRun, find_run
from remote.errors import UserError
from remote.stored_lines import stored_line
from trainer.events import EventError, decode, encode


def run(
    named: str,
    *,
    experiments: Path,
    speed: float | None,
    from_step: int | None,
    as_json: bool,
    without_screen: bool,
    ascii_only: bool,
) -> int:
    """Play a stored run and return the exit code.

    Args:
        named: folder, id, beginning of an id, or ``latest``.
        experiments: where runs are kept.
        speed: seconds of the run in one second; 0 for as fast as possible. When left out 1 on the screen, else 0.
        from_step: optimizer step to begin at.
        as_json: JSON Lines on standard output.
        without_screen: no monitor, also without ``as_json``.
        ascii_only: draw in plain ASCII.

    Raises:
        UserError: no such run, or an impossible speed.
    """
    if speed is not None and not (0 <= speed < math.inf):
        raise UserError(f"--speed {speed} is not possible", next_step="give 0 (as fast as possible) or more, such as 4")
    session = ReplaySession(find_run(named, experiments))
    headless = as_json or without_screen
    pace = (0.0 if headless else 1.0) if speed is None else speed
    session.playback.speed = pace or AS_FAST_AS_POSSIBLE
    if from_step is not None:
        session.playback.seek_step(from_step)
    if headless:
        return asyncio.run(_print(session.run, session.playback, as_json=as_json))
    from hetero_tui.replay_app import ReplayApp
    from hetero_tui.settings import load_settings

    app = ReplayApp(session, ascii_only=ascii_only, settings=load_settings(os.environ))
    app.run()
    return exit_codes.FAILED if app.return_code else exit_codes.OK


async def _print(run: StoredRun, playback: Playback, *, as_json: bool) -> int:
    await playback.load()
    if playback.end == 0.0:
        raise UserError(f"run {run.run_id} has no recording", next_step=f"look into {run.run_dir.path}")
    at = 0.0
    told = 0
    async for record in playback.play():
        at = record_time(record, at)
        if as_json:
            print(json.dumps(line_document(record, at), ensure_ascii=True, allow_nan=False))
        elif (step := playback.store.cluster_view().step) >= told + 100:
            told = step
            say(report.progress_line(playback.store))
    ended = run.run_dir.read_ended()
    document = report.result_document(
        run.run_id,
        playback.store,
        ended.states if ended else (),
        simulated=run.simulated,
        folder=str(run.run_dir.path),
    )
    document["prediction"] = prediction_report.compared(run.run_dir.path, document["samples_per_second"])
    if as_json:
        print(json.dumps({"schema": report.SCHEMA, "kind": "result", "result": document}, allow_nan=False))
    else:
        show(report.result_text(document))
    return exit_codes.OK


def line_document(record: Mapping[str, Any], at: float) -> dict[str, Any]:
    """Return one record as one line of ``replay --json``: an event, a line of output, or what the program did."""
    head: dict[str, Any] = {"schema": report.SCHEMA, "at": at}
    line = stored_line(record)
    if line is None:
        told = json.dumps({key: value for key, value in record.items() if key != "at"})
        # JSON has no NaN and no infinity; Python writes and reads them.
        return head | {"kind": "did", "did": json.loads(told, parse_constant=lambda _name: None)}
    try:
        event = decode(line.text)
    except EventError:
        event = None
    if event is not None:
        return head | {"kind": "event", "host": line.host, "event": json.loads(encode(event))}
    return head | {"kind": "line", "host": line.host, "stream": line.stream, "text": line.text}

"""The run's figures as OpenMetrics over HTTP, on the loopback interface of this machine only.

Format: OpenMetrics 1.0 (https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md).
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import h11

from hetero_tui.store import Store
from remote.errors import UserError

ADDRESS: Final = "127.0.0.1"
CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
REQUEST_SECONDS: Final = 10.0
_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")

Labels = dict[str, str]
Sample = tuple[Labels, float]


class MetricsSource(Protocol):
    """What has a run to tell of."""

    @property
    def store(self) -> Store: ...

    @property
    def run_id(self) -> str: ...


def exposition(store: Store, run_id: str, *, simulated: bool = False) -> str:
    """Return the figures of this moment. Rates are over the last ten seconds."""
    view = store.cluster_view()
    ranks = store.rank_views()
    efficiency = view.efficiency.total if view.efficiency else None
    lines: list[str] = []

    def family(name: str, kind: str, help_text: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None and math.isfinite(value)]
        if known:
            lines.extend((f"# TYPE {name} {kind}", f"# HELP {name} {help_text}"))
            suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
            lines.extend(f"{name}{suffix}{_labels(labels)} {value:.10g}" for labels, value in known)

    info = {"run": run_id, "policy": view.policy, "simulated": str(simulated).lower()}
    family("hetero_run", "info", "The run being watched.", [(info, 1)])
    family("hetero_run_state", "gauge", "1 for the state the run is in.", [({"state": view.state.value}, 1)])
    none: Labels = {}
    family("hetero_steps", "counter", "Optimizer steps done.", [(none, view.step)])
    family("hetero_steps_planned", "gauge", "Optimizer steps of the whole run.", [(none, view.steps_total)])
    family("hetero_epoch", "gauge", "Epoch, from 0.", [(none, view.epoch)])
    family("hetero_loss", "gauge", "Mean loss of the last global batch.", [(none, view.loss)])
    family("hetero_learning_rate", "gauge", "Learning rate of the last step.", [(none, view.learning_rate)])
    family("hetero_samples_per_second", "gauge", "Samples per second.", [(none, view.samples_per_second)])
    family("hetero_efficiency_ratio", "gauge", "Throughput over the sum of the ranks' speeds.", [(none, efficiency)])
    family("hetero_lost_lines", "counter", "Events that never arrived.", [(none, view.lost_lines)])
    each = [({"rank": str(rank.rank), "host": rank.host, "device": rank.device}, rank) for rank in ranks]
    states = [(labels | {"state": rank.state.value}, 1.0) for labels, rank in each]
    family("hetero_rank_state", "gauge", "1 for the state the rank is in.", states)
    figures: tuple[tuple[str, str, Callable[..., float | None]], ...] = (
        ("share_samples", "Samples of the global batch.", lambda rank: rank.share),
        ("samples_per_second", "Samples per second.", lambda rank: rank.samples_per_second),
        ("speed", "Samples per second while computing.", lambda rank: rank.speed),
        ("compute_ratio", "Part of the step spent computing.", lambda rank: rank.parts.compute),
        ("data_ratio", "Part of the step spent waiting for data.", lambda rank: rank.parts.data),
        ("wait_ratio", "Part of the step spent waiting for slower ranks.", lambda rank: rank.parts.wait),
        ("communication_ratio", "Part of the step spent moving gradients.", lambda rank: rank.parts.communication),
        ("step_seconds", "Mean duration of a step.", lambda rank: rank.step_seconds),
        ("memory_bytes", "Memory of the GPU, else of the process.", lambda rank: rank.memory_used),
        ("utilisation_percent", "Use of the GPU, else of the CPU.", lambda rank: rank.utilisation),
        ("temperature_celsius", "Temperature of the GPU.", lambda rank: rank.temperature),
        ("power_watts", "Power of the GPU.", lambda rank: rank.power),
        ("age_seconds", "Time since the last event of the rank.", lambda rank: rank.age),
    )
    for name, help_text, value in figures:
        family(f"hetero_rank_{name}", "gauge", help_text, [(labels, value(rank)) for labels, rank in each])
    return "\n".join([*lines, "# EOF"]) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@asynccontextmanager
async def metrics_server(source: MetricsSource, port: int | None, *, simulated: bool = False) -> AsyncIterator[None]:
    """Answer ``GET /metrics`` on the loopback interface while the context lasts; with None as port, nothing is opened.

    Raises:
        UserError: the port is in use.
    """
    if port is None:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await _answer(reader, writer, source, simulated=simulated)
        except (TimeoutError, ConnectionError, h11.ProtocolError):
            pass  # who asks has gone, is too slow or speaks no HTTP; the run goes on
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, ADDRESS, port)
    except OSError as error:
        raise UserError(f"port {port} for --metrics: {error.strerror}", next_step="choose another port") from None
    async with server:
        print(f"metrics: http://{ADDRESS}:{server.sockets[0].getsockname()[1]}/metrics", file=sys.stderr, flush=True)
        yield


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: MetricsSource, *, simulated: bool
) -> None:
    connection = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    while request is None:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(8192))
        elif isinstance(event, h11.Request):
            request = event
        else:
            return
    status, body = _reply(request, source, simulated=simulated)
    headers = [
        ("content-type", CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    for part in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
        if not (isinstance(part, h11.Data) and request.method == b"HEAD"):
            writer.write(connection.send(part) or b"")
    await writer.drain()


def _reply(request: h11.Request, source: MetricsSource, *, simulated: bool) -> tuple[int, bytes]:
    host = dict(request.headers).get(b"host", b"").decode("ascii", errors="replace")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() not in _HOSTS:
        return 403, b"only by the name of this machine's loopback interface\n"  # a web page must not ask through DNS
    if request.method not in (b"GET", b"HEAD"):
        return 405, b"GET only\n"
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, b"see /metrics\n"
    return 200, exposition(source.store, source.run_id, simulated=simulated).encode()

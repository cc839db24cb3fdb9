"""OpenMetrics: read by Prometheus's own parser, and served to this machine only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from hetero_tui.metrics import metrics_server
from hetero_tui.replay import ReplaySession
from remote.errors import UserError
from tests.unit.stored import stored_run


@asynccontextmanager
async def served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[tuple[ReplaySession, int]]:
    session = ReplaySession(stored_run(tmp_path))
    await session.playback.load()
    session.playback.seek_step(20)
    task = asyncio.create_task(session.playback.run())
    async with asyncio.timeout(30), metrics_server(session, 0):
        while session.store.cluster_view().step != 21:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        yield session, int(capsys.readouterr().err.partition("127.0.0.1:")[2].partition("/")[0])
    task.cancel()


async def request(port: int, text: str) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.encode())
    answer = (await asyncio.wait_for(reader.read(), 30)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


async def test_prometheus_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(tmp_path, capsys) as (_, port):
        head, body = await request(port, f"GET /metrics HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert "application/openmetrics-text; version=1.0.0" in head
    families = {family.name: family for family in text_string_to_metric_families(body)}  # type: ignore[no-untyped-call]
    assert families["hetero_steps"].type == "counter"
    assert families["hetero_steps"].samples[0].value == 21
    assert families["hetero_samples_per_second"].samples[0].value == pytest.approx(60, rel=0.1)
    speeds = {each.labels["rank"]: each.value for each in families["hetero_rank_speed"].samples}
    assert speeds == {"0": pytest.approx(50), "1": pytest.approx(25)}
    assert {each.labels["host"] for each in families["hetero_rank_speed"].samples} == {"pc", "laptop"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
        ("HEAD /metrics HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", "200"),
    ],
)
async def test_only_who_asks_properly_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sent: str, status: str
) -> None:
    async with served(tmp_path, capsys) as (_, port):
        head, body = await request(port, sent)
        assert head.startswith(f"HTTP/1.1 {status}")
        assert (body == "") == sent.startswith("HEAD")
        assert await request(port, "nonsense\r\n\r\n") == ("", "")


async def test_a_port_in_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(tmp_path, capsys) as (session, port):
        with pytest.raises(UserError, match=f"port {port}"):
            async with metrics_server(session, port):
                pass

"""A container that writes more than the engine keeps while nobody follows it."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from remote import container
from remote.docker_runtime import DockerRuntime
from remote.engine import Engine
from remote.stream import follow
from tests.docker.test_docker_runtime import RUN, plan

pytestmark = pytest.mark.rig

SCRIPT = """
seq 1 200
until ls /hetero/control 2>/dev/null | while read name; do case $name in *-go.json) exit 7;; esac; done; [ $? = 7 ]
do sleep 0.05; done
seq 201 20000
"""


async def test_what_the_engine_has_dropped_is_missing_and_all_that_is_left_comes_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "LOG_FILE_SIZE", "64k")
    monkeypatch.setattr(container, "LOG_FILES", "3")
    runtime = DockerRuntime("alpha", engine)
    await runtime.create(plan(SCRIPT), RUN)
    await runtime.start(RUN)

    async def connect() -> DockerRuntime:
        return runtime

    async def numbers(after: str, until: int) -> tuple[list[int], str]:
        found: list[int] = []
        position = after
        async with aclosing(follow(RUN, connect, after=after, report=lambda change, why: None)) as batches:
            async for lines in batches:
                found += [int(line.text) for line in lines]
                position = lines[-1].position
                if found[-1] == until:
                    break
        return found, position

    before, position = await numbers("", 200)
    assert before == list(range(1, 201))
    await runtime.control(RUN, {"command": "go"})
    to_its_end = [lines async for lines in runtime.logs(RUN)]
    assert to_its_end, "by now the engine has dropped what is too old"
    behind, _ = await numbers(position, 20_000)
    assert behind[0] > 201, "the engine kept all of it: the test has to write more"
    assert behind == list(range(behind[0], 20_001))
    assert len(behind) > 2_000

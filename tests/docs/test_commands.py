"""Every command of the README and the pages is run, in the order it is read, or says here why it is not."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shlex
import sys
from pathlib import Path
from typing import Final

import pytest

from remote.embedded import EmbeddedHost, embedded_hosts
from tests.ssh.test_command_line import SPEEDS, CommandLine

ROOT: Final = Path(__file__).parents[2]
_FIRST: Final = (ROOT / "README.md", ROOT / "docs" / "quick-start.md", ROOT / "CONTRIBUTING.md")
PAGES: Final = (*_FIRST, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in _FIRST))

NOT_RUN_HERE: Final = {
    r"make (check|test)": "this test is part of it",
    r"make lint": "the checks that CI runs beside this test",
    r"make demo": "tests/demo runs the command behind it",
    r"make docs": "tests/docs/test_pages.py builds the site and compares the pages",
    r"make screens": "takes pictures for minutes; the demo behind them is run by tests/demo",
    r"make bench|python -m benchmarks\..*": "takes minutes; tests/unit/test_benchmark_report.py judges its form",
    r"(HETERO_FUZZ_EXAMPLES=\d+ )?\.venv/bin/python -m (pytest tests/fuzz|tests\.fuzz .*)": "takes minutes or hours",
    r"(\.venv/bin/)?pip install .*|(pipx|uv tool) install .*|git clone .*": "tests/packaging installs the wheel",
    r"docker build .*": "takes a base image from a registry; tests/rig builds the same Dockerfile from its own base",
    r"pip download .*": "downloads gigabytes",
    r"(sudo|ssh|wsl|colima|brew|winget|apt|systemctl|ufw) .*": "is for another machine",
    r"pre-commit install": "changes the clone",
}


def commands() -> list[tuple[str, str]]:
    """Return (page, command) for each line that begins with a prompt, continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(
            r"^ *```console\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            text = re.sub(r"\\\n\s*", "", block)
            for line in text.splitlines():
                if line.strip().startswith("$ "):
                    words = shlex.split(line.strip()[2:], comments=True)
                    found.append((str(page.relative_to(ROOT)), shlex.join(words)))
    return found


def ours() -> list[str]:
    """Return the commands of this program, each once, in the order they are first read."""
    return list(dict.fromkeys(command for _, command in commands() if command.startswith("hetero-tui ")))


def test_every_other_command_says_why_it_is_not_run() -> None:
    assert len(commands()) > 25
    for page, command in commands():
        if not command.startswith("hetero-tui "):
            assert any(re.fullmatch(pattern, command) for pattern in NOT_RUN_HERE), f"{page}: {command}"


async def in_terminal(line: CommandLine, arguments: list[str]) -> int:
    """Open the app in a terminal, wait for its first frame with a host, leave it, and return the exit code."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "35"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hetero_tui", *arguments),
        cwd=line.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    def read() -> None:
        nonlocal seen
        try:
            seen += os.read(master, 65536)
        except OSError:
            loop.remove_reader(master)
        arrived.set()

    loop.add_reader(master, read)
    try:
        async with asyncio.timeout(120):
            while b"middle" not in seen:
                arrived.clear()
                await arrived.wait()
            os.write(master, b"q")
            return await process.wait()
    finally:
        loop.remove_reader(master)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


@pytest.mark.slow
async def test_every_command_of_ours_works_in_the_order_it_is_read(tmp_path: Path) -> None:
    async with embedded_hosts([EmbeddedHost(name) for name in SPEEDS]) as hosts:
        line = CommandLine(tmp_path, hosts)
        line.write_cluster(samples=168, epochs=1, data_dir="~/set")
        for host in hosts.hosts:
            (Path(host.home) / "set").mkdir()
            (Path(host.home) / "set" / "words").write_text("the same on all of them")
        try:
            for command in ours():
                await _run(line, shlex.split(command)[1:], command)
        finally:
            await line.run("stop")


async def _run(line: CommandLine, words: list[str], command: str) -> None:
    if words == ["cluster.toml"]:
        assert await in_terminal(line, words) == 0, command
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hetero_tui", *words),
        cwd=line.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    async with asyncio.timeout(180):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{command}\n{out.decode()}\n{err.decode()}"

"""Whatever a host answers, no command lets it reach the terminal raw: neither as text nor as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hetero_tui import cli
from remote.embedded import EmbeddedCluster, EmbeddedHost, embedded_hosts
from tests.ssh.checking import free_port

HOSTILE = (
    "x\x1b]52;c;eA==\x07\x1b[2J\x1b]0;title\x1b\\\rover\x9b31m\x9d0;t\x9c\x85\x7f\x08"
    "\u202egnp\u202c\u2066i\u200b\u2028[red]y[/red]"
)  # fmt: skip
"""Escapes that write to the clipboard, clear, set the title; C1 controls; marks that turn the reading direction."""
STAINS = """\
#!/bin/bash
# Does as it is told, and spoils what it says: all but the facts, so that everything else is asked, too.
set -o pipefail
case "$2" in *"sh -s -- "[0-9]*) exec /bin/sh -c "$2";; esac
/bin/sh -c "$2" 2> >(sed -u -f {stain}.sed >&2) | sed -u -f {stain}.sed
"""
BABBLES = """\
#!/bin/bash
# Says nothing else, and claims that all was well.
timeout 1 cat > /dev/null
printf '@@HTUI1\\nsystem\\t%s\\nuname\\t%s\\n@@END\\n{{"%s"\\n' "$(cat {stain})" "$(cat {stain})" "$(cat {stain})"
"""
REFUSES = """\
#!/bin/bash
cat {stain}
cat {stain} >&2
exit 3
"""
COMMANDS = (
    ("check", "--json"),
    ("check",),
    ("plan", "--json"),
    ("plan",),
    ("up", "--json"),
    ("up",),
    ("status", "--json"),
    ("status",),
    ("stop", "--json"),
    ("stop",),
    ("logs",),
    ("watch",),
    ("data", "--json"),
    ("data",),
    ("images", "--json"),
    ("images",),
    ("doctor", "--json"),
    ("doctor",),
)


@contextmanager
def hostile_hosts(folder: Path) -> Iterator[EmbeddedCluster]:
    """Bring up a host that stains its answers, one that babbles and one that refuses, in a thread of their own."""
    stain = folder / "stain"
    stain.write_text(HOSTILE, encoding="utf-8")
    inside = _for_sed(json.dumps(HOSTILE)[1:-1])
    script = f's/": "/": "{inside}/g\n/^HETERO {{/b\n/^{{/b\ns/$/{_for_sed(HOSTILE)}/\n'
    (folder / "stain.sed").write_text(script, encoding="utf-8")
    specs = []
    for name, text in (("stains", STAINS), ("babbles", BABBLES), ("refuses", REFUSES)):
        shell = folder / f"{name}.sh"
        shell.write_text(text.format(stain=stain))
        specs.append(EmbeddedHost(name, login_shell=("/bin/bash", str(shell))))
    up: list[EmbeddedCluster] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with embedded_hosts(specs) as cluster:
            up.append(cluster)
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert is_up.wait(60)
        yield up[0]
    finally:
        is_over.set()
        thread.join()


def _for_sed(text: str) -> str:
    return text.replace("\\", "\\\\").replace("/", "\\/").replace("&", "\\&")


def write_cluster(cluster: EmbeddedCluster, path: Path) -> None:
    lines = ["[cluster]", 'name = "test"', 'master_address = "127.0.0.1"', f"port = {free_port()}"]
    lines += ["[training]", 'workload = "simple_cnn"', "[limits]", "no_contact_seconds = 20.0"]
    for host in cluster.hosts:
        entry = host.inventory_host().model_dump(
            include={"name", "address", "port", "user", "identity_file", "host_key", "runtime"}
        )
        entry |= {"python": sys.executable, "devices": "cpu"}
        lines += ["[[hosts]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_no_answer_of_a_host_reaches_the_terminal_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    heard = ""
    with hostile_hosts(tmp_path) as cluster:
        write_cluster(cluster, tmp_path / "cluster.toml")
        for command, *options in COMMANDS:
            code = cli._called([command, "cluster.toml", *options])
            said = capsys.readouterr()
            for text in (said.out, said.err):
                raw = {unicodedata.name(each, hex(ord(each))) for each in text if _is_raw(each)}
                assert not raw, (command, options, raw)
                assert "Traceback" not in text, (command, options, text)
            if options:
                assert not said.out or json.loads(said.out), (command, options)
            assert code in (0, 1, 2), (command, options)
            heard += said.out + said.err
    assert "gnp" in heard, "what was said is told"


def _is_raw(letter: str) -> bool:
    return letter != "\n" and unicodedata.category(letter) in {"Cc", "Cs", "Cf", "Zl", "Zp"}

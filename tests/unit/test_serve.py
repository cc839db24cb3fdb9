"""Whom ``hetero-tui serve`` answers, and what its page may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_tui import serve_command
from hetero_tui.serve_command import is_loopback, is_ours, page_policy
from remote.errors import UserError


@pytest.mark.parametrize(
    ("host", "origin", "expose", "answered"),
    [
        ("localhost:8000", None, False, True),
        ("127.0.0.1:9000", "http://127.0.0.1:9000", False, True),
        ("[::1]:8000", "http://[::1]:8000", False, True),
        ("localhost:8000", "https://evil.example", False, False),  # another page opens a WebSocket to this one
        ("localhost:8000", "http://localhost:8001", False, False),
        ("localhost:8000", "null", False, False),
        ("evil.example:8000", "http://evil.example:8000", False, False),  # its name now leads to 127.0.0.1
        ("", None, False, False),
        ("gpu-box.lan:8000", "http://gpu-box.lan:8000", True, True),
        ("gpu-box.lan:8000", "https://evil.example", True, False),
    ],
)
def test_only_its_own_page_is_answered(host: str, origin: str | None, expose: bool, answered: bool) -> None:
    assert is_ours(host, origin, expose=expose) is answered


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "gpu-box.lan", "localhost.evil.example")))


def test_the_page_stays_with_its_server() -> None:
    directives = dict(each.split(" ", 1) for each in page_policy("localhost:8000").split("; "))
    assert directives["connect-src"] == "'self' ws://localhost:8000"
    assert directives["default-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"


def test_a_mistake_in_cluster_toml_is_told_before_a_page_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[cluster]\nname = "home"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"cluster\.toml"):
        serve_command.run([str(file)], host="127.0.0.1", port=0, expose=False)

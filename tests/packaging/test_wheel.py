"""The built wheel in a fresh environment: what pipx and uv install."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hetero_tui import __version__

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(str(word) for word in command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder)
    wheel = next(built.glob("*.whl"))
    call(folder / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    return folder


def test_the_command_works_without_torch(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin/hetero-tui"
    assert call(command, "--version", cwd=tmp_path).strip() == f"hetero-tui {__version__}"
    assert "─ Prepare ─" in call(command, "--help", cwd=tmp_path)
    assert "508" in call(command, "shares", "--speeds", "256,180,45,40", "--global-batch", "192", cwd=tmp_path)
    assert '"$defs"' in call(command, "schema", cwd=tmp_path)
    packages = call(installed / "bin/python", "-m", "pip", "list", "--format", "freeze")
    assert not re.search(r"^(torch|numpy|pytest)==", packages, re.MULTILINE)
    call(
        installed / "bin/python", "-c", "import trainer.events, trainer.plan, remote.plan, hetero_tui.app", cwd=tmp_path
    )


def test_a_mistake_in_the_file_is_told_without_a_traceback(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text('[cluster]\nname = "x"\nprot = 1\n')
    command = [str(installed / "bin/hetero-tui"), "plan", "cluster.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_wheel_holds(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    for wanted in (
        "hetero_tui/py.typed",
        "remote/py.typed",
        "trainer/py.typed",
        "trainer/Dockerfile",
        "remote/scripts/facts.sh",
        "hetero_tui/hetero.tcss",
        "hetero_tui/configs/demo.toml",
    ):
        assert wanted in names
    assert any(name.endswith("share/man/man1/hetero-tui.1") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


def test_what_the_source_distribution_holds(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for wanted in ("pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "docs/index.md"):
        assert wanted in names


def test_the_extra_asks_for_torch(built: Path) -> None:
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    metadata = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    text = wheel.read(metadata).decode()
    assert re.search(r"^Requires-Dist: torch==[\d.]+; extra == ['\"]trainer['\"]", text, re.MULTILINE)
    assert f"\nVersion: {__version__}\n" in text

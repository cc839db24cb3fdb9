"""The pages agree with the code, and the site has no dead link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.man import PAGE, man_page
from docs.reference import PAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_those_of_the_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run make docs"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_links_of_pages_outside_the_site_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_file_that_the_architecture_page_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:hetero_tui|remote|trainer)/[\w/]+\.?\w*/?)`", text):
        assert (ROOT / path).exists(), path


def test_the_man_page_is_that_of_the_code_and_groff_has_no_complaint() -> None:
    assert PAGE.read_text(encoding="utf-8") == man_page(), "run make docs"
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-ww", "-K", "utf8", "-T", "utf8", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    for word in ("SYNOPSIS", "HETERO-TUI CHECK", "--experiments", "Exit codes"):
        assert word in re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)

"""Your code on its way to the hosts: what is sent, what is refused, and what a host keeps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from remote.errors import CommandFailed, InventoryError
from remote.inventory import Inventory, load_inventory, parse_inventory
from remote.local import LocalRunner
from remote.plan_contract import tree_folder
from remote.workdir import MOST_BYTES, WorkdirError, take_snapshot
from remote.workdir_sync import sync, sync_all


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "models").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "models" / "a b.py").write_text("x = 1\n")
    (folder / "models" / "same.py").write_text("x = 1\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, tuple[str, bool]]:
    return {
        str(path.relative_to(folder)): (path.read_text(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_equal_files_make_an_equal_digest_whatever_their_times(code: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(code, copy)
    os.utime(copy / "train.py", (1, 1))
    first = take_snapshot(code, "train.py")
    assert first.digest == take_snapshot(copy, "./train.py").digest
    (copy / "run.sh").chmod(0o644)
    assert first.digest != take_snapshot(copy, "train.py").digest


def test_what_is_never_code_and_what_is_ignored_stays_here(code: Path) -> None:
    for path in (
        ".git/config",
        "__pycache__/a.pyc",
        ".venv/bin/python",
        "models/__pycache__/b.pyc",
        "experiments/x/log",
    ):
        (code / path).parent.mkdir(parents=True, exist_ok=True)
        (code / path).write_text("no")
    (code / "data.bin").write_text("no")
    (code / ".heteroignore").write_text("*.bin\n")
    paths = {file.path for file in take_snapshot(code, "train.py").files}
    assert paths == {".heteroignore", "models/a b.py", "models/same.py", "run.sh", "train.py"}


def test_what_cannot_be_sent_is_refused_with_a_way_out(code: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkdirError, match="no folder"):
        take_snapshot(tmp_path / "nowhere", "train.py")
    with pytest.raises(WorkdirError, match=r"has no other\.py"):
        take_snapshot(code, "other.py")
    (code / "out").symlink_to("/etc/hostname")
    with pytest.raises(WorkdirError, match="leads out of the folder"):
        take_snapshot(code, "train.py")
    (code / "out").unlink()
    (code / "odd\nname").write_text("")
    with pytest.raises(WorkdirError, match="rename the file"):
        take_snapshot(code, "train.py")
    (code / "odd\nname").unlink()
    with (code / "huge").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(WorkdirError, match="data belongs into data_dir"):
        take_snapshot(code, "train.py")


async def test_a_host_gets_what_it_lacks_and_nothing_twice(code: Path, home: Path) -> None:
    runner = LocalRunner("here")
    snapshot = take_snapshot(code, "train.py")
    first = await sync(runner, snapshot, str(home))
    assert (first.files_sent, first.was_there) == (3, False)
    tree = Path(tree_folder(str(home), snapshot.digest))
    assert contents(tree) == contents(code)
    again = await sync(runner, snapshot, str(home))
    assert (again.files_sent, again.bytes_sent, again.was_there) == (0, 0, True)
    (code / "train.py").write_text("print('changed')\n")
    changed = take_snapshot(code, "train.py")
    second = await sync(runner, changed, str(home))
    assert second.files_sent == 1
    assert contents(Path(tree_folder(str(home), changed.digest))) == contents(code)
    assert (tree / "train.py").read_text() == "print('hello')\n"
    assert not list((home / ".cache/hetero-tui/workdir/incoming").iterdir())


async def test_a_changed_tree_is_made_anew(code: Path, home: Path) -> None:
    runner = LocalRunner("here")
    snapshot = take_snapshot(code, "train.py")
    await sync(runner, snapshot, str(home))
    tree = Path(tree_folder(str(home), snapshot.digest))
    (tree / "models" / "same.py").chmod(0o644)
    (tree / "models" / "same.py").write_text("tampered")
    assert not (await sync(runner, snapshot, str(home))).was_there
    assert contents(tree) == contents(code)


async def test_a_file_that_changes_meanwhile_is_noticed_and_nothing_half_made_is_left(code: Path, home: Path) -> None:
    runner = LocalRunner("here")
    snapshot = take_snapshot(code, "train.py")
    (code / "train.py").write_text("print('other')\n")
    with pytest.raises(CommandFailed, match="arrived damaged"):
        await sync(runner, snapshot, str(home))
    assert not Path(tree_folder(str(home), snapshot.digest)).exists()
    assert not list((home / ".cache/hetero-tui/workdir/incoming").iterdir())


async def test_all_hosts_are_told_of_and_a_refusal_names_its_host(code: Path, home: Path, tmp_path: Path) -> None:
    snapshot = take_snapshot(code, "train.py")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a home")
    told: list[str] = []
    hosts = {"good": (LocalRunner("good"), str(home)), "bad": (LocalRunner("bad"), str(blocked))}
    with pytest.raises(CommandFailed, match="bad: could not keep the code"):
        await sync_all(snapshot, hosts, lambda progress: told.append(progress.host))
    assert set(told) == {"good", "bad"}
    assert contents(Path(tree_folder(str(home), snapshot.digest))) == contents(code)


FILE = """
[cluster]
name = "c"
[image]
ref = "x"
[training]
workdir = "code"
script = "{script}"
[[hosts]]
name = "a"
address = "10.0.0.1"
"""


def test_the_folder_is_taken_from_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(FILE.format(script="train.py"))
    inventory: Inventory = load_inventory(tmp_path / "cluster.toml")
    assert inventory.training.workdir == str(tmp_path / "code")


@pytest.mark.parametrize("script", ["/opt/train.py", "~/train.py", "../train.py", "a/../../b.py"])
def test_a_script_outside_the_folder_is_a_mistake(script: str) -> None:
    with pytest.raises(InventoryError, match="must lie below workdir"):
        parse_inventory(FILE.format(script=script))


def test_a_folder_without_a_script_is_a_mistake() -> None:
    with pytest.raises(InventoryError, match="set script, its path below workdir"):
        parse_inventory(FILE.replace('script = "{script}"', 'workload = "simple_cnn"'))

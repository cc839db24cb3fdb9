"""Files on this machine that somebody may have mangled: settings, SSH, recordings, caches: a result or an error."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import asyncssh
from hypothesis import example, given
from hypothesis import strategies as st

from hetero_tui import report_command, runs_command
from hetero_tui.init_file import Candidate, cluster_text
from hetero_tui.init_ssh_config import ssh_hosts
from hetero_tui.prediction_report import compared
from hetero_tui.recording import record_time
from hetero_tui.replay_command import line_document
from hetero_tui.settings import load_settings
from hetero_tui.stored_runs import find_run
from remote.errors import ImageError, RemoteError, UserError
from remote.images.build_context import is_ignored, parse_dockerignore
from remote.images.credentials import registry_auth
from remote.images.store import LayerStore
from remote.inventory import parse_inventory
from remote.known_hosts import HostKeyCheck, KnownHosts
from remote.recording import RecordingFile, read_recording
from remote.run_dir import EVENTS_FILE, PLAN_FILE, RunDir, RunDirError
from remote.runtime import LogLine
from remote.speeds import read_speeds
from tests.fuzz.hostile import DEEP, as_json, few, fresh_folder, json_values, mangled, texts, untouched
from tests.unit.stored import stored_run

SETTINGS = b'theme = "high-contrast"\nascii = false\n[keys]\n"monitor.pause" = "ctrl+y"\nlog.follow = "F"\n'
SSH_CONFIG = (
    b"Host alpha beta\n  HostName 192.0.2.1\n  Port 22\n  User ana\nInclude more/*.conf\nHost *\n  ProxyJump gate\n"
)
KEY = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32)))
KNOWN_HOSTS = (
    b"192.0.2.1,alpha ssh-ed25519 " + KEY + b"\n@revoked * ssh-ed25519 " + KEY + b"\n|1|YQ==|YQ== ssh-rsa AAAA\n"
)
LINES = [b'{"at":1.5,"host":"h1","position":"%d","line":"hello %d"}\n' % (n, n) for n in range(40)]
DOCKER = b'{"auths":{"ghcr.io":{"auth":"dXNlcjpwYXNz"}},"credHelpers":{},"credsStore":""}'
SPEEDS = (
    b'{"schema":1,"hosts":{"a":{"workload":"simple_cnn","devices":["cpu"],"tables":[[[8,0.1],[64,0.5]]],"at":1.0}}}'
)
PREDICTION = b'{"everyone":{"samples_per_second":10.0,"communication_seconds":0.1},"simulated":false}'


def _recorded() -> tuple[dict[str, bytes], str]:
    with tempfile.TemporaryDirectory() as folder:
        run = stored_run(Path(folder))
        return {each.name: each.read_bytes() for each in run.run_dir.path.iterdir() if each.is_file()}, run.run_id


RUN, RUN_ID = _recorded()
plain = texts.filter(lambda text: "\ud800" not in text)
"""What a name in ``cluster.toml`` and decoded output can be: text without halves of pairs."""


def _recording(lines: list[bytes], member_bytes: int = 600) -> bytes:
    with fresh_folder() as folder:
        with RecordingFile(folder / "events", member_bytes=member_bytes) as file:
            for line in lines:
                file.append(line)
        return (folder / "events").read_bytes()


RECORDING = _recording(LINES)


@few
@given(st.one_of(mangled(SETTINGS), st.binary(max_size=100)))
@example(f"a = {DEEP}".encode())
@example(b"[keys]\n" + b"a." * 2000 + b"b = 1")
def test_settings_are_read_or_refused(data: bytes) -> None:
    with fresh_folder() as folder, contextlib.suppress(UserError):
        (folder / "hetero-tui").mkdir()
        (folder / "hetero-tui" / "config.toml").write_bytes(data)
        load_settings({"XDG_CONFIG_HOME": str(folder)}).check(["high-contrast"], ["monitor.pause"])


@few
@given(
    st.one_of(
        mangled(SSH_CONFIG),
        st.lists(
            st.tuples(st.sampled_from(["Host", "Include", "Port", "Match", "ProxyJump", "User", "HostName"]), texts)
        ).map(lambda pairs: "\n".join(f"{key} {value}" for key, value in pairs).encode(errors="replace")),
    )
)
@example(b"Include ~nobody-at-all/x\n")
@example(b"Include more/**\nInclude **x\nInclude ''\nInclude [\n")
@example(b"Include config\nHost a\n")
@example(b"Host a\nPort 99999999999999999999\n")
@example(b'Host "a\n')
def test_an_ssh_configuration_names_machines_or_is_refused(data: bytes) -> None:
    with fresh_folder() as folder, contextlib.suppress(ValueError):
        # What it would run or fetch is ssh's affair, and what holds for all hosts is not asked here.
        (folder / "config").write_bytes(re.sub(rb"(?i)xec", b"xxx", data))
        for host in ssh_hosts(folder / "config"):
            assert host.described


@few
@given(st.one_of(mangled(KNOWN_HOSTS), texts.map(lambda text: text.encode(errors="replace"))), texts)
def test_known_hosts_trust_or_do_not(data: bytes, name: str) -> None:
    key = asyncssh.import_public_key(b"ssh-ed25519 " + KEY)
    with fresh_folder() as folder:
        (folder / "known_hosts").write_bytes(data)
        for host in (name, "alpha", "192.0.2.1"):
            check = HostKeyCheck("h1", known=KnownHosts((folder / "known_hosts",)).load())
            check.trusted(host, "", 22)
            if not check.accepts(key):
                assert str(check.error("changed"))


@few
@given(st.one_of(mangled(DOCKER), json_values.map(as_json).map(str.encode)))
@example(b'{"credHelpers":[1]}')
@example(b'{"auths":"x"}')
@example(b'{"auths":{"ghcr.io":{"auth":"\xc3\xa4"}}}')
@example(DEEP.encode())
def test_credentials_are_found_or_refused(data: bytes) -> None:
    with fresh_folder() as folder, untouched(folder, {"config.json": data}), contextlib.suppress(ImageError):
        assert isinstance(asyncio.run(registry_auth("ghcr.io", folder / "config.json")), str)


@few
@given(st.one_of(mangled(SPEEDS), mangled(PREDICTION), json_values.map(as_json).map(str.encode)))
@example(SPEEDS.replace(b"0.1", b"1" + b"0" * 400))
@example(PREDICTION.replace(b"10.0", b"1e999"))
@example(PREDICTION.replace(b"10.0", b"1" + b"0" * 400))
@example(DEEP.encode())
def test_caches_beside_the_runs_count_or_do_not(data: bytes) -> None:
    with fresh_folder() as folder, untouched(folder, {"speeds.json": data, "prediction.json": data}):
        read_speeds(folder / "speeds.json")
        told = compared(folder, 5.0)
        assert json.dumps(told, allow_nan=False)


@few
@given(st.one_of(st.dictionaries(st.sampled_from(["config", "layers", "architecture"]), json_values), json_values))
@example({"config": 5, "layers": [], "architecture": "x"})
@example({"config": "a" * 64, "layers": [{"digest": 7, "diff_id": "x", "size": 0}], "architecture": "x"})
def test_what_is_known_of_images_counts_or_does_not(known: object) -> None:
    digest = "a" * 64
    with fresh_folder() as folder:
        store = LayerStore.open(folder)
        for name in (f"{digest}.json", f"{digest}.gzip"):
            (store.records / name).write_text(as_json(known))
        assert store.recall(digest) is None
        assert store.packed(digest, "gzip") is None


@few
@given(st.lists(texts, max_size=5), texts)
@example(["[z-a]"], "x")
@example(["**/" * 12 + "b"], "a/" * 40)
@example(["*" * 25 + "b"], "a" * 40)
def test_an_ignore_file_is_understood_or_refused(lines: list[str], path: str) -> None:
    with contextlib.suppress(ImageError):
        is_ignored(path, parse_dockerignore("\n".join(lines)))


@few
@given(mangled(RECORDING))
@example(RECORDING[:-9] + b"garbage" + RECORDING)
@example(RECORDING[:300] + b"\xff" + RECORDING[301:])
def test_a_mangled_recording_goes_on_behind_what_can_be_read_and_loses_nothing(data: bytes) -> None:
    with fresh_folder() as folder:
        path = folder / EVENTS_FILE
        path.write_bytes(data)
        before = list(read_recording(path))
        with RecordingFile(path) as file:
            file.append(b"new\n")
        assert list(read_recording(path)) == [*before, b"new\n"]
        kept = [each.read_bytes() for each in folder.iterdir() if each != path]
        # What nobody can read any more stays in a file beside it.
        assert all(data.endswith(each) for each in kept)


@few
@given(
    st.one_of(
        st.fixed_dictionaries({"at": json_values}, optional={"did": json_values, "line": texts, "host": texts}),
        json_values.filter(lambda value: isinstance(value, dict)),
    )
)
@example({"at": 10**400, "did": "note"})
@example({"at": float("inf"), "host": "h", "position": "1", "line": '{"ht":1,"kind":"step","step":' + "9" * 5000})
@example({"at": 1.0, "did": "note", "text": float("nan")})
def test_a_record_is_told_as_json_whatever_it_holds(record: dict[str, Any]) -> None:
    at = record_time(record, 5.0)
    assert at >= 5.0
    assert json.dumps(line_document(record, at), allow_nan=False)


@few
@given(st.sampled_from(sorted(set(RUN) - {"cluster.toml"})), st.data())
def test_a_mangled_run_is_listed_reported_and_played_or_refused(name: str, data: st.DataObject) -> None:
    is_packed = RUN[name].startswith(b"\x1f\x8b") and data.draw(st.booleans())
    # What is inside is reached only through a stream that unpacks.
    content = data.draw(mangled(gzip.decompress(RUN[name]) if is_packed else RUN[name]))
    files = RUN | {name: gzip.compress(content) if is_packed else content}
    _look_at(files, RUN_ID)


@few
@given(st.binary(max_size=200), st.sampled_from([RUN_ID, "x", "2026-x", "latest"]))
@example(RUN[PLAN_FILE], "notes")
def test_a_run_folder_with_any_content_is_read_or_refused(content: bytes, run_id: str) -> None:
    _look_at(dict.fromkeys(RUN, content) | {PLAN_FILE: content}, run_id)


def _look_at(files: dict[str, bytes], run_id: str) -> None:
    with fresh_folder() as experiments, contextlib.redirect_stdout(io.StringIO()):
        folder = experiments / "home" / run_id
        folder.mkdir(parents=True)
        with untouched(folder, files):
            assert runs_command.run(experiments, as_json=True) == 0
            assert runs_command.run(experiments, as_json=False) == 0
            with contextlib.suppress(UserError):
                report_command.run([run_id], experiments=experiments, output=experiments / "page", as_json=True)
            with contextlib.suppress(UserError):
                find_run(run_id, experiments).inventory()
            run = RunDir(folder)
            for read in (run.read_plan, run.read_facts, run.read_ended, run.read_checks, run.positions):
                with contextlib.suppress(RunDirError):
                    read()


@few
@given(st.lists(plain, min_size=1, max_size=4), plain)
def test_what_a_run_is_told_to_keep_is_kept_in_its_folder(lines: list[str], host: str) -> None:
    with fresh_folder() as experiments, RunDir.create(experiments, host, RUN_ID) as run:
        with contextlib.suppress(OSError):
            run.append(host, [LogLine(line, str(number)) for number, line in enumerate(lines)])
        run.close()
        assert [line.text for line in run.lines()] in (lines, [])
        assert all(os.path.commonpath([path, experiments]) == str(experiments) for path in experiments.rglob("*"))
        assert len(list(experiments.iterdir())) == 1


@few
@given(plain, st.lists(st.tuples(texts, texts, texts), max_size=3))
def test_the_file_that_init_writes_is_one_that_can_be_read(name: str, machines: list[tuple[str, str, str]]) -> None:
    taken = [Candidate(f"h{number}", each[0], each[1], problem=each[2]) for number, each in enumerate(machines)]
    taken = [Candidate("h", "local", "this machine"), *taken]
    with contextlib.suppress(RemoteError):
        assert len(parse_inventory(cluster_text(name, taken), "cluster.toml").hosts) == len(taken)

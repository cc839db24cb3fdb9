"""The build context, credentials, references, and what a registry's complaints mean."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path

import pytest

from remote.errors import ImageError
from remote.images.build import build_label
from remote.images.build_context import is_ignored, packed_context, parse_dockerignore
from remote.images.credentials import registry_auth
from remote.images.reference import mark_of, marked_ref, parse_reference
from remote.images.registry_pull import PullProgress, registry_error


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "b/a.pyc", False),
        ("**/*.pyc", "a.pyc", True),
        ("**/*.pyc", "b/c/a.pyc", True),
        ("data", "data/large/file", True),
        ("/data/", "data/file", True),
        ("data/**", "data/a/b", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c].txt", "b.txt", True),
        ("# data", "data", False),
        (".git", ".gitignore", False),
    ],
)
def test_dockerignore_patterns(pattern: str, path: str, ignored: bool) -> None:
    assert is_ignored(path, parse_dockerignore(pattern)) is ignored


def test_the_last_matching_line_decides() -> None:
    rules = parse_dockerignore("*\n!trainer\ntrainer/secret\n")
    assert is_ignored("data", rules)
    assert not is_ignored("trainer/agent.py", rules)
    assert is_ignored("trainer/secret/key", rules)


def _fill(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / ".dockerignore").write_text("*.log\nDockerfile\nkept/*\n!kept/this\n")
    (folder / "kept").mkdir()
    for name in ("a.py", "run.log", "kept/this", "kept/that"):
        (folder / name).write_text(name)
    (folder / "a.py").chmod(0o700)
    (folder / "link").symlink_to("a.py")


def test_the_context_is_the_same_whenever_the_files_are(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        _fill(folder)
        (folder / "run.log").write_text(name)
        with packed_context(folder) as context:
            digests.append(context.digest)
            with tarfile.open(context.path) as tar:
                members = {member.name: member for member in tar.getmembers()}
    assert digests[0] == digests[1]
    assert set(members) == {".dockerignore", "Dockerfile", "a.py", "kept", "kept/this", "link"}
    assert (members["a.py"].mode, members["a.py"].mtime, members["a.py"].uid) == (0o755, 0, 0)
    (tmp_path / "two/a.py").write_text("changed")
    with packed_context(tmp_path / "two") as context:
        assert context.digest != digests[0]
        assert build_label(context, {"DEVICE": "cpu"}) != build_label(context, {"DEVICE": "cuda"})


def test_no_dockerfile_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no Dockerfile"), packed_context(tmp_path):
        pass


@pytest.mark.parametrize(
    ("text", "familiar", "registry"),
    [
        ("python", "python:latest", "docker.io"),
        ("team/app:2", "team/app:2", "docker.io"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000"),
        ("ghcr.io/a/b/c:1.0", "ghcr.io/a/b/c:1.0", "ghcr.io"),
        (f"app@sha256:{'a' * 64}", f"app@sha256:{'a' * 64}", "docker.io"),
    ],
)
def test_references(text: str, familiar: str, registry: str) -> None:
    reference = parse_reference(text)
    assert (reference.familiar, reference.registry) == (familiar, registry)
    assert marked_ref(":".join(mark_of(text))) == familiar
    assert marked_ref(text) is None


def _decoded(value: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(base64.urlsafe_b64decode(value))
    return found


async def test_credentials_of_the_docker_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    assert await registry_auth("ghcr.io", path) == ""
    pair = base64.b64encode(b"me:se:cret").decode()
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": pair}, "ghcr.io": {}}}))
    assert _decoded(await registry_auth("docker.io", path))["password"] == "se:cret"
    assert await registry_auth("ghcr.io", path) == ""

    helper = tmp_path / "docker-credential-rig"
    helper.write_text('#!/bin/sh\nread key\necho "{\\"Username\\":\\"$key\\",\\"Secret\\":\\"s3\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path.write_text(json.dumps({"credHelpers": {"ghcr.io": "rig"}, "credsStore": "missing"}))
    found = _decoded(await registry_auth("ghcr.io", path))
    assert (found["username"], found["password"]) == ("ghcr.io", "s3")
    with pytest.raises(ImageError, match="docker-credential-missing"):
        await registry_auth("docker.io", path)
    helper.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    assert await registry_auth("ghcr.io", path) == ""
    path.write_text("[]")
    with pytest.raises(ImageError, match="no JSON object"):
        await registry_auth("ghcr.io", path)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("toomanyrequests: You have reached your pull rate limit.", "had enough pulls"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "not offered"),
        ("http: server gave HTTP response to HTTPS client", "speaks HTTP"),
        ("x509: certificate signed by unknown authority", "does not trust"),
        ("manifest for ghcr.io/a/b:1 not found: manifest unknown: manifest unknown", "has no ghcr.io/a/b:1"),
        ("Get https://ghcr.io/v2/a/b/manifests/1: no basic auth credentials", "does not let us"),
        ("pull access denied for a/b, repository does not exist or may require 'docker login'", "does not let us"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", "cannot reach"),
    ],
)
def test_what_a_registry_says(said: str, cause: str) -> None:
    error = registry_error("h1", parse_reference("ghcr.io/a/b:1"), said)
    assert error is not None
    assert cause in error.message
    assert said in error.message
    assert error.next_step


def test_an_unknown_complaint_is_not_guessed() -> None:
    assert registry_error("h1", parse_reference("a"), "the moon is full") is None


def test_pull_progress_adds_up_layers() -> None:
    progress = PullProgress()
    for status, current in (("Pulling fs layer", 0), ("Downloading", 40), ("Downloading", 70)):
        progress.note({"id": "aa", "status": status, "progressDetail": {"current": current, "total": 100}})
    progress.note({"id": "bb", "status": "Already exists"})
    told = progress.progress("h1")
    assert (told.phase, told.done, told.total) == ("pulling", 70, 100)
    progress.note({"id": "aa", "status": "Download complete"})
    assert progress.progress("h1").phase == "unpacking"

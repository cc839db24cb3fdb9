"""The trainer's image for the rig, built from what the machine can reach: Debian's mirror and the package index.

Three parts, each kept as long as what it is made from does not change: the base (a minimal Debian with Python), the
wheels, and the build itself, whose layers the builder's engine keeps. A change of the trainer's code costs seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.rig.layers import image_id
from tests.rig.leftovers import Claim
from tests.rig.machine import DOCKER, Machine, call
from tests.rig.places import REPOSITORY, Busy, RigError, locked

_BASE_PACKAGES = "python3,python3-venv"
_KEPT_IMAGES = 3
_KEPT_BUILD_CACHE = "6GB"


@dataclass(frozen=True, slots=True)
class TrainerImage:
    """An image in the data root of an engine that is not running."""

    reference: str
    data_root: Path

    def in_use(self) -> AbstractContextManager[None]:
        """Keep the image: its layers are shared, so they must stay for as long as any engine uses them."""
        return locked(_use_lock(self.data_root.parent, self.reference), shared=True)


def _use_lock(cache: Path, reference: str) -> Path:
    return cache / f"{reference.replace(':', '-')}.lock"


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def _release() -> str:
    """Return Debian's code name of this machine."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.MULTILINE)
    if found is None:
        raise RigError("/etc/os-release names no VERSION_CODENAME; the rig's image is built from Debian packages")
    return found[1]


def _mirror(release: str) -> str:
    """Return the mirror this machine's apt uses, which may be the only one it can reach."""
    listed = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {release}")
    return next(iter(listed.stdout.split()), "http://deb.debian.org/debian")


def _base(cache: Path) -> Path:
    """Return a tar of a minimal Debian with Python, making it where the cache has none (about 20 s)."""
    release = _release()
    tar = cache / f"base-{release}-{_digest([_BASE_PACKAGES.encode()])}.tar"
    if tar.exists():
        return tar
    unfinished = tar.with_suffix(".unfinished.tar")
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
    call(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={_BASE_PACKAGES}"),
        *('--aptopt=Acquire::Retries "3"', "--dpkgopt=force-unsafe-io", *excluded),
        *(release, str(unfinished), _mirror(release)),
        timeout=400,
    )
    unfinished.rename(tar)
    return tar


def _wheels(cache: Path, python: str) -> Path:
    """Return a folder with the wheels of torch as this environment has it, downloading them where the cache has none.

    Args:
        cache: Where wheels are kept; those of other versions are removed.
        python: Version the wheels are for, such as ``3.11``.
    """
    torch = version("torch")
    constraints = REPOSITORY / "constraints.txt"
    folder = cache / f"wheels-{_digest([torch.encode(), python.encode(), constraints.read_bytes()])}"
    if folder.exists():
        return folder
    for stale in cache.glob("wheels-*"):
        shutil.rmtree(stale)
    unfinished = folder.with_suffix(".unfinished")
    # The caller's own environment: it holds the index, certificates and proxies with which torch was installed here.
    call(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"),
        *("--python-version", python, "--constraint", str(constraints), "--dest", str(unfinished)),
        *(f"torch=={torch}", "numpy", "psutil", "nvidia-ml-py"),
        timeout=900,
        env=os.environ,
    )
    unfinished.rename(folder)
    return folder


def _sources() -> list[Path]:
    """Return the files the image is made of, the wheels apart."""
    code = [path for path in (REPOSITORY / "trainer").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted([*code, REPOSITORY / "constraints.txt"])


def _context(wheels: Path, folder: Path) -> None:
    """Lay out the build context."""
    for path in _sources():
        target = folder / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    call("cp", "--archive", "--link", str(wheels), str(folder / "wheelhouse"))


def _import_base(builder: Machine, base: Path) -> tuple[str, str]:
    """Return the base image's reference and its Python's version, importing it where the builder has none."""
    reference = f"rig-base:{base.stem}"
    if not builder.docker("images", "--quiet", reference):
        with base.open("rb") as tar:
            argv = builder.enter(DOCKER, "import", "-", reference)
            done = subprocess.run(argv, stdin=tar, capture_output=True, check=False, timeout=120)
        if done.returncode != 0:
            raise RigError(f"docker import of {base} said: {done.stderr.decode(errors='replace')}")
    script = "import sys; print(*sys.version_info[:2], sep='.')"
    return reference, builder.docker("run", "--rm", "--network=host", reference, "python3", "-c", script)


def _build(builder: Machine, cache: Path, reference: str) -> None:
    """Build inside the builder, which has no network: what the build needs is in its context."""
    base, python = _import_base(builder, _base(cache))
    with tempfile.TemporaryDirectory(dir=builder.folder / "srv") as name:
        _context(_wheels(cache, python), Path(name))
        inside = "/" + str(Path(name).relative_to(builder.folder))
        builder.docker(
            *("build", "--network=host", "--file", f"{inside}/trainer/Dockerfile", "--tag", reference),
            *("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"TORCH_VERSION={version('torch')}"),
            *("--build-arg", f"VERSION={reference.rpartition(':')[2]}", inside),
            timeout=600,
        )
    tags = builder.docker("images", "--format={{.Repository}}:{{.Tag}}", reference.rpartition(":")[0]).split()
    for old in [tag for tag in tags if tag != reference][_KEPT_IMAGES:]:  # listed newest first
        lock = _use_lock(cache, old)
        try:
            with locked(lock, wait=False):
                builder.docker("rmi", old)
                lock.unlink()
        except Busy:
            continue  # some rig runs on it
    builder.docker("builder", "prune", "--force", f"--keep-storage={_KEPT_BUILD_CACHE}")


def _key() -> str:
    """Return a digest of everything the image is made from."""
    parts = [_release(), _BASE_PACKAGES, version("torch")]
    for path in _sources():
        parts += [str(path.relative_to(REPOSITORY)), path.read_text()]
    return _digest(part.encode() for part in parts)


def prepare_image(cache: Path) -> TrainerImage:
    """Return the image of the trainer as it is in this checkout, building what is missing.

    Raises:
        RigError: something could not be fetched or built, with what was said.
    """
    image = TrainerImage(f"hetero-trainer:{_key()}", cache / "builder")
    with locked(cache / "image.lock"):
        if image_id(image.data_root, image.reference):
            return image
        claim = Claim(cache)
        builder = Machine(claim.id, "builder", claim.folder / "builder", data_root=image.data_root)
        try:
            builder.prepare()
            builder.power_on()
            builder.wait_on()
            builder.start_engine("--bridge=none", "--iptables=false", "--ip-masq=false")
            builder.wait_engine()
            _build(builder, cache, image.reference)
            builder.stop_engine()
        finally:
            builder.power_off()
            claim.release()
    return image

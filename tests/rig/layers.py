"""Give a Docker engine an image without loading it: hard links to the layers another engine has unpacked.

Relies on the layout of the overlay2 graph driver's data root, the same in engines 20.10 to 28: ``overlay2/ID`` is an
unpacked layer, never written once it is one, and ``image/overlay2`` says which layers make which image. Linking takes a
second where ``docker load`` of the same image takes a quarter of a minute.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.rig.machine import call
from tests.rig.places import RigError


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _chain(diff_ids: list[str]) -> list[str]:
    """Return the chain id of every layer (OCI image specification, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        joined = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(joined.encode()).hexdigest() if joined else diff_id)
    return chain


def image_id(data_root: Path, reference: str) -> str:
    """Return the id of ``repository:tag`` in a stopped engine's data root, or an empty string."""
    path = data_root / "image/overlay2/repositories.json"
    if not path.exists():
        return ""
    repositories = json.loads(path.read_text())["Repositories"]
    return str(repositories.get(reference.rpartition(":")[0], {}).get(reference, ""))


def link_image(source: Path, reference: str, target: Path) -> None:
    """Make ``reference`` of the stopped engine at ``source`` an image of the engine not yet started at ``target``.

    Args:
        source: Data root with the image; nothing in it is changed.
        reference: ``repository:tag``.
        target: Empty data root on the same file system.

    Raises:
        RigError: there is no such image, or linking failed.
    """
    identity = image_id(source, reference)
    if not identity:
        raise RigError(f"{source} has no image {reference}")
    old, new = source / "image/overlay2", target / "image/overlay2"
    config = old / "imagedb/content/sha256" / _hex(identity)
    chain = _chain(json.loads(config.read_text())["rootfs"]["diff_ids"])

    (new / "imagedb/content/sha256").mkdir(parents=True)
    shutil.copy2(config, new / "imagedb/content/sha256")
    (new / "layerdb/sha256").mkdir(parents=True)
    (target / "overlay2/l").mkdir(parents=True)
    layers = []
    for chain_id in chain:
        entry = old / "layerdb/sha256" / _hex(chain_id)
        shutil.copytree(entry, new / "layerdb/sha256" / entry.name)
        layer = source / "overlay2" / (entry / "cache-id").read_text()
        layers.append(str(layer))
        link = (layer / "link").read_text()
        (target / "overlay2/l" / link).symlink_to(f"../{layer.name}/diff")
    call("cp", "--archive", "--link", *layers, str(target / "overlay2"), timeout=120)
    name = reference.rpartition(":")[0]
    (new / "repositories.json").write_text(json.dumps({"Repositories": {name: {reference: identity}}}))

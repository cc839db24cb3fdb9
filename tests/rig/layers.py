"""Give a Docker engine an image without loading it: it shares the layers another engine has unpacked.

Relies on the layout of the overlay2 graph driver's data root, the same in engines 20.10 to 28: ``overlay2/ID`` is an
unpacked layer, never written once it is one, and ``image/overlay2`` says which layers make which image. A layer's files
here are a link into the other data root, which ``init.sh`` mounts read-only; ``docker rmi`` removes the link.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.rig.places import RigError

SHARED = "shared"
"""Folder in a data root where the engine finds the layers of another; the engine itself ignores it."""


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
        source: Data root with the image; nothing in it is changed. It must be seen at ``target/shared`` by the engine.
        reference: ``repository:tag``.
        target: Empty data root.

    Raises:
        RigError: there is no such image.
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
    (target / SHARED).mkdir()
    for chain_id in chain:
        entry = old / "layerdb/sha256" / _hex(chain_id)
        shutil.copytree(entry, new / "layerdb/sha256" / entry.name)
        layer = source / "overlay2" / (entry / "cache-id").read_text()
        own = target / "overlay2" / layer.name
        (own / "work").mkdir(parents=True)
        (own / "committed").touch()
        for name in ("link", "lower"):
            if (layer / name).exists():  # the lowest layer has no lower
                shutil.copy2(layer / name, own)
        (own / "diff").symlink_to(f"../../{SHARED}/overlay2/{layer.name}/diff")
        (target / "overlay2/l" / (layer / "link").read_text()).symlink_to(f"../{layer.name}/diff")
    repository = reference.rpartition(":")[0]
    (new / "repositories.json").write_text(json.dumps({"Repositories": {repository: {reference: identity}}}))

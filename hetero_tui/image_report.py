"""What the commands about images print. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from hetero_tui.sanitize import clean
from remote.images.model import ImagePlan, ImageProgress

if TYPE_CHECKING:
    from remote.images.service import PlacedImage, Removed

SCHEMA: Final = 1


def size_text(size: float) -> str:
    """Return bytes with a unit a person reads."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def image_line(progress: ImageProgress) -> str:
    """Return one host's progress in one line."""
    parts = [f"{progress.host} {progress.phase}"]
    if progress.total:
        parts.append(f"{size_text(progress.done)} of {size_text(progress.total)}")
    if progress.phase in ("sending", "pulling", "reading") and progress.rate:
        parts.append(f"{size_text(progress.rate)}/s")
        if progress.seconds_left:
            parts.append(f"{progress.seconds_left:.0f} s left")
    if progress.detail and progress.phase != "failed":  # the whole error follows, with what to do
        parts.append(clean(progress.detail, 300))
    return " · ".join(parts)


def images_document(plan: ImagePlan, failures: Mapping[str, str], brought: bool) -> dict[str, Any]:
    """Return the plan, and how it went, for programs."""
    hosts = [asdict(each) | {"failure": failures.get(each.host, "")} for each in plan.hosts]
    return {"schema": SCHEMA, "ok": not failures and not plan.impossible, "brought": brought, "hosts": hosts}


def placed_document(placed: Sequence[PlacedImage]) -> dict[str, Any]:
    """Return what was put on the hosts for programs."""
    return {"schema": SCHEMA, "images": [asdict(each) for each in placed]}


def placed_text(placed: Sequence[PlacedImage]) -> str:
    """Return what was put on the hosts for people."""
    if not placed:
        return "this program has put no image on these hosts"
    width = max(len(each.host) for each in placed)
    return "\n".join(
        f"{each.host:<{width}}  {clean(each.ref)}  {each.image_id[7:19]}  {size_text(each.size)}" for each in placed
    )


def removed_document(removed: Sequence[Removed]) -> dict[str, Any]:
    """Return what was removed for programs."""
    return {"schema": SCHEMA, "images": [asdict(each.image) | {"kept": each.kept} for each in removed]}


def removed_text(removed: Sequence[Removed]) -> str:
    """Return what was removed for people."""
    if not removed:
        return "this program has put no image on these hosts"
    return "\n".join(
        f"{each.image.host}: {clean(each.image.ref)} " + (f"stays: {clean(each.kept)}" if each.kept else "removed")
        for each in removed
    )

"""Which way each host gets its image, decided before anything moves. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from remote.images.model import THIS_MACHINE, HostImagePlan, ImagePlan, ImageState, KnownImage
from remote.images.reference import parse_reference
from remote.inventory_model import ImageMethod

TRANSIT_FACTOR: Final = 2
"""A layer lies on the disk packed and unpacked until it is registered (measured on engine 20.10)."""
NEIGHBOUR_BYTES: Final = 64 << 20
"""Bytes below which nobody waits for a neighbour to serve an image."""


def common_layers(layers: Sequence[str], chains: Sequence[Sequence[str]]) -> int:
    """Return how many of the lowest layers are there already, in the same order."""
    best = 0
    for chain in chains:
        count = 0
        for wanted, found in zip(layers, chain, strict=False):
            if wanted != found:
                break
            count += 1
        best = max(best, count)
    return best


def make_image_plan(
    states: Sequence[ImageState],
    *,
    method: ImageMethod,
    master: str,
    others: Sequence[ImageState] = (),
    builds: Mapping[str, str] | None = None,
    build_on_each: bool = False,
) -> ImagePlan:
    """Decide for every host.

    Args:
        states: the hosts in the order of the inventory.
        method: what the inventory asks for.
        master: name of the host with rank 0, whose image is the measure where hosts differ.
        others: further machines an image can be read from, one state for each of them and image.
        builds: image → label of what the build context on this machine makes now; empty without a context.
        build_on_each: build on every host instead of once for each processor.
    """
    labels = (builds or {}) if method in ("auto", "build") else {}
    current = [state for state in (*states, *others) if not _is_stale(state, labels)]
    sources = _sources(current, master)
    return ImagePlan(
        tuple(
            _choose(
                state,
                method,
                sources,
                _builder(state, states, labels, on_each=build_on_each),
                own_build=_own_build(state, states, labels) if build_on_each else None,
            )
            for state in states
        )
    )


def _is_stale(state: ImageState, labels: Mapping[str, str]) -> bool:
    """Whether what is there was built from something else than what there is now."""
    label = labels.get(state.ref, "")
    return bool(label) and (state.image is None or state.image.build_label != label)


def _builder(state: ImageState, states: Sequence[ImageState], labels: Mapping[str, str], *, on_each: bool) -> str:
    """Return the host that builds for this one: the first of its kind; empty where there is nothing to build."""
    if state.ref not in labels:
        return ""
    if on_each:
        return state.host
    return next(
        each.host
        for each in states
        if each is state or ((each.ref, each.architecture) == (state.ref, state.architecture) and not each.problem)
    )


@dataclass(frozen=True, slots=True)
class _OwnBuild:
    """A host that builds for itself."""

    is_current: bool
    """What it has was built from what there is now."""
    warning: str


def _own_build(state: ImageState, states: Sequence[ImageState], labels: Mapping[str, str]) -> _OwnBuild | None:
    if state.ref not in labels or state.problem:
        return None
    kind = (state.ref, state.architecture)
    others = [each.host for each in states if each is not state and (each.ref, each.architecture) == kind]
    warning = (
        f"two builds rarely make the same layers, and {', '.join(others)} builds its own {state.ref} too: the check "
        'same-image then blocks the launch; build_on = "one" builds once and sends it'
    )
    is_current = state.image is not None and state.image.build_label == labels[state.ref]
    return _OwnBuild(is_current, warning if others else "")


_Key = tuple[str, str]


def _sources(states: Sequence[ImageState], master: str) -> Mapping[_Key, ImageState]:
    """Return for each (reference, architecture) the machine whose image everybody is to have.

    The master's is the measure, then this machine's, then the one most hosts agree on.
    """
    found: dict[_Key, list[ImageState]] = {}
    for state in states:
        if state.image is not None and not state.problem:
            found.setdefault((state.ref, state.image.architecture), []).append(state)

    return {key: min(among, key=functools.partial(_rank, among=among, master=master)) for key, among in found.items()}


def _rank(state: ImageState, among: Sequence[ImageState], master: str) -> tuple[bool, bool, int]:
    assert state.image is not None
    agreeing = sum(each.image is not None and each.image.layers == state.image.layers for each in among)
    return state.host != master, state.host != THIS_MACHINE, -agreeing


def _choose(
    state: ImageState,
    method: ImageMethod,
    sources: Mapping[_Key, ImageState],
    builder: str,
    *,
    own_build: _OwnBuild | None,
) -> HostImagePlan:
    if not state.uses_containers:
        return HostImagePlan(state.host, state.ref, "none", "runtime is process")
    if state.problem:
        return _impossible(state, state.problem, "see the engine check")
    wanted = state.architecture
    source = sources.get((state.ref, wanted))
    if source is None and not wanted:
        source = next((each for (ref, _), each in sources.items() if ref == state.ref), None)
    wrong = state.image is not None and bool(wanted) and state.image.architecture != wanted
    if state.image is not None and not wrong:
        reference = source.image if source is not None else None
        same = reference is not None and reference.layers == state.image.layers
        if method == "present" or same or (reference is None and not builder):
            return _present(state, "the host has it")
    replaced = _replaced(state, source, wrong=wrong)
    if own_build is not None and own_build.is_current and method == "build":
        why = "the host has its own build of what there is now"
        return replace(_present(state, why), warning=own_build.warning)
    match method:
        case "present":
            return _impossible(
                state,
                f"it is not there{replaced}, and image.method is present",
                'bring it there, or set method = "auto" under [image]',
            )
        case "registry":
            return _registry(state, f"image.method is registry{replaced}")
        case "build":
            if builder and source is not None and own_build is None:
                return _send(state, source, sources, replaced)
            return _build(state, builder, f"image.method is build{replaced}", own_build)
        case "send":
            return _send(state, source, sources, replaced)
    if source is not None and not parse_reference(state.ref).is_pinned:
        return _send(state, source, sources, replaced)
    if builder:
        return _build(state, builder, f"no host has what the build context makes{replaced}", own_build)
    if wrong and not _from_registry(state.ref):
        return _no_source(state, sources)
    why = f"no machine has it for {wanted or 'this processor'}{replaced}, so a registry is asked"
    return _registry(state, why)


def _replaced(state: ImageState, source: ImageState | None, *, wrong: bool) -> str:
    if state.image is None:
        return ""
    if wrong:
        return f" (what is there is for {state.image.architecture})"
    return f" (what is there has other layers than on {source.host})" if source else " (what is there is older)"


def _from_registry(ref: str) -> bool:
    """Whether the name says where to pull it: a registry, or somebody's repository on Docker Hub."""
    return not parse_reference(ref).is_plain


def _impossible(state: ImageState, why: str, next_step: str) -> HostImagePlan:
    return HostImagePlan(state.host, state.ref, "impossible", why, bytes_free=state.free_bytes, next_step=next_step)


def _registry(state: ImageState, why: str) -> HostImagePlan:
    return HostImagePlan(state.host, state.ref, "registry", why, bytes_free=state.free_bytes)


def _present(state: ImageState, why: str) -> HostImagePlan:
    return HostImagePlan(state.host, state.ref, "present", why, bytes_free=state.free_bytes)


def _build(state: ImageState, builder: str, why: str, own_build: _OwnBuild | None) -> HostImagePlan:
    if not builder:
        return _impossible(
            state,
            f"{why}, but there is no build context",
            'set context = "." under [image], a folder with a Dockerfile',
        )
    built = f"{why}; built on {builder}" if builder != state.host else why
    warning = own_build.warning if own_build is not None else ""
    return HostImagePlan(
        state.host, state.ref, "build", built, source=builder, bytes_free=state.free_bytes, warning=warning
    )


def _no_source(state: ImageState, sources: Mapping[_Key, ImageState]) -> HostImagePlan:
    found = sorted(f"{each.host} ({architecture})" for (ref, architecture), each in sources.items() if ref == state.ref)
    there = f"{state.ref} is only there for another processor: {', '.join(found)}" if found else "no machine has it"
    needed = f"linux/{state.architecture}" if state.architecture else "its processor"
    return _impossible(
        state,
        f"{there}; {state.host} needs {needed}",
        f"docker buildx build --platform {needed} -t {state.ref} --load . on a machine that can, "
        "or pull it from a registry, or give the host an image of its own: image = … in [[hosts]]",
    )


def _send(
    state: ImageState, source: ImageState | None, sources: Mapping[_Key, ImageState], replaced: str
) -> HostImagePlan:
    if source is None or source.image is None:
        return _no_source(state, sources)
    if parse_reference(state.ref).is_pinned:
        return _impossible(
            state,
            f"{state.ref} is pinned by digest, and only a registry can give an image its digest",
            'use method = "registry", or a tag; the layers are compared by digest in any case',
        )
    kept = common_layers(source.image.layers, state.chains)
    moved = _missing_bytes(source.image, source.layer_sizes, kept)
    needed = TRANSIT_FACTOR * moved
    if state.free_bytes and needed > state.free_bytes:
        return _impossible(
            state,
            f"it takes about {_gigabytes(needed)} of disk to arrive, and {_gigabytes(state.free_bytes)} are free",
            "free space there: docker system df, then docker image prune",
        )
    share = f"{kept} of {len(source.image.layers)} layers are there" if kept else "none of its layers are there"
    return HostImagePlan(
        state.host,
        state.ref,
        "send",
        f"{source.host} has it; {share}{replaced}",
        source=source.host,
        bytes_to_move=moved,
        bytes_needed=needed,
        bytes_free=state.free_bytes,
        wants_most=moved >= max(NEIGHBOUR_BYTES, source.image.size // 2),
    )


def _missing_bytes(image: KnownImage, sizes: Sequence[int], kept: int) -> int:
    """Return about how many bytes the layers above the first ``kept`` have, unpacked.

    The history names the bytes of each build step, and steps that add nothing may or may not be layers; where the
    two do not fit together, every layer counts the same.
    """
    filled = [size for size in sizes if size > 0]
    for steps in (sizes, filled):
        if len(steps) == len(image.layers):
            return sum(steps[kept:])
    return image.size * (len(image.layers) - kept) // max(1, len(image.layers))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def render_image_plan(plan: ImagePlan) -> str:
    """Return the plan for people, a line a host."""
    width = max(len(each.host) for each in plan.hosts)
    lines = []
    for each in plan.hosts:
        moved = "" if each.bytes_to_move is None else f" · about {each.bytes_to_move / 1e6:,.1f} MB to move"
        free = f" · {_gigabytes(each.bytes_free)} free" if each.bytes_free and each.bytes_to_move is not None else ""
        lines.append(f"{each.host:<{width}}  {each.method:<10}  {each.ref}  {each.why}{moved}{free}")
        if each.warning:
            lines.append(f"{'':<{width}}  warning: {each.warning}")
        if each.next_step:
            lines.append(f"{'':<{width}}  → {each.next_step}")
    return "\n".join(lines)

"""Chooses from the files that a release has: the archive for this machine and its companions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tray_app.engine.errors import RuntimeMissing

from .asset_names import AssetName, read_name
from .values import Asset, Hardware, Prebuilt, Release, Rung

NAMES_SHOWN = 40  # b11459 has 36
# CUDA 13 knows no GPU before Turing (CUDA 13.0 release notes: Maxwell, Pascal and Volta are
# removed from the compilers and libraries).
CUDA_13_CAPABILITY = (7, 5)
# GGML_SYCL_F16 is off unless asked for (docs/backend/SYCL.md); then as told, then half.
PRECISION_ORDER = ("fp32", "f32", "", "fp16", "f16")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An archive that could be the one, with what it needs."""

    name: AssetName
    asset: Asset
    companions: tuple[Asset, ...] = ()


def prebuilts(release: Release, hardware: Hardware, rungs: Sequence[Rung]) -> tuple[Prebuilt, ...]:
    """The best of `release` for each backend of `rungs`, in that order; usable here or not."""
    found = _candidates(release, hardware)
    result = []
    for rung in rungs:
        best = _best(found, rung.backend, hardware)
        if best is not None:
            assets = (best.asset, *best.companions)
            result.append(Prebuilt(rung.backend, best.name.variant, assets))
    return tuple(result)


def pick(
    release: Release, hardware: Hardware, rungs: Sequence[Rung], backend: str | None = None
) -> Prebuilt:
    """What of `release` is to be installed: for `backend`, or for the first usable rung.

    Raises RuntimeMissing, naming what the release has.
    """
    offered = {prebuilt.backend: prebuilt for prebuilt in prebuilts(release, hardware, rungs)}
    usable = [rung.backend for rung in rungs if rung.usable]
    for wanted in (backend,) if backend is not None else usable:
        if wanted in offered:
            return offered[wanted]
    raise _nothing(release, hardware, backend)


def latest(
    releases: Iterable[Release],
    hardware: Hardware,
    rungs: Sequence[Rung],
    backend: str | None = None,
) -> tuple[Release, Prebuilt] | None:
    """The newest release that has a build of `backend`, or of the best usable rung.

    Not the newest of all: of 40 releases before b11070 two had no files and one only some.
    """
    newest_first = sorted(releases, key=lambda release: release.build, reverse=True)
    for wanted in (backend,) if backend is not None else [r.backend for r in rungs if r.usable]:
        rung = tuple(rung for rung in rungs if rung.backend == wanted)[:1]
        for release in newest_first:
            for prebuilt in prebuilts(release, hardware, rung):
                return release, prebuilt
    return None


def _candidates(release: Release, hardware: Hardware) -> list[_Candidate]:
    """The builds for this system, those left out that lack what they cannot do without."""
    named = [(name, asset) for asset in release.assets if (name := read_name(asset.name))]
    here = [
        (name, asset)
        for name, asset in named
        if (name.system, name.arch) == (hardware.system, hardware.arch)
        and asset.sha256 is not None
        and asset.size_bytes > 0
    ]
    found = []
    for name, asset in here:
        if name.companion or not _for_these_gpus(name, hardware):
            continue
        companions = tuple(
            other
            for beside, other in here
            if beside.companion and (beside.backend, beside.version) == (name.backend, name.version)
        )[:1]
        # On Linux the libraries may be the system's: the proof shows it. Windows has none.
        if name.backend == "cuda" and name.system == "windows" and not companions:
            continue
        found.append(_Candidate(name, asset, companions))
    return _without_guesses(found)


def _without_guesses(found: list[_Candidate]) -> list[_Candidate]:
    """A name with unknown words counts only where nothing else is like it."""
    kinds = [(each.name.backend, each.name.variant) for each in found]
    return [
        each
        for each, kind in zip(found, kinds, strict=True)
        if not each.name.strange or kinds.count(kind) == 1
    ]


def _best(found: list[_Candidate], backend: str, hardware: Hardware) -> _Candidate | None:
    mine = [each for each in found if each.name.backend == backend]
    if backend == "cuda":
        mine = _for_driver(mine, hardware)
    elif backend == "rocm":
        mine = _for_rocm(mine, hardware)
    else:
        mine.sort(key=lambda each: each.name.version, reverse=True)
    # Stable sorts: what was decided above holds among equals.
    mine.sort(key=lambda each: _order(each.name.precision, PRECISION_ORDER))
    mine.sort(key=lambda each: bool(each.name.strange))
    return mine[0] if mine else None


def _for_driver(mine: list[_Candidate], hardware: Hardware) -> list[_Candidate]:
    """Those that the driver runs, the best first.

    A driver runs all that is not newer than itself. What is newer by the minor number only may
    run too, though not where a GPU needs its code compiled anew (NVIDIA, "CUDA Minor Version
    Compatibility": PTX is left out), so that is taken only when there is nothing else.
    """
    driver = _version(hardware.cuda)
    if driver is None:  # then the one that most drivers run
        return sorted(mine, key=lambda each: (not each.companions, each.name.version))
    nvidia = [gpu.compute_capability for gpu in hardware.gpus if gpu.vendor == "nvidia"]
    known = [_version(capability) for capability in nvidia]
    modern = [capability is not None and capability >= CUDA_13_CAPABILITY for capability in known]
    too_old = bool(known) and None not in known and not any(modern)

    def rank(each: _Candidate) -> tuple[bool, bool, bool, tuple[int, ...]]:
        version = each.name.version
        beyond = version[:2] > driver[:2]
        leaves_some_out = version[:1] >= (13,) and not all(modern)
        # The newest that surely runs; else the one that is the least beyond.
        nearness = version if beyond else tuple(-number for number in version)
        return leaves_some_out, not each.companions, beyond, nearness

    runs = [
        each
        for each in mine
        if each.name.version[:1] <= driver[:1] and not (each.name.version[:1] >= (13,) and too_old)
    ]
    return sorted(runs, key=rank)


def _for_rocm(mine: list[_Candidate], hardware: Hardware) -> list[_Candidate]:
    """Of the installed ROCm's major version first: the names of its libraries carry that."""
    installed = _version(hardware.rocm)

    def rank(each: _Candidate) -> tuple[int, tuple[int, ...]]:
        version = each.name.version
        newest_first = tuple(-number for number in version)
        if installed is None or version[:1] == installed[:1]:
            return 0, newest_first
        return (1, newest_first) if version[:1] < installed[:1] else (2, version)

    return sorted(mine, key=rank)


def _for_these_gpus(name: AssetName, hardware: Hardware) -> bool:
    """Whether a build for named GPUs is for one of ours; "gfx110x" stands for a family."""
    ours = {gpu.gfx_target for gpu in hardware.gpus}
    ours |= {f"sm{gpu.compute_capability}".replace(".", "") for gpu in hardware.gpus}
    patterns = [re.sub(r"(?<!f)x", "[0-9a-f]", pattern) for pattern in name.gpus]
    return not patterns or any(re.fullmatch(p, gpu) for p in patterns for gpu in ours if gpu)


def _version(text: str | None) -> tuple[int, ...] | None:
    """ "12.8" as (12, 8); None for None and for what is no version."""
    found = re.match(r"\d+(?:\.\d+)*", text or "")
    return tuple(int(number) for number in found.group().split(".")) if found else None


def _order(value: str, order: tuple[str, ...]) -> int:
    return order.index(value) if value in order else len(order)


def _nothing(release: Release, hardware: Hardware, backend: str | None) -> RuntimeMissing:
    what = f"{backend} build" if backend else "build that this machine can use"
    words = [f"Release {release.tag} has no {what} for {hardware.system} {hardware.arch}."]
    names = [asset.name for asset in release.assets]
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        words.append(f"It has {', '.join(names[:NAMES_SHOWN])}{more}.")
    else:
        words.append("It has no files (yet).")
    bare = [a.name for a in release.assets if a.sha256 is None and read_name(a.name)]
    if bare:
        words.append(f"Not offered, because the feed tells no sha256: {', '.join(bare[:10])}.")
    return RuntimeMissing(" ".join(words), "Choose another release, or build it from source.")

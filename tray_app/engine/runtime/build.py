"""Makes a llama.cpp runtime from source, proves it, and only then puts it in place.

A backend that cannot be built or does not prove itself gives way to the next one of the ladder.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from tray_app.engine.errors import (
    EngineError,
    ErrorView,
    NotEnoughDisk,
    RuntimeBuildFailed,
    RuntimeMissing,
    RuntimeRejected,
)
from tray_app.engine.home import cache_folder
from tray_app.engine.process import ChildRegistry

from . import sources, store
from .compile import all_options, collect, compile_tree
from .probe import Probe, probe
from .recipe import Recipe, Source, cache_key, host_recipe
from .reporter import Reporter, Terminal, note, tell
from .sources import Fetching, Origins, Tree, obtain_tree
from .store import SERVER, Manifest
from .toolchain import Toolchain, find_toolchain
from .values import Proof, backend_name

if TYPE_CHECKING:
    from tray_app.engine.fetch import RemoteFile

__all__ = ["Built", "Parts", "Reporter", "Skipped", "Terminal", "build_best", "obtain_runtime"]

# For a while: the unpacked source (176 MB) and the build tree. Measured on b11434: 130 MB for
# the CPU, 270 MB for Vulkan; the others are bounds for one kind of GPU.
WORK_BYTES: Mapping[str, int] = {
    "cuda": 3_000_000_000,
    "rocm": 3_000_000_000,
    "sycl": 2_000_000_000,
    "vulkan": 900_000_000,
}
DEFAULT_WORK_BYTES = 700_000_000


def light_proof(server: Path, backend: str) -> Proof:
    """That it starts, says its version and offers what we use; no model is loaded.

    For scripts, which have no proof model at hand. Blocks for about 0.1 s; never raises for a
    bad runtime.
    """
    try:
        result = probe(server)
    except EngineError as exc:
        return Proof(ok=False, proved_at=time.time(), error=exc.view())
    if result.lacking:
        words = f"It does not know {', '.join(result.lacking)}."
        error = RuntimeRejected(words, "Choose a newer build.").view()
        return Proof(ok=False, proved_at=time.time(), devices=result.devices, error=error)
    return Proof(ok=True, proved_at=time.time(), devices=result.devices)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a build gets from outside; tests give their own."""

    toolchain: Callable[[Recipe], Toolchain] = lambda recipe: find_toolchain(
        recipe.backend, recipe.wanted
    )
    locate: Callable[[Source], RemoteFile] = sources.locate
    release_url: str | None = sources.RELEASE_URL  # None: not tried
    git_url: str | None = sources.GIT_URL
    prove: Callable[[Path, str], Proof] = light_proof  # the server and its backend
    registry: ChildRegistry | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A backend that was wanted more and could not be had."""

    backend: str
    error: ErrorView


@dataclass(frozen=True, slots=True)
class Built:
    """What came of going down the ladder."""

    folder: Path
    backend: str
    skipped: tuple[Skipped, ...] = ()


def build_best(
    backends: Sequence[str],
    recipe_of: Callable[[str], Recipe],
    runtimes: Path,
    cache: Path,
    reporter: Reporter,
    parts: Parts | None = None,
) -> Built:
    """The first of `backends` that can be built here and proves itself.

    What is passed over is told as a step and in the log. Blocks as `obtain_runtime`. Raises
    RuntimeBuildFailed with every reason when none can be had; what would fail for all of them
    ends it at once: DownloadFailed, NotEnoughDisk, OSError, Cancelled.
    """
    skipped: list[Skipped] = []
    for place, backend in enumerate(backends):
        reporter.check()
        name = backend_name(backend)
        tell(reporter, f"Building for {name}")
        try:
            folder = obtain_runtime(recipe_of(backend), runtimes, cache, reporter, parts)
            return Built(folder, backend, tuple(skipped))
        except (RuntimeBuildFailed, RuntimeRejected, RuntimeMissing) as exc:
            skipped.append(Skipped(backend, exc.view()))
            last = place == len(backends) - 1
            then = "" if last else f" Next is {backend_name(backends[place + 1])}."
            tell(reporter, f"{name} is passed over: {exc.message}{then}")
    if len(skipped) == 1:
        error = skipped[0].error
        raise RuntimeBuildFailed(error.message, error.remedy)
    reasons = " ".join(f"{backend_name(s.backend)}: {s.error.message}" for s in skipped)
    raise RuntimeBuildFailed(
        f"llama.cpp can be built for none of {len(skipped)} backends. {reasons}",
        skipped[-1].error.remedy if skipped else "Choose a backend.",
    )


def obtain_runtime(
    recipe: Recipe, runtimes: Path, cache: Path, reporter: Reporter, parts: Parts | None = None
) -> Path:
    """The folder `runtimes`/<id>, restored from `cache` or built and kept there too.

    Blocks: a second and the proof from the cache, 4 to 10 minutes on 2 cores otherwise, far
    longer for CUDA. A cancel ends the whole process tree and leaves nothing. Raises
    RuntimeBuildFailed, RuntimeRejected, DownloadFailed, NotEnoughDisk, Cancelled, OSError.
    """
    parts = parts or Parts()
    target = runtimes / recipe.runtime_id
    key = cache_key(recipe)
    store.clear_staging(runtimes)
    reporter.progress(0, None, "steps", "Looking in the cache")
    if restore(cache / "runtimes" / key, target, key, recipe, parts):
        return target
    manifest = build_runtime(recipe, target, cache, reporter, parts)
    cached = cache / "runtimes" / manifest.key
    try:
        store.copy_in_place(target, cached)
    except OSError:  # the cache is a convenience: a full or read-only one is no failure
        shutil.rmtree(cached, ignore_errors=True)
    return target


def ensure_runtime(cache: Path, reporter: Reporter, recipe: Recipe | None = None) -> Path:
    """The verified `llama-server` inside `cache`, built there from the pinned source if missing.

    For tests and scripts; two processes at once take turns. Blocks and raises as
    `obtain_runtime`.
    """
    recipe = recipe or host_recipe()
    key = cache_key(recipe)
    folder = cache / "runtimes" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(".lock")):
        store.clear_staging(folder.parent)
        if store.verified(folder, key) is None:
            parts = Parts(release_url=None, git_url=None)
            build_runtime(recipe, folder, cache, reporter, parts)
    return folder / SERVER


def restore(cached: Path, target: Path, key: str, recipe: Recipe, parts: Parts) -> bool:
    """Copy a verified and working runtime from the cache; False when there is none."""
    if store.verified(cached, key) is None:
        return False
    try:
        prove(cached, recipe, parts)
        store.copy_in_place(cached, target)
    except (EngineError, OSError):  # never relied on: then it is built
        return False
    return store.verified(target, key) is not None


def build_runtime(
    recipe: Recipe, target: Path, cache: Path, reporter: Reporter, parts: Parts
) -> Manifest:
    """Fetch, unpack, configure, compile, prove, seal, rename to `target`. As `obtain_runtime`."""
    toolchain = parts.toolchain(recipe)
    work = store.new_staging(target.parent)
    try:
        _check_disk(work, recipe.backend)
        origins = Origins(parts.locate, parts.release_url, parts.git_url)
        fetching = Fetching(work, cache, reporter, origins, parts.registry)
        tree = obtain_tree(recipe.source, fetching)
        build = work / "build"
        made = compile_tree(recipe, toolchain, tree.folder, build, reporter, parts.registry)
        staged = collect(made, build / "bin", tree.folder, work / "runtime")
        reporter.check()
        reporter.progress(0, None, "steps", "Proving")
        result = prove(staged, recipe, parts)
        reporter.check()
        manifest = store.seal(
            staged,
            runtime_id=recipe.runtime_id,
            build=result.build,
            backend=recipe.backend,
            # Of a source that was pinned and came from elsewhere nothing more is claimed.
            key=cache_key(dataclasses.replace(recipe, source=tree.source)),
            version_text=result.version_text,
            made_from=_provenance(recipe, toolchain, tree),
        )
        note(reporter, f"made from {manifest.made_from}")
        store.put_in_place(staged, target)
        return manifest
    finally:
        shutil.rmtree(work, ignore_errors=True)


def prove(folder: Path, recipe: Recipe, parts: Parts) -> Probe:
    """Run what was made. Raises RuntimeBuildFailed unless it is that build and complete, and
    RuntimeRejected when it does not prove itself."""
    try:
        result = probe(folder / SERVER)
    except EngineError as exc:
        raise RuntimeBuildFailed(
            f"The new llama-server does not run: {exc.message}", "The job's log has the details."
        ) from exc
    if result.build != recipe.source.build or result.lacking:
        lacking = f" and lacks {', '.join(result.lacking)}" if result.lacking else ""
        raise RuntimeBuildFailed(
            f"The new llama-server says it is build {result.build}, not"
            f" {recipe.source.build}{lacking}."
            if result.build != recipe.source.build
            else f"Build {result.build} of llama.cpp lacks {', '.join(result.lacking)}.",
            "Choose a newer build." if result.lacking else "Please report it.",
        )
    proof = parts.prove(folder / SERVER, recipe.backend)
    if not proof.ok:
        error = proof.error or ErrorView("", "The new llama-server did not prove itself.")
        raise RuntimeRejected(error.message, error.remedy)
    return result


def _provenance(recipe: Recipe, toolchain: Toolchain, tree: Tree) -> str:
    options = " ".join(all_options(recipe, toolchain)[1:])  # without the make program's path
    return f"{tree.made_from}; {toolchain.words}; cmake options {options}"


def _check_disk(folder: Path, backend: str) -> None:
    needed = WORK_BYTES.get(backend, DEFAULT_WORK_BYTES)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NotEnoughDisk(
            f"Building llama.cpp needs {needed / 1e6:.0f} MB for a while;"
            f" {free / 1e6:.0f} MB are free.",
            f"Free some space on the disk of {folder.parent}, then retry.",
        )


def main() -> int:
    """Have a runtime in the cache; print the path of its llama-server."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        path = ensure_runtime(cache, Terminal(cache / "build.log"))
    except EngineError as exc:
        sys.stderr.write(f"{exc.message}\n{exc.remedy}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

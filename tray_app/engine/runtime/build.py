"""Makes a llama.cpp runtime from its pinned source, proves it, and only then puts it in place."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import filelock

from tray_app.engine import memory
from tray_app.engine.checksum import file_sha256
from tray_app.engine.errors import EngineError, NotEnoughDisk, RuntimeBuildFailed
from tray_app.engine.home import cache_folder
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec, exit_text

from . import store
from .archive import unpack
from .probe import Probe, probe
from .recipe import Recipe, Source, cache_key, host_recipe
from .store import SERVER, Manifest
from .toolchain import Toolchain, find_toolchain

if TYPE_CHECKING:
    from tray_app.engine.fetch import RemoteFile

WORK_BYTES = 700_000_000  # unpacked source 176 MB, build tree 130 MB, and room
JOB_BYTES = 1_000_000_000  # a compiler of the largest files takes 0.7 GB
POLL_S = 0.2  # how soon a cancel is seen
MAX_FAULTS = 20

_COUNT = re.compile(r"^\[\s*(\d+)/(\d+)\]")  # ninja, by NINJA_STATUS
_PERCENT = re.compile(r"^\[\s*(\d+)%\]")  # make
_FAULT = re.compile(r"(?:\berror:|CMake Error|\bfatal:|No space left)", re.IGNORECASE)


class Reporter(Protocol):
    """Who follows a build: a JobContext, or a terminal."""

    cancel: threading.Event
    log_path: Path | None

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None: ...

    def check(self) -> None: ...


def _locate(source: Source) -> RemoteFile:
    from tray_app.engine.package_index import (
        find_distribution,  # 2.4 MB that an idle engine does not need
    )

    return find_distribution(
        source.project, source.filename, source.sha256, size_bytes=source.size_bytes
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """What a build gets from outside; tests give their own."""

    toolchain: Callable[[], Toolchain] = find_toolchain
    locate: Callable[[Source], RemoteFile] = _locate
    prove: Callable[[Path], Probe] = probe
    registry: ChildRegistry | None = None


def obtain_runtime(
    recipe: Recipe, runtimes: Path, cache: Path, reporter: Reporter, parts: Parts | None = None
) -> Path:
    """The folder `runtimes`/<id>, restored from `cache` or built and kept there too.

    Blocks: a second from the cache, 4 to 10 minutes on 2 cores otherwise. A cancel ends the
    whole process tree and leaves nothing. Raises RuntimeBuildFailed, DownloadFailed,
    NotEnoughDisk, Cancelled, OSError.
    """
    parts = parts or Parts()
    target = runtimes / recipe.runtime_id
    key = cache_key(recipe)
    cached = cache / "runtimes" / key
    store.clear_staging(runtimes)
    reporter.progress(0, None, "steps", "Looking in the cache")
    if restore(cached, target, key, recipe, parts):
        return target
    build_runtime(recipe, target, cache, reporter, parts)
    try:
        store.copy_in_place(target, cached)
    except OSError:  # the cache is a convenience: a full or read-only one is no failure
        shutil.rmtree(cached, ignore_errors=True)
    return target


def ensure_runtime(cache: Path, reporter: Reporter, recipe: Recipe | None = None) -> Path:
    """The verified `llama-server` inside `cache`, built there when missing.

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
            build_runtime(recipe, folder, cache, reporter, Parts())
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
    toolchain = parts.toolchain()
    work = store.new_staging(target.parent)
    try:
        _check_disk(work)
        archive = fetch_source(recipe.source, cache, reporter, parts)
        reporter.progress(0, None, "steps", "Unpacking")
        unpack(archive, work / "source", reporter.check)
        tree = work / "source" / recipe.source.root
        compile_tree(recipe, toolchain, tree, work / "build", reporter, parts.registry)
        staged = collect(recipe, work / "build" / "bin", tree, work / "runtime")
        reporter.check()
        proof = prove(staged, recipe, parts)
        manifest = store.seal(
            staged,
            runtime_id=recipe.runtime_id,
            build=proof.build,
            backend=recipe.backend,
            key=cache_key(recipe),
            version_text=proof.version_text,
        )
        store.put_in_place(staged, target)
        return manifest
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch_source(source: Source, cache: Path, reporter: Reporter, parts: Parts) -> Path:
    """The source archive, in the cache under its hash. Raises DownloadFailed."""
    from tray_app.engine.fetch import fetch_file  # urllib and its kin: only for a build

    archive = cache / "sources" / source.sha256 / source.filename
    if archive.is_file() and file_sha256(archive) == source.sha256:
        return archive
    reporter.progress(0, source.size_bytes, "bytes", "Downloading the source")
    return fetch_file(
        parts.locate(source),
        archive,
        progress=lambda done, total: reporter.progress(done, total, "bytes"),
        cancel=reporter.cancel,
    )


def compile_tree(
    recipe: Recipe,
    toolchain: Toolchain,
    tree: Path,
    build: Path,
    reporter: Reporter,
    registry: ChildRegistry | None = None,
) -> None:
    """Configure and compile, with progress by the build tool's own count."""
    env = {
        "NINJA_STATUS": "[%f/%t] ",
        # A folder above may be a repository of the user's: its commit is not ours.
        "GIT_CEILING_DIRECTORIES": str(tree.parent),
        # Each build has its own folder; relative paths let ccache know the files again.
        "CCACHE_BASEDIR": str(build.parent),
    }
    nice = (toolchain.nice, "-n", "10") if toolchain.nice else ()
    configure = (toolchain.cmake, "-S", str(tree), "-B", str(build), "-G", toolchain.generator)
    program = f"-DCMAKE_MAKE_PROGRAM={toolchain.make_program}"
    reporter.progress(0, None, "steps", "Configuring")
    step = _Step(env, reporter, registry, marker=str(build))
    step.run((*nice, *configure, program, *recipe.options), lambda line: None)

    def follow(line: str) -> None:
        count = read_count(line)
        if count is not None:
            reporter.progress(count[0], count[1], "steps")

    reporter.progress(0, None, "steps", "Compiling")
    make = (toolchain.cmake, "--build", str(build), "--target", *recipe.targets)
    step.run((*nice, *make, "-j", str(parallel_jobs())), follow)


def read_count(line: str) -> tuple[int, int] | None:
    """(done, total) from a line of ninja ("[12/224] Building ...") or make ("[ 12%] ...")."""
    if found := _COUNT.match(line):
        return int(found[1]), int(found[2])
    if found := _PERCENT.match(line):
        return int(found[1]), 100
    return None


def parallel_jobs() -> int:
    """How many compilers at once: one a core, and one for each GB of free memory."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores we may use
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, memory.total_and_available()[1] // JOB_BYTES))


def collect(recipe: Recipe, binaries: Path, tree: Path, staged: Path) -> Path:
    """Copy programs, libraries and the licence into the new folder `staged`."""
    staged.mkdir()
    suffix = ".exe" if os.name == "nt" else ""
    for target in recipe.targets:
        if not (binaries / f"{target}{suffix}").is_file():
            raise RuntimeBuildFailed(
                f"The build ended well but made no {target}.", "The job's log has the details."
            )
    for path in sorted(binaries.iterdir()):
        library = re.search(r"\.(so|dylib|dll|metal)$", path.name)
        if library or path.name.removesuffix(suffix) in recipe.targets:
            shutil.copy2(path, staged / path.name)
    if (tree / "LICENSE").is_file():
        shutil.copy2(tree / "LICENSE", staged / "LICENSE")
    return staged


def prove(folder: Path, recipe: Recipe, parts: Parts) -> Probe:
    """Run what was made. Raises RuntimeBuildFailed unless it is that build and complete."""
    try:
        result = parts.prove(folder / SERVER)
    except EngineError as exc:
        raise RuntimeBuildFailed(
            f"The new llama-server does not run: {exc.message}", "The job's log has the details."
        ) from exc
    if result.build != recipe.source.build or result.lacking:
        lacking = f" and lacks {', '.join(result.lacking)}" if result.lacking else ""
        raise RuntimeBuildFailed(
            f"The new llama-server says it is build {result.build}, not"
            f" {recipe.source.build}{lacking}.",
            "Please report it.",
        )
    return result


@dataclass(frozen=True, slots=True)
class _Step:
    """How the programs of one build are run."""

    env: Mapping[str, str]
    reporter: Reporter
    registry: ChildRegistry | None
    marker: str

    def run(self, argv: tuple[str, ...], follow: Callable[[str], None]) -> None:
        """Run one program to its end, logged. Raises as `build_runtime`."""
        faults: list[str] = []

        def read(line: str) -> None:
            follow(line)
            if _FAULT.search(line) and len(faults) < MAX_FAULTS:
                faults.append(line.strip()[:300])

        spec = LaunchSpec(argv, env=self.env, log_path=self.reporter.log_path)
        with ChildProcess(
            spec, on_line=read, registry=self.registry, kind="build", marker=self.marker
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                self.reporter.check()
        if status != 0:
            raise _failure(status, faults)


def _failure(status: int, faults: list[str]) -> EngineError:
    if any("No space left" in fault for fault in faults):
        return NotEnoughDisk("The disk filled up during the build.", "Free some space, then retry.")
    # A compiler that the system ended shows in the words of the compiler driver.
    killed = status == -9 or any("Killed" in fault for fault in faults)
    return RuntimeBuildFailed(
        f"Building llama.cpp failed ({faults[0] if faults else exit_text(status)}).",
        "Memory ran out: close other programs, then retry."
        if killed
        else "The job's log has the details.",
    )


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < WORK_BYTES:
        raise NotEnoughDisk(
            f"Building llama.cpp needs {WORK_BYTES / 1e6:.0f} MB for a while;"
            f" {free / 1e6:.0f} MB are free.",
            f"Free some space on the disk of {folder.parent}, then retry.",
        )


class Terminal:
    """A build followed on a terminal: one line for each step, and each tenth of the way."""

    def __init__(self, log_path: Path | None) -> None:
        self.cancel = threading.Event()
        self.log_path = log_path
        self._step = ""
        self._tenth = -1

    def check(self) -> None:
        """Ctrl-C raises KeyboardInterrupt by itself."""

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        if step is not None and step != self._step:
            self._step, self._tenth = step, -1
            sys.stderr.write(f"    {step}\n")
        tenth = done * 10 // total if total else -1
        if tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(f"    {step or self._step}: {done:,} of {total:,} {unit}\n")


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
